"""Passes over an ECP5 netlist around nextpnr: they prepare it for placement, improve a placement, and rip up late nets of a routed one.

Nothing here runs a tool or knows the design. Every pass changes the flat `module` of a netlist in place: one entry of "modules" in the JSON
that Yosys's `write_json` or nextpnr's `--write` made. docs/placement.md has the passes' order, their files and their limits.

- Before placement, on Yosys's netlist: `register_packing.absorb`, `carry.absorb`, `fanout.split`, `whitespace.reserve`.
- Between two placements: `macros.assign` and `macros.lock`, `fanout.regroup`: they read a placement and
  change the netlist of the next one.
- After placement: `relocate.relocate`, with the `Delays` of nextpnr's SDF; `legality.problems` checks the result.
- After routing: `reroute.rip_up`, with the routed `Delays`.
- Timing: `timing.read_sdf` and `timing.Timing`; `wire_delays.fit_line` compares routed with estimated wire delays; `names.designer` undoes
  what the tools add to names.

`Grid` says where the part has LUTs. Whatever cannot be done is a `PlacementError`.
"""

from pathlib import Path
from types import ModuleType

from .grid import Grid
from .placement_error import PlacementError

__all__ = ["Grid", "PlacementError", "source_text"]


def source_text(*modules: ModuleType) -> str:
    """The text of passes: part of the key under which a flow keeps what they made."""
    return "".join(Path(str(module.__file__)).read_text(encoding="utf-8") for module in modules)
