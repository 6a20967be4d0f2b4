"""The cocotb test bench: the emitted Verilog at its bus pins.

`runner` builds and starts a simulation from outside; `testbench`, `memory` and `pins` are what runs inside it; `program` is
what both exchange.
"""
