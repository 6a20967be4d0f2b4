"""The machine in numpy, as docs/machine.md defines it; `device.reference` puts it together.

- `command_checks`: descriptors to fields, and the checks before a command runs.
- `onchip`: the on-chip memories. `units`: LOAD, COMPUTE and STORE on them. `axi_bursts`: bursts and beats of a transfer.
"""
