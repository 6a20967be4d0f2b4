# The block design's pl_clk0 brings its own clock constraint, and no port of the accelerator leaves the chip: there are no pins to place.
# The reset comes from proc_sys_reset, synchronous to aclk; its asynchronous input needs no timing.
set_false_path -to [get_pins -quiet -hierarchical -filter {NAME =~ */reset/*/EXT_LPF/*/D}]
