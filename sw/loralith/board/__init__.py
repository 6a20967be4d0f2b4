"""A board's parts in simulation: the memory controller and its chip under Verilator, and the bus traffic that they are measured with."""
