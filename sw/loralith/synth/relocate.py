"""Cells of late paths to better places: nextpnr's static placer looks at wire, and a late path often goes the way three times.

A cell, or what must stay in one slice with it, moves to the free place at which the latest path through it is earliest, cell after cell,
the latest first; then times are taken again. Rows kept free for wires (`spread.py`) are where it finds room. Wires' delays are the
placer's own function of the distance, by `ROUTED`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .board import Grid
from .timing import Delays, Timing

__all__ = ["ROUTED", "Relocation", "Relocator", "relocate"]

ROUTED = 0.62
"""A routed wire's delay, of what the placer expects, as measured on the accelerator: of most wires. The router goes longer ways with a
few, so that the routed clock may be below the one that this foretells."""
MARGIN = 0.8
"""Of the period to reach, the one aimed at here: routed wires are longer or shorter than foretold."""
ENOUGH_NS = 0.3
"""A path with so much slack is as good as any."""
LEAST_NS = 0.03
"""What a move must gain."""
NEAR_NS = 0.05
"""Of places that differ by less, the one with the least wire."""
REACH = 6
"""Tiles around what a cell is joined to that are looked at."""
PASSES = 40

_SLICES = "ABCD"
_PLACE = re.compile(r"X(\d+)/Y(\d+)/(.*)")
_SLOT = re.compile(r"SLICE([ABCD])\.(K0|K1|FF0|FF1|RAMW)")
_WHOLE = ("CCU2", "DPRAM", "RAMW_BLOCK")
"""Modes of LUTs that belong to a chain or a memory: they stay."""
_FLIP_FLOP_MODES = ("CLKMUX", "CEMUX", "LSRMUX", "SRMODE", "GSR")

LUT, FLIP_FLOP, PAIR, MUX = "lut", "flip-flop", "lut with its flip-flop", "two luts and a multiplexer"


@dataclass
class _Unit:
    """Cells that move together, by slot of their slice, and their pins, first ones first.

    `leaves`: a flip-flop whose input DI is the output of a carry chain's LUT in its slice. That stays, so that where the flip-flop moves it
    takes its input M for it.
    """

    kind: str
    cells: dict[str, str]
    leaves: bool = False
    pins: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Relocation:
    """How many units moved, and `late` end points and TNS (their slacks' sum) before and after, by the period aimed at."""

    moved: int
    late_before: int
    late_after: int
    tns_before: float
    tns_after: float


def relocate(module: dict[str, Any], delays: Delays, grid: Grid, period_ns: float) -> Relocation:
    """Moves cells of the flat `module` of a design that nextpnr placed and wrote. `delays` becomes that of routed wires after it.

    Cells named reserved_* are taken away: nothing else is placed after this.
    """
    for name in [name for name in module["cells"] if name.startswith("reserved_")]:
        del module["cells"][name]
    return Relocator(module, delays, grid, period_ns * MARGIN).run()


class Relocator:
    """Moves cells of late paths of `module`; `run` does it, `has_moved` tells which pins did, `follows` the wires that it reckons with."""

    def __init__(self, module: dict[str, Any], delays: Delays, grid: Grid, period_ns: float) -> None:
        self.cells, self.delays, self.period_ns = module["cells"], delays, period_ns
        self.has_moved = np.zeros(len(delays.pins), bool)
        self.place: dict[str, tuple[int, int, str]] = {}
        for name, cell in self.cells.items():
            if match := _PLACE.match(cell["attributes"].get("NEXTPNR_BEL", "")):
                self.place[name] = int(match[1]), int(match[2]), match[3]
        at = {name.replace("\\", ""): place[:2] for name, place in self.place.items()}
        self.x, self.y = np.array([at.get(cell, (-1, -1)) for cell, _ in delays.pins]).T.copy()
        self.known = delays.is_wire & (self.x[delays.source] >= 0) & (self.x[delays.sink] >= 0)
        self.logic = np.array([port in ("A", "B", "C", "D") for _, port in delays.pins])
        self.unit_ns = 1.0
        self._wires()
        self.timing = Timing(delays)
        self._tiles(grid)
        self._units()

    # What wires cost.

    def _wires(self) -> None:
        """Which arcs are wires whose delay follows from where their ends are, as those do that nextpnr's placer looks at, and which of
        these are not reckoned anew until an end of them moves: `follows`, `fixed`, and `unit_ns`."""
        d, known = self.delays, self.known
        distance = self._distance()
        some = known & (d.ns > 0)
        self.unit_ns = float(np.median(d.ns[some] / distance[some])) if some.any() else 0.0  # nearly all wires' is the same
        # Within a tile some are direct. They are no longer once an end of them moves.
        self.fixed = known & (distance == 6) & (d.ns == 0) & self.logic[d.sink]
        self.follows = (known & (np.abs(distance * self.unit_ns - d.ns) < 0.002)) | self.fixed
        d.ns[d.is_wire] *= ROUTED
        self.unit_ns *= ROUTED

    def _distance(self) -> np.ndarray:
        """Of each arc, by the placer's function; as delay where `unit_ns` is not 1."""
        d = self.delays
        return self._delay(self.x[d.source] - self.x[d.sink], self.y[d.source] - self.y[d.sink])

    def _delay(self, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        dx, dy = np.abs(dx), np.abs(dy)
        far, near = np.maximum(dx - 5, 0) + np.maximum(dy - 5, 0), np.minimum(dx, 5) + np.minimum(dy, 5)
        return self.unit_ns * (6 + far + 2 * near)

    def _measure(self) -> None:
        """The delays of wires as their ends are now."""
        d = self.delays
        arcs = np.nonzero(self.follows & (~self.fixed | self.has_moved[d.source] | self.has_moved[d.sink]))[0]
        source, sink = d.source[arcs], d.sink[arcs]
        d.ns[arcs] = self._delay(self.x[source] - self.x[sink], self.y[source] - self.y[sink])
        self.arrival, self.required = self.timing.arrival(), self.timing.required(self.period_ns)
        self.slack = self.required - self.arrival

    # What is where.

    def _net(self, name: str, port: str) -> Any:
        return (self.cells[name]["connections"].get(port) or [None])[0]

    def _stays(self, name: str) -> bool:
        return self.cells[name]["parameters"].get("MODE") in _WHOLE

    def _tiles(self, grid: Grid) -> None:
        self.slices: dict[tuple[int, int, str], dict[str, str]] = defaultdict(dict)
        for name, (x, y, bel) in self.place.items():
            if match := _SLOT.match(bel):
                self.slices[x, y, match[1]][match[2]] = name
        self.tiles = [(x, y) for x in grid.columns for y in grid.rows]
        self.tile_x, self.tile_y = np.array(self.tiles).T
        self.tile_of = {tile: index for index, tile in enumerate(self.tiles)}
        self.free = {kind: np.zeros(len(self.tiles), int) for kind in (LUT, FLIP_FLOP, PAIR, MUX)}
        # What a tile's flip-flops share; a move into a tile of others is left out, though up to two sets would do.
        sets: dict[tuple, int] = {}
        self.shared = {
            name: sets.setdefault(self._control(name), len(sets)) for name, cell in self.cells.items() if cell["type"] == "TRELLIS_FF"
        }
        self.tile_shares = np.full(len(self.tiles), -1)  # -1: none yet; -2: several
        for tile in range(len(self.tiles)):
            self._look(tile)

    def _control(self, name: str) -> tuple:
        nets = (self._net(name, port) for port in ("CLK", "CE", "LSR"))
        return *nets, *(self.cells[name]["parameters"].get(mode) for mode in _FLIP_FLOP_MODES)

    def _look(self, tile: int) -> None:
        x, y = self.tiles[tile]
        for kind, free in self.free.items():
            free[tile] = len(self._slots(tile, kind))
        here = [self.slices.get((x, y, slice), {}) for slice in _SLICES]
        shared = {self.shared[name] for cells in here for slot, name in cells.items() if slot.startswith("FF")}
        self.tile_shares[tile] = -1 if not shared else shared.pop() if len(shared) == 1 else -2

    def _slots(self, tile: int, kind: str) -> list[tuple[str, str]]:
        """Slices and halves of a tile that take a unit of the kind."""
        x, y = self.tiles[tile]
        slots = []
        for slice in _SLICES:
            cells = self.slices.get((x, y, slice), {})
            luts = [cells[slot] for slot in ("K0", "K1") if slot in cells]
            if kind == MUX:
                slots += [(slice, "")] if not cells else []
            elif "RAMW" not in cells and not any(self._stays(lut) or self._is_mux(lut) for lut in luts):
                for half in "01":
                    lut, flip_flop = f"K{half}" in cells, f"FF{half}" in cells
                    if not {LUT: lut, FLIP_FLOP: flip_flop, PAIR: lut or flip_flop}[kind]:
                        slots.append((slice, half))
        return slots

    def _is_mux(self, lut: str) -> bool:
        return any(self._net(lut, port) is not None for port in ("OFX", "F1", "FXA", "FXB"))

    def _units(self) -> None:
        """What may move. A flip-flop whose input DI is its own LUT's output moves with it."""
        wide = {self._net(name, port) for name, cell in self.cells.items() if cell["type"] == "TRELLIS_COMB" for port in ("FXA", "FXB")}
        self.units: list[_Unit] = []
        for cells in list(self.slices.values()):
            luts = {slot: cells[slot] for slot in ("K0", "K1") if slot in cells}
            driven = {slot: cells[slot] for slot in ("FF0", "FF1") if slot in cells and self._net(cells[slot], "DI") is not None}
            for slot in ("FF0", "FF1"):
                if slot in cells and slot not in driven:
                    self.units.append(_Unit(FLIP_FLOP, {slot: cells[slot]}))
            if "RAMW" in cells:
                continue
            if any(self._stays(lut) for lut in luts.values()):
                self.units += [_Unit(FLIP_FLOP, {slot: name}, leaves=True) for slot, name in driven.items()]
                continue
            if any(self._is_mux(lut) for lut in luts.values()):
                # One multiplexer's two LUTs, but not one that joins two of these.
                alone = all(self._net(lut, port) is None for lut in luts.values() for port in ("FXA", "FXB"))
                if len(luts) == 2 and alone and self._net(luts["K0"], "OFX") not in wide:
                    self.units.append(_Unit(MUX, luts | driven))
                continue
            for half in "01":
                both = {slot: group[slot] for slot, group in ((f"K{half}", luts), (f"FF{half}", driven)) if slot in group}
                if f"K{half}" in both:
                    self.units.append(_Unit(PAIR if len(both) == 2 else LUT, both))
        pins: dict[str, list[int]] = defaultdict(list)
        for number, (cell, _) in enumerate(self.delays.pins):
            pins[cell].append(number)
        self.unit_of = np.full(len(self.delays.pins), -1)
        for index, unit in enumerate(self.units):
            found = (number for name in unit.cells.values() for number in pins[name.replace("\\", "")])
            unit.pins = sorted(found, key=lambda number: self.timing.level[number])
            self.unit_of[unit.pins] = index
            for pin in unit.pins:
                if unit.leaves and self.delays.pins[pin][1] == "DI":
                    self.follows[self.timing.into(pin)] = self.fixed[self.timing.into(pin)] = True

    # Moves.

    def run(self) -> Relocation:
        self._measure()
        before, moved = self._late(), set()
        for _ in range(PASSES):
            now = self._pass()
            if not now:
                break
            moved |= now
            self._measure()
        for name, (x, y, bel) in self.place.items():
            self.cells[name]["attributes"]["NEXTPNR_BEL"] = f"X{x}/Y{y}/{bel}"
        after = self._late()
        return Relocation(len(moved), before[0], after[0], before[1], after[1])

    def _late(self) -> tuple[int, float]:
        ends = self.period_ns - self.delays.setup - self.arrival
        late = ends[~np.isnan(ends) & (ends < 0)]
        return len(late), round(float(late.sum()), 1)

    def _pass(self) -> set[int]:
        """Moves late units, none next to another that moved: its times would no longer be right. Returns which."""
        late = np.nonzero((self.slack < 0) & np.isfinite(self.slack) & (self.unit_of >= 0))[0]
        worst: dict[int, float] = {}
        for pin in late:
            unit = int(self.unit_of[pin])
            worst[unit] = min(worst.get(unit, 0.0), float(self.slack[pin]))
        moved: set[int] = set()
        waiting: set[int] = set()
        for index in sorted(worst, key=lambda unit: worst[unit]):
            if index in waiting:
                continue
            unit = self.units[index]
            around = self._around(unit)
            tile = self._best(index, unit, around) if len(around) else None
            if tile is not None:
                self._move(unit, tile)
                moved.add(index)
                waiting |= {int(self.unit_of[pin]) for pin in around if self.slack[pin] < ENOUGH_NS}
        return moved

    def _around(self, unit: _Unit) -> np.ndarray:
        """Pins of other cells that wires join a unit to."""
        d = self.delays
        into = np.concatenate([self.timing.into(pin) for pin in unit.pins])
        out = np.concatenate([self.timing.out_of(pin) for pin in unit.pins])
        return np.concatenate([d.source[into[self.follows[into]]], d.sink[out[self.follows[out]]]])

    def _best(self, index: int, unit: _Unit, around: np.ndarray) -> int | None:
        """The tile at which the latest path through a unit is earliest; None where that is no gain."""
        hard = around[self.slack[around] < ENOUGH_NS]
        hard = hard if len(hard) and not unit.leaves else around
        fits = self.free[unit.kind] > 0
        for places, tiles in ((self.x[hard], self.tile_x), (self.y[hard], self.tile_y)):
            fits &= (tiles >= places.min() - REACH) & (tiles <= places.max() + REACH)
        shared = {self.shared[name] for slot, name in unit.cells.items() if slot.startswith("FF")}
        if len(shared) > 1:
            return None
        for one in shared:
            fits &= (self.tile_shares == -1) | (self.tile_shares == one)
        tiles = np.nonzero(fits)[0]
        if not len(tiles):
            return None
        x, y, _ = self.place[next(iter(unit.cells.values()))]
        slack, wire = self._at(index, unit, np.append(self.tile_x[tiles], x), np.append(self.tile_y[tiles], y))
        slack = np.minimum(slack, ENOUGH_NS)
        good = np.nonzero(slack[:-1] >= max(slack[:-1].max() - NEAR_NS, slack[-1] + LEAST_NS))[0]
        return int(tiles[good[np.argmin(wire[good])]]) if len(good) else None

    def _at(self, index: int, unit: _Unit, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Slack of the latest path through a unit and its wires' length, for each of several places; the last one is where it is."""
        d = self.delays
        times: dict[int, np.ndarray] = {}
        slack, length = np.full(len(x), np.inf), np.zeros(len(x))

        def wire(arc: int, other: int) -> np.ndarray | float:
            nonlocal length
            if not self.follows[arc]:
                return d.ns[arc]
            length = length + np.abs(x - self.x[other]) + np.abs(y - self.y[other])
            ns = self._delay(x - self.x[other], y - self.y[other])
            ns[-1] = d.ns[arc]
            return ns

        for pin in unit.pins:
            time = np.full(len(x), d.start[pin])
            for arc in self.timing.into(pin):
                source = int(d.source[arc])
                if self.unit_of[source] == index:
                    time = np.maximum(time, times[source] + d.ns[arc])
                else:
                    time = np.maximum(time, self.arrival[source] + wire(arc, source))
            times[pin] = time
            if not np.isnan(d.setup[pin]):
                slack = np.minimum(slack, self.period_ns - d.setup[pin] - time)
            for arc in self.timing.out_of(pin):
                sink = int(d.sink[arc])
                if self.unit_of[sink] != index:
                    slack = np.minimum(slack, self.required[sink] - time - wire(arc, sink))
        return slack, length

    def _move(self, unit: _Unit, tile: int) -> None:
        if unit.leaves:
            self._to_input_m(*unit.cells.values())
            unit.leaves = False
        (x, y), (slice, half) = self.tiles[tile], self._slots(tile, unit.kind)[0]
        old = self.tile_of.get(self.place[next(iter(unit.cells.values()))][:2])
        for slot, name in unit.cells.items():
            old_x, old_y, bel = self.place[name]
            del self.slices[old_x, old_y, bel[5]][slot]
        unit.cells = {slot if unit.kind == MUX else slot[:-1] + half: name for slot, name in unit.cells.items()}
        for slot, name in unit.cells.items():
            self.slices[x, y, slice][slot] = name
            self.place[name] = x, y, f"SLICE{slice}.{slot}"
        self.x[unit.pins], self.y[unit.pins] = x, y
        self.has_moved[unit.pins] = True
        for changed in {tile, old} - {None}:
            self._look(changed)

    def _to_input_m(self, flip_flop: str) -> None:
        cell = self.cells[flip_flop]
        for ports in (cell["connections"], cell["port_directions"]):
            ports["M"] = ports.pop("DI")
        cell["parameters"]["SD"] = "0 "  # nextpnr's way to write a text of digits
