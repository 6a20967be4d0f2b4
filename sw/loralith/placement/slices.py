"""Where a placed design's LUTs and flip-flops are in their slices, and where else there is room for them.

A tile of an ECP5 has four slices, each with two LUTs (K0, K1) and a flip-flop behind each (FF0, FF1).
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .grid import Grid

__all__ = ["Place", "Slices", "Unit"]

_SLICES = "ABCD"
_PLACE = re.compile(r"X(\d+)/Y(\d+)/(.*)")
_SLOT = re.compile(r"SLICE([ABCD])\.(K0|K1|FF0|FF1|RAMW)")
_WHOLE = ("CCU2", "DPRAM", "RAMW_BLOCK")
"""Modes of LUTs that belong to a chain or a memory: they stay."""
_SLICE_SHARES = ("CLK", "CE", "LSR"), ("CLKMUX", "CEMUX", "LSRMUX", "SRMODE", "GSR")
"""Nets and modes that a slice's flip-flops have in common."""
_TILE_SHARES = ("CLK", "LSR"), ("CLKMUX", "LSRMUX", "SRMODE")
_MEMORY_SHARES = ("WCK", "WRE"), ("WCKMUX", "WREMUX")
"""The same of a tile's flip-flops and memories, of which two sets would do for clocks and for resets; here for both together."""
_NONE = -1
"""No set yet."""

LUT, FLIP_FLOP, PAIR, MUX = "lut", "flip-flop", "lut with its flip-flop", "two luts and a multiplexer"


@dataclass
class Unit:
    """Cells that move together, by slot of their slice, and their pins, first ones first.

    `leaves`: a flip-flop whose input DI is the output of a carry chain's LUT in its slice. That stays, so that where the flip-flop moves it
    takes its input M for it.
    """

    kind: str
    cells: dict[str, str]
    leaves: bool = False
    pins: list[int] = field(default_factory=list)


Place = tuple[int, int, str, dict[str, str], bool]
"""Of a unit: x, y, slice, its cells by slot, and whether it `leaves` from there."""


class Slices:
    """Those of the flat netlist `cells` that nextpnr placed, on the tiles of `grid`.

    Attributes:
        cells: the netlist's, changed by `move` (inputs) and `write` (places) alone.
        place: of each placed cell x, y and what it is there.
        tiles, tile_x, tile_y: where there may be room; `room` and `move` have their numbers.
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
        self._slice_set = self._sets((flip_flops, *_SLICE_SHARES))
        self._tile_set = self._sets((flip_flops, *_TILE_SHARES), (memories, *_MEMORY_SHARES))
        self._slice_has, self._tile_has = np.full(shape, _NONE), np.full((len(self.tiles), 2), _NONE)
        for tile in range(len(self.tiles)):
            self._look(tile)

    def net(self, name: str, port: str) -> Any:
        """At a cell's port; None where there is none."""
        return (self.cells[name]["connections"].get(port) or [None])[0]

    def units(self) -> list[Unit]:
        """What may move. A flip-flop whose input DI is its own LUT's output moves with it."""
        wide = {self.net(name, port) for name, cell in self.cells.items() if cell["type"] == "TRELLIS_COMB" for port in ("FXA", "FXB")}
        found: list[Unit] = []
        for cells in list(self._in.values()):
            luts = {slot: cells[slot] for slot in ("K0", "K1") if slot in cells}
            driven = {slot: cells[slot] for slot in ("FF0", "FF1") if slot in cells and self.net(cells[slot], "DI") is not None}
            for slot in ("FF0", "FF1"):
                if slot in cells and slot not in driven:
                    found.append(Unit(FLIP_FLOP, {slot: cells[slot]}))
            if "RAMW" in cells:
                continue
            if any(self._stays(lut) for lut in luts.values()):
                found += [Unit(FLIP_FLOP, {slot: name}, leaves=True) for slot, name in driven.items()]
                continue
            if any(self._is_mux(lut) for lut in luts.values()):
                # One multiplexer's two LUTs, but not one that joins two of these.
                alone = all(self.net(lut, port) is None for lut in luts.values() for port in ("FXA", "FXB"))
                if len(luts) == 2 and alone and self.net(luts["K0"], "OFX") not in wide:
                    found.append(Unit(MUX, luts | driven))
                continue
            for half in "01":
                both = {slot: group[slot] for slot, group in ((f"K{half}", luts), (f"FF{half}", driven)) if slot in group}
                if f"K{half}" in both:
                    found.append(Unit(PAIR if len(both) == 2 else LUT, both))
        return found

    def room(self, unit: Unit) -> np.ndarray:
        """Tiles with a free place for a unit."""
        fits, free = np.ones(len(self.tiles), bool), self._free[unit.kind]
        for name in (name for slot, name in unit.cells.items() if slot.startswith("FF")):
            has, ours = self._tile_has, self._tile_set[name]
            fits &= (has == _NONE).any(axis=1) | (has == ours).any(axis=1)
            free = free & ((self._slice_has == _NONE) | (self._slice_has == self._slice_set[name]))
        return np.nonzero(fits & free.any(axis=1))[0]

    def move(self, unit: Unit, tile: int) -> None:
        """To a tile with room for it, one of `room`; raises StopIteration at any other."""
        if unit.leaves:
            self._rename("DI", "M", *unit.cells.values())
            unit.leaves = False
        ours = [self._slice_set[name] for slot, name in unit.cells.items() if slot.startswith("FF")]
        number = next(
            number
            for number, has in enumerate(self._slice_has[tile])
            if self._free[unit.kind][tile, number] and all(has in (_NONE, one) for one in ours)
        )
        x, y = self.tiles[tile]
        half = self._halves(x, y, _SLICES[number], unit.kind)[0]
        self.put(unit, x, y, _SLICES[number], {slot if unit.kind == MUX else slot[:-1] + half: name for slot, name in unit.cells.items()})

    def put(self, unit: Unit, x: int, y: int, slice: str, cells: dict[str, str]) -> None:
        """A unit into a slice, its `cells` into these slots of it, which are free."""
        old = self.where(unit)[:2]
        for slot, name in unit.cells.items():
            old_x, old_y, bel = self.place[name]
            del self._in[old_x, old_y, bel[5]][slot]
        unit.cells = cells
        for slot, name in cells.items():
            self._in[x, y, slice][slot] = name
            self.place[name] = x, y, f"SLICE{slice}.{slot}"
        for place in {old, (x, y)}:
            if place in self._tile_of:
                self._look(self._tile_of[place])

    def back(self, unit: Unit, place: Place) -> None:
        """A unit to where it was before it moved; all that moved after it are back already."""
        x, y, slice, cells, leaves = place
        self.put(unit, x, y, slice, dict(cells))
        if leaves and not unit.leaves:
            self._rename("M", "DI", *unit.cells.values())
            unit.leaves = True

    def at(self, unit: Unit) -> Place:
        """Where a unit is, for `back`."""
        return *self.where(unit), dict(unit.cells), unit.leaves

    def where(self, unit: Unit) -> tuple[int, int, str]:
        """A unit's x, y and slice."""
        x, y, bel = self.place[next(iter(unit.cells.values()))]
        return x, y, bel[5]

    def write(self) -> None:
        """Where cells are now, into the netlist."""
        for name, (x, y, bel) in self.place.items():
            self.cells[name]["attributes"]["NEXTPNR_BEL"] = f"X{x}/Y{y}/{bel}"

    def _stays(self, name: str) -> bool:
        return self.cells[name]["parameters"].get("MODE") in _WHOLE

    def _sets(self, *groups: tuple[list[str], tuple[str, ...], tuple[str, ...]]) -> dict[str, int]:
        """For cells of each group a number for each set of nets and modes."""
        sets: dict[tuple, int] = {}
        found = {}
        for cells, ports, modes in groups:
            for name in cells:
                parameters = self.cells[name]["parameters"]
                key = ports, *(self.net(name, port) for port in ports), *(parameters.get(mode) for mode in modes)
                found[name] = sets.setdefault(key, len(sets))
        return found

    def _look(self, tile: int) -> None:
        x, y = self.tiles[tile]
        in_tile: set[int] = set()
        for number, slice in enumerate(_SLICES):
            for kind, free in self._free.items():
                free[tile, number] = bool(self._halves(x, y, slice, kind))
            here = self._in.get((x, y, slice), {}).values()
            self._slice_has[tile, number] = next((self._slice_set[name] for name in here if name in self._slice_set), _NONE)
            in_tile |= {self._tile_set[name] for name in here if name in self._tile_set}
        self._tile_has[tile] = [*sorted(in_tile), _NONE, _NONE][:2]

    def _halves(self, x: int, y: int, slice: str, kind: str) -> list[str]:
        """Halves of a slice that take a unit of the kind; of one that needs both, one that is no half."""
        cells = self._in.get((x, y, slice), {})
        if kind == MUX:
            return [] if cells else [""]
        luts = [cells[slot] for slot in ("K0", "K1") if slot in cells]
        if "RAMW" in cells or any(self._stays(lut) or self._is_mux(lut) for lut in luts):
            return []
        halves = []
        for half in "01":
            lut, flip_flop = f"K{half}" in cells, f"FF{half}" in cells
            if not {LUT: lut, FLIP_FLOP: flip_flop, PAIR: lut or flip_flop}[kind]:
                halves.append(half)
        return halves

    def _is_mux(self, lut: str) -> bool:
        return any(self.net(lut, port) is not None for port in ("OFX", "F1", "FXA", "FXB"))

    def _rename(self, old: str, new: str, *flip_flops: str) -> None:
        """Flip-flops that took their data at one input to the other: DI is a LUT's, M comes from anywhere."""
        for cell in (self.cells[name] for name in flip_flops):
            for ports in (cell["connections"], cell["port_directions"]):
                ports[new] = ports.pop(old)
            cell["parameters"]["SD"] = {"M": "0 ", "DI": "1 "}[new]  # nextpnr's way to write a text of digits
