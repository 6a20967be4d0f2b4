# Read by constraints/vivado/project.tcl.
set part xczu3eg-sfvc784-2-e
set board_part ""
set clock_mhz 150
set xdc timing.xdc
