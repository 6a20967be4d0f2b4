"""From products to command lists: layouts in DRAM, tiling, tokens, and the proof that a list is legal.

- `command_list`: the list itself; `disasm`: its text, both ways.
- `layout`: matrices in DRAM; `regions`: space in the on-chip memories.
- `emit`: commands from layouts and regions; `sync`: the tokens that order them.
- `rules`, `checker`: what makes a command and a list legal.
- `matmul`: INT8 products of any shape.

Neither torch nor amaranth is imported here: this part runs on a board.
"""
