"""From products to command lists: layouts in DRAM, tiling, tokens, and the proof that a list is legal.

By role, each folder importing those before it:

- `lists`: what a list is; its text, both ways; lists that run wherever their operands lie.
- `storage`: matrices in DRAM, and space in the on-chip memories.
- `tokens`: what a command touches, what must wait for what, and which loads go ahead.
- `schedules`: products, passes of a layer and whole steps as commands.
- `proof`: what makes a command and a list legal, read anew from finished descriptors; it imports `lists` and the stages of `tokens` alone.
- `cycles`: the cycle model of a list.

Neither torch nor amaranth is imported here: this part runs on a board.
"""
