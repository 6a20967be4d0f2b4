"""Whitespace for routability: rows of tiles kept free of logic, as nextpnr's placers pack a design too densely to be routed.

Unconnected LUTs, locked to their sites, reserve them. Entire rows are reserved, as carry chains run along rows through many tiles.
"""

from __future__ import annotations

from typing import Any

from .grid import Grid

__all__ = ["MIDDLE", "OUTER", "INNER", "reserve"]

INNER, OUTER = 2, 6
"""One row in this many is reserved, in the middle of the part and outside it: most wires cross the middle."""
MIDDLE = (0.18, 0.75)
"""Where the middle begins and ends, as a share of the columns and of the rows."""

_LUTS = tuple(f"SLICE{slice}.K{half}" for slice in "ABCD" for half in (0, 1))


def reserve(module: dict[str, Any], grid: Grid) -> int:
    """Adds locked LUTs to the flat `module` of a Yosys netlist; returns how many."""
    rows = grid.rows
    inner = [_between(position, len(rows)) for position in range(len(rows))]
    count = 0
    for position, y in enumerate(rows):
        for column, x in enumerate(grid.columns):
            middle = inner[position] and _between(column, len(grid.columns))
            if position % (INNER if middle else OUTER) != 1:
                continue
            for lut in _LUTS:
                bel = f"X{x}/Y{y}/{lut}"
                module["cells"][f"reserved_{bel}"] = {
                    "hide_name": 0,
                    "type": "LUT4",
                    "parameters": {"INIT": "0" * 16},
                    "attributes": {"BEL": bel},
                    "port_directions": {},
                    "connections": {},
                }
                count += 1
    return count


def _between(position: int, count: int) -> bool:
    return MIDDLE[0] <= position / count <= MIDDLE[1]
