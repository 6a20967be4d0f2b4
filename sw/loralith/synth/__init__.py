"""From a configuration to figures of an FPGA: emit, synthesize (Yosys), place and route (nextpnr), report.

- `load_board(name)`: a board of `constraints/`.
- `Target(board, config, part, ...)`: what to build; `synthesize(target)` gives a `Netlist`, `route(target, netlist, seed)` a `Routing`,
  `place(target, netlist, seed)` a `Placement` in minutes.
- `bitstream(target, routing)`: of the part `soc`, the file for the board; `shell_bitstream`: of the part `soc-shell`.
- `netlist_source(target)`: the synthesized netlist as Verilog that a simulator takes.
- `summary(target, netlist, routings)`: the figures as one JSON-ready object; `markdown(summary)`: the same as a page.

Every step's result is kept in `build/synth/` under a hash of its inputs, and reused. A failure is a `SynthError`, or the `PlacementError`
of `loralith.placement`, whose passes this flow runs; the message has the figures and the next step. Finished steps are kept.
"""

from .board import Board, boards, load_board
from .design_report import best_placement, markdown, summary
from .flow import FLOWS
from .netlist import Netlist, synthesize
from .netlist_simulation import netlist_source
from .packing import Bitstream, bitstream, shell_bitstream
from .placer import Placement, place
from .routing import Routing, route
from .synth_error import SynthError
from .target import PARTS, Target, part_target

__all__ = [
    "FLOWS",
    "PARTS",
    "Bitstream",
    "Board",
    "Netlist",
    "Placement",
    "Routing",
    "SynthError",
    "Target",
    "best_placement",
    "bitstream",
    "boards",
    "load_board",
    "markdown",
    "netlist_source",
    "part_target",
    "place",
    "route",
    "shell_bitstream",
    "summary",
    "synthesize",
]
