# Builds a bitfile and the .hwh beside it, for `loralith.open_device("pynq:<name>.bit")`.
#
#   vivado -mode batch -source constraints/vivado/project.tcl -tclargs BOARD_TCL VERILOG FOLDER NAME BUS_BITS
#
# BOARD_TCL: constraints/<board>/board.tcl, which sets `part`, `board_part`, `clock_mhz`, `xdc` and may be without `board_part`.
# BUS_BITS: 8 * bus_bytes of the configuration. FOLDER gets NAME.bit and NAME.hwh.

set here [file dirname [file normalize [info script]]]
source [file join $here block_design.tcl]

proc build {board_tcl verilog folder name bus_bits} {
    global here
    set board_folder [file dirname [file normalize $board_tcl]]
    source $board_tcl
    set argv_packaging [list $part [file normalize $verilog] [file join $folder ip]]
    package_ip {*}$argv_packaging

    create_project -force -part $part $name [file join $folder project]
    if {$board_part ne ""} {
        # Presets of the processing system, DRAM timing among them, come with the board's files.
        if {[llength [get_board_parts -quiet $board_part]] == 0} {
            error "Vivado has no board files for $board_part: install them (Tools > XHub Stores > Boards) or clear board_part in $board_tcl"
        }
        set_property board_part $board_part [current_project]
    }
    set_property ip_repo_paths [file join $folder ip] [current_project]
    update_ip_catalog
    block_design $name $clock_mhz $bus_bits [expr {$board_part ne ""}]
    set design [get_files $name.bd]
    make_wrapper -files $design -top -import
    set_property top ${name}_wrapper [current_fileset]
    add_files -fileset constrs_1 -norecurse [file join $board_folder $xdc]

    launch_runs impl_1 -to_step write_bitstream -jobs 4
    wait_on_run impl_1
    if {[get_property PROGRESS [get_runs impl_1]] ne "100%"} {
        error "implementation stopped: see [get_property DIRECTORY [get_runs impl_1]]/runme.log"
    }
    open_run impl_1
    report_utilization -hierarchical -file [file join $folder utilization.txt]
    report_timing_summary -file [file join $folder timing.txt]
    set slack [get_property SLACK [get_timing_paths]]
    file copy -force [file join [get_property DIRECTORY [get_runs impl_1]] ${name}_wrapper.bit] [file join $folder $name.bit]
    # PYNQ wants the hardware description beside the bitfile, under the same name.
    set description [lindex [glob -directory [file join $folder project] $name.gen/sources_1/bd/$name/hw_handoff/$name.hwh] 0]
    file copy -force $description [file join $folder $name.hwh]
    puts "slack $slack ns at $clock_mhz MHz; [file join $folder $name.bit]"
    if {$slack < 0} {
        error "the clock of $clock_mhz MHz is missed by [expr {-$slack}] ns: lower clock_mhz in $board_tcl"
    }
}

if {[info exists argv] && [llength $argv] == 5} {
    set words $argv
    set argv {}
    source [file join $here package_ip.tcl]
    build {*}$words
} else {
    error "project.tcl takes BOARD_TCL VERILOG FOLDER NAME BUS_BITS"
}
