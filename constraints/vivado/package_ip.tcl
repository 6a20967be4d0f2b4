# Packages the emitted Verilog as an IP core that a block design can take.
#
#   vivado -mode batch -source constraints/vivado/package_ip.tcl -tclargs PART VERILOG FOLDER
#
# PART: Vivado's name of the device. VERILOG: from `loralith gen verilog`. FOLDER: the core's repository, made anew.

proc package_ip {part verilog folder} {
    file mkdir $folder
    create_project -force -part $part package [file join $folder project]
    add_files -norecurse $verilog
    set_property top loralith [current_fileset]
    update_compile_order -fileset sources_1
    ipx::package_project -root_dir [file join $folder core] -vendor loralith -library accelerator -taxonomy /UserIP \
        -import_files -force
    set core [ipx::current_core]
    set_property name loralith $core
    set_property display_name "loralith INT8 LoRA training accelerator" $core
    # The port names m_axi_gmem_*, s_axi_control_*, aclk, aresetn and irq are those that Vivado infers interfaces from.
    ipx::infer_bus_interface aclk xilinx.com:signal:clock_rtl:1.0 $core
    ipx::infer_bus_interface aresetn xilinx.com:signal:reset_rtl:1.0 $core
    ipx::infer_bus_interface irq xilinx.com:signal:interrupt_rtl:1.0 $core
    foreach bus {m_axi_gmem s_axi_control} {
        ipx::associate_bus_interfaces -busif $bus -clock aclk $core
    }
    ipx::create_xgui_files $core
    ipx::update_checksums $core
    ipx::check_integrity $core
    ipx::save_core $core
    close_project
}

if {[info exists argv] && [llength $argv] == 3} {
    package_ip {*}$argv
} elseif {[info exists argv] && [llength $argv] != 0} {
    error "package_ip.tcl takes PART VERILOG FOLDER, not [llength $argv] words"
}
