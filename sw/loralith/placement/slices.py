"""Slice occupancy of a placed netlist: where LUTs and flip-flops are, and which slices can take them.

A tile of an ECP5 has four slices, each with two LUTs (K0, K1) and a flip-flop behind each (FF0, FF1). Flip-flops of a slice share a control
set (clock, enable, reset); a tile has two clocks and two resets.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .grid import Grid

__all__ = ["Location", "Slices", "Unit"]

_SLICES = "ABCD"
_PLACE = re.compile(r"X(\d+)/Y(\d+)/(.*)")
_SLOT = re.compile(r"SLICE([ABCD])\.(K0|K1|FF0|FF1|RAMW)")
_FIXED_MODES = ("CCU2", "DPRAM", "RAMW_BLOCK")
"""Modes of LUTs of carry chains and distributed RAM: they are not moved."""
_SLICE_CONTROL = ("CLK", "CE", "LSR"), ("CLKMUX", "CEMUX", "LSRMUX", "SRMODE", "GSR")
"""Ports and modes that make up the control set of a slice's flip-flops."""
_TILE_CONTROL = ("CLK", "LSR"), ("CLKMUX", "LSRMUX", "SRMODE")
_MEMORY_CONTROL = ("WCK", "WRE"), ("WCKMUX", "WREMUX")
"""The same of a tile's flip-flops and memories. A tile can have two clocks and two resets; here, more strictly, two pairs of both."""
_NONE = -1
"""No control set yet."""

LUT, FLIP_FLOP, PAIR, MUX = "lut", "flip-flop", "lut with its flip-flop", "two luts and a multiplexer"


@dataclass
class Unit:
    """Cells that move together, by slot of their slice, and their pins in topological order.

    `leaves_chain`: a flip-flop whose input DI is driven by a carry chain's LUT in its slice. The LUT stays, so that the flip-flop takes its
    data at M once it has moved.
    """

    kind: str
    cells: dict[str, str]
    leaves_chain: bool = False
    pins: list[int] = field(default_factory=list)


Location = tuple[int, int, str, dict[str, str], bool]
"""Of a unit: x, y, slice, its cells by slot, and `leaves_chain`."""


class Slices:
    """The slices that the flat netlist `cells` takes, as nextpnr placed it, on the tiles of `grid`.

    Attributes:
        cells: the netlist's; only `move` (data inputs) and `write` (placement attributes) change them.
        place: of each placed cell x, y and the name of its site in the tile.
        tiles, tile_x, tile_y: the grid's tiles; `free_tiles` and `move` have indices into these.
    """

    def __init__(self, cells: dict[str, Any], grid: Grid) -> None:
        self.cells = cells
        self.place: dict[str, tuple[int, int, str]] = {}
        for name, cell in cells.items():
            if match := _PLACE.match(cell["attributes"].get("NEXTPNR_BEL", "")):
                self.place[name] = int(match[1]), int(match[2]), match[3]
        self._in: dict[tuple[int, int, str], dict[str, str]] = defaultdict(dict)
        for name, (x, y, bel) in self.place.items():
            if match := _SLOT.match(bel):
                self._in[x, y, match[1]][match[2]] = name
        self.tiles = [(x, y) for x in grid.columns for y in grid.rows]
        self.tile_x, self.tile_y = np.array(self.tiles).T
        self._tile_of = {tile: index for index, tile in enumerate(self.tiles)}
        shape = len(self.tiles), len(_SLICES)
        self._free = {kind: np.zeros(shape, bool) for kind in (LUT, FLIP_FLOP, PAIR, MUX)}
        flip_flops = [name for name, cell in cells.items() if cell["type"] == "TRELLIS_FF"]
        memories = [name for name, cell in cells.items() if cell["parameters"].get("MODE") == "DPRAM"]
        self._control_of_slice = self._control_sets((flip_flops, *_SLICE_CONTROL))
        self._control_of_tile = self._control_sets((flip_flops, *_TILE_CONTROL), (memories, *_MEMORY_CONTROL))
        self._slice_control, self._tile_control = np.full(shape, _NONE), np.full((len(self.tiles), 2), _NONE)
        for tile in range(len(self.tiles)):
            self._update_tile(tile)

    def net(self, name: str, port: str) -> Any:
        """The net at a cell's port; None where it is not connected."""
        return (self.cells[name]["connections"].get(port) or [None])[0]

    def units(self) -> list[Unit]:
        """The movable units. A flip-flop that its own LUT drives moves with it."""
        mux_inputs = {
            self.net(name, port) for name, cell in self.cells.items() if cell["type"] == "TRELLIS_COMB" for port in ("FXA", "FXB")
        }
        found: list[Unit] = []
        for cells in list(self._in.values()):
            luts = {slot: cells[slot] for slot in ("K0", "K1") if slot in cells}
            driven = {slot: cells[slot] for slot in ("FF0", "FF1") if slot in cells and self.net(cells[slot], "DI") is not None}
            for slot in ("FF0", "FF1"):
                if slot in cells and slot not in driven:
                    found.append(Unit(FLIP_FLOP, {slot: cells[slot]}))
            if "RAMW" in cells:
                continue
            if any(self._is_fixed(lut) for lut in luts.values()):
                found += [Unit(FLIP_FLOP, {slot: name}, leaves_chain=True) for slot, name in driven.items()]
                continue
            if any(self._is_mux(lut) for lut in luts.values()):
                # A multiplexer of two LUTs (PFUMX), but no part of a wider one (L6MUX21).
                alone = all(self.net(lut, port) is None for lut in luts.values() for port in ("FXA", "FXB"))
                if len(luts) == 2 and alone and self.net(luts["K0"], "OFX") not in mux_inputs:
                    found.append(Unit(MUX, luts | driven))
                continue
            for half in "01":
                both = {slot: group[slot] for slot, group in ((f"K{half}", luts), (f"FF{half}", driven)) if slot in group}
                if f"K{half}" in both:
                    found.append(Unit(PAIR if len(both) == 2 else LUT, both))
        return found

    def free_tiles(self, unit: Unit) -> np.ndarray:
        """Tiles with a slice that can take a unit."""
        fits, free = np.ones(len(self.tiles), bool), self._free[unit.kind]
        for name in (name for slot, name in unit.cells.items() if slot.startswith("FF")):
            has, wanted = self._tile_control, self._control_of_tile[name]
            fits &= (has == _NONE).any(axis=1) | (has == wanted).any(axis=1)
            free = free & ((self._slice_control == _NONE) | (self._slice_control == self._control_of_slice[name]))
        return np.nonzero(fits & free.any(axis=1))[0]

    def move(self, unit: Unit, tile: int) -> None:
        """Moves a unit to a tile, one of `free_tiles`; raises StopIteration at any other."""
        if unit.leaves_chain:
            self._switch_data_input("DI", "M", *unit.cells.values())
            unit.leaves_chain = False
        wanted = [self._control_of_slice[name] for slot, name in unit.cells.items() if slot.startswith("FF")]
        number = next(
            number
            for number, has in enumerate(self._slice_control[tile])
            if self._free[unit.kind][tile, number] and all(has in (_NONE, one) for one in wanted)
        )
        x, y = self.tiles[tile]
        half = self._free_halves(x, y, _SLICES[number], unit.kind)[0]
        self.put(unit, x, y, _SLICES[number], {slot if unit.kind == MUX else slot[:-1] + half: name for slot, name in unit.cells.items()})

    def put(self, unit: Unit, x: int, y: int, slice: str, cells: dict[str, str]) -> None:
        """Puts a unit into a slice; `cells` by slot, which are free."""
        old = self.position(unit)[:2]
        for slot, name in unit.cells.items():
            old_x, old_y, bel = self.place[name]
            del self._in[old_x, old_y, bel[5]][slot]
        unit.cells = cells
        for slot, name in cells.items():
            self._in[x, y, slice][slot] = name
            self.place[name] = x, y, f"SLICE{slice}.{slot}"
        for place in {old, (x, y)}:
            if place in self._tile_of:
                self._update_tile(self._tile_of[place])

    def restore(self, unit: Unit, place: Location) -> None:
        """Moves a unit back to a `location`; all units that moved after it are back already."""
        x, y, slice, cells, leaves_chain = place
        self.put(unit, x, y, slice, dict(cells))
        if leaves_chain and not unit.leaves_chain:
            self._switch_data_input("M", "DI", *unit.cells.values())
            unit.leaves_chain = True

    def location(self, unit: Unit) -> Location:
        """A unit's location, for `restore`."""
        return *self.position(unit), dict(unit.cells), unit.leaves_chain

    def position(self, unit: Unit) -> tuple[int, int, str]:
        """A unit's x, y and slice."""
        x, y, bel = self.place[next(iter(unit.cells.values()))]
        return x, y, bel[5]

    def write(self) -> None:
        """Writes all positions into the netlist."""
        for name, (x, y, bel) in self.place.items():
            self.cells[name]["attributes"]["NEXTPNR_BEL"] = f"X{x}/Y{y}/{bel}"

    def _is_fixed(self, name: str) -> bool:
        return self.cells[name]["parameters"].get("MODE") in _FIXED_MODES

    def _control_sets(self, *groups: tuple[list[str], tuple[str, ...], tuple[str, ...]]) -> dict[str, int]:
        """The number of each cell's control set, of the group's ports and modes."""
        sets: dict[tuple, int] = {}
        found = {}
        for cells, ports, modes in groups:
            for name in cells:
                parameters = self.cells[name]["parameters"]
                key = ports, *(self.net(name, port) for port in ports), *(parameters.get(mode) for mode in modes)
                found[name] = sets.setdefault(key, len(sets))
        return found

    def _update_tile(self, tile: int) -> None:
        x, y = self.tiles[tile]
        in_tile: set[int] = set()
        for number, slice in enumerate(_SLICES):
            for kind, free in self._free.items():
                free[tile, number] = bool(self._free_halves(x, y, slice, kind))
            here = self._in.get((x, y, slice), {}).values()
            self._slice_control[tile, number] = next(
                (self._control_of_slice[name] for name in here if name in self._control_of_slice), _NONE
            )
            in_tile |= {self._control_of_tile[name] for name in here if name in self._control_of_tile}
        self._tile_control[tile] = [*sorted(in_tile), _NONE, _NONE][:2]

    def _free_halves(self, x: int, y: int, slice: str, kind: str) -> list[str]:
        """Halves of a slice that can take a unit of the kind; [""] for an empty slice and a unit that needs both."""
        cells = self._in.get((x, y, slice), {})
        if kind == MUX:
            return [] if cells else [""]
        luts = [cells[slot] for slot in ("K0", "K1") if slot in cells]
        if "RAMW" in cells or any(self._is_fixed(lut) or self._is_mux(lut) for lut in luts):
            return []
        halves = []
        for half in "01":
            lut, flip_flop = f"K{half}" in cells, f"FF{half}" in cells
            if not {LUT: lut, FLIP_FLOP: flip_flop, PAIR: lut or flip_flop}[kind]:
                halves.append(half)
        return halves

    def _is_mux(self, lut: str) -> bool:
        return any(self.net(lut, port) is not None for port in ("OFX", "F1", "FXA", "FXB"))

    def _switch_data_input(self, old: str, new: str, *flip_flops: str) -> None:
        """Moves flip-flops' data from one input to the other: DI comes from the slice's LUT, M from general routing."""
        for cell in (self.cells[name] for name in flip_flops):
            for ports in (cell["connections"], cell["port_directions"]):
                ports[new] = ports.pop(old)
            cell["parameters"]["SD"] = {"M": "0 ", "DI": "1 "}[new]  # nextpnr marks a string of digits by a blank
