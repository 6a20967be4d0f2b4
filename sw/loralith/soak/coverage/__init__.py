"""Which lines of the emitted Verilog the random lists execute, and which bits they toggle; `loralith report coverage` prints it.

- `points`: what Verilator counts, by block.
- `covered_device`: the RTL as a device that counts.
- `runs`: random lists and products on it, kept in a file and gone on from.
- `waivers`: points that nothing can reach, each with its reason (verif/coverage.toml).
"""
