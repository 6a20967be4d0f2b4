"""A board in simulation, and the tests of a real one.

- `simulation`: the whole system to its pins under Verilator. `sdram`, `memory_bench`, `traffic`: its memory controller, measured.
- `bring_up`, `memory_test`, `raw_link`: `loralith bring-up`. `loader`: openFPGALoader, for `loralith flash`.

A new board is no module here, but a folder of `constraints/` (docs/architecture.md, "Where a change goes").
"""
