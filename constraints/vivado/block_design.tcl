# The block design: processing system, accelerator, and what joins them. The accelerator's cell is `loralith`, the name by which
# `loralith.device.pynq` finds it in the .hwh.

proc block_design {name clock_mhz bus_bits preset} {
    create_bd_design $name
    set ps [create_bd_cell -type ip -vlnv xilinx.com:ip:zynq_ultra_ps_e ps]
    if {$preset} {
        apply_bd_automation -rule xilinx.com:bd_rule:zynq_ultra_ps_e -config {apply_board_preset 1} $ps
    }
    # One general-purpose master for the registers, one high-performance slave for DRAM, one clock, one interrupt.
    set_property -dict [list \
        CONFIG.PSU__USE__M_AXI_GP0 1 CONFIG.PSU__USE__M_AXI_GP1 0 CONFIG.PSU__USE__M_AXI_GP2 0 \
        CONFIG.PSU__USE__S_AXI_GP2 1 CONFIG.PSU__SAXIGP2__DATA_WIDTH [expr {$bus_bits > 128 ? 128 : $bus_bits}] \
        CONFIG.PSU__USE__IRQ0 1 CONFIG.PSU__FPGA_PL0_ENABLE 1 CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ $clock_mhz] $ps
    set core [create_bd_cell -type ip -vlnv loralith:accelerator:loralith loralith]
    set reset [create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset]
    set registers [create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect registers]
    set memory [create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect memory]
    foreach connect [list $registers $memory] {
        set_property -dict {CONFIG.NUM_SI 1 CONFIG.NUM_MI 1} $connect
    }

    connect_bd_net [get_bd_pins ps/pl_clk0] [get_bd_pins loralith/aclk] [get_bd_pins reset/slowest_sync_clk] \
        [get_bd_pins registers/aclk] [get_bd_pins memory/aclk] [get_bd_pins ps/maxihpm0_fpd_aclk] [get_bd_pins ps/saxihp0_fpd_aclk]
    connect_bd_net [get_bd_pins ps/pl_resetn0] [get_bd_pins reset/ext_reset_in]
    connect_bd_net [get_bd_pins reset/peripheral_aresetn] [get_bd_pins loralith/aresetn] \
        [get_bd_pins registers/aresetn] [get_bd_pins memory/aresetn]
    connect_bd_intf_net [get_bd_intf_pins ps/M_AXI_HPM0_FPD] [get_bd_intf_pins registers/S00_AXI]
    connect_bd_intf_net [get_bd_intf_pins registers/M00_AXI] [get_bd_intf_pins loralith/s_axi_control]
    connect_bd_intf_net [get_bd_intf_pins loralith/m_axi_gmem] [get_bd_intf_pins memory/S00_AXI]
    connect_bd_intf_net [get_bd_intf_pins memory/M00_AXI] [get_bd_intf_pins ps/S_AXI_HP0_FPD]
    connect_bd_net [get_bd_pins loralith/irq] [get_bd_pins ps/pl_ps_irq0]

    assign_bd_address -offset 0xA0000000 -range 64K [get_bd_addr_segs loralith/s_axi_control/*]
    assign_bd_address
    validate_bd_design
    save_bd_design
}
