# Read by constraints/vivado/project.tcl.
set part xck26-sfvc784-2LV-c
set board_part "xilinx.com:kv260_som:part0:1.4"
set clock_mhz 200
set xdc timing.xdc
