"""Cells of late paths to better places: nextpnr's static placer looks at wire, and a late path often goes the way three times.

A cell, or what must stay in one slice with it, moves to the free place at which the latest path through it is earliest, cell after cell,
the latest first; then times are taken again. Where that gains no more, neighbours on the latest path move together: of a path that goes
far and comes back no cell gains alone. Rows kept free for wires (`spread.py`) are where it finds room. Wires' delays are by the placer's
own function of the distance, see `routed`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .grid import Grid
from .slices import Place, Slices, Unit
from .timing import Delays, Timing

__all__ = ["FIRST_NS", "ROUTED", "Relocation", "Relocator", "relocate", "routed"]

ROUTED, FIRST_NS = 0.61, 0.33
"""A routed wire's delay is this share of what the placer expects, and so much more, as fitted to the accelerator's late paths; wires of
others, which the router looks after less, take somewhat more. It goes longer ways with a few, so that the routed clock may be below the one
that this foretells."""
MARGINS, GOOD = (0.9, 0.8), 0.95
"""Of the period to reach, those aimed at one after the other, until the longest path takes no more than the latter of it: routed wires
are longer or shorter than foretold, but what moves for its path's sake makes the wires of others longer."""
ENOUGH_NS = 0.3
"""A path with so much slack is as good as any."""
LEAST_NS = 0.03
"""What a move must gain."""
NEAR_NS = 0.05
"""Of places that differ by less, the one with the least wire."""
REACH = 6
"""Tiles around what a cell is joined to that are looked at."""
PASSES = 40
PATIENCE = 3
"""So many passes in a row without a gain are the last ones: each moves what is best for one path, and may be worse for others."""
TOGETHER = (2, 3, 4, 5)
"""Of so many neighbours on a late path it is tried whether they gain together."""
ENDS = 20
"""Of so many of the latest paths."""
ROUNDS = 100
"""Most times that neighbours move together."""
SAID = 10
"""Rounds from one line of progress to the next."""

_State = tuple[int, np.ndarray, np.ndarray, np.ndarray]
"""How many moves were made, the wires' delays, which pins moved, and the arrival times."""


@dataclass(frozen=True)
class Relocation:
    """How many units moved, and `late` end points and TNS (their slacks' sum) before and after, by the period aimed at."""

    moved: int
    late_before: int
    late_after: int
    tns_before: float
    tns_after: float


def relocate(
    module: dict[str, Any], delays: Delays, grid: Grid, period_ns: float, progress: Callable[[str], None] = lambda line: None
) -> Relocation:
    """Moves cells of the flat `module` of a design that nextpnr placed and wrote. `delays` becomes that of routed wires after it;
    `progress` gets a line now and then.

    Cells named reserved_* are taken away: nothing else is placed after this.
    """
    for name in [name for name in module["cells"] if name.startswith("reserved_")]:
        del module["cells"][name]
    relocator = Relocator(module, delays, grid, period_ns, progress)
    for share in MARGINS:
        done = relocator.run(period_ns * share)
        if relocator.longest_ns() <= period_ns * GOOD:
            break
    return done


def routed(delays: Delays) -> None:
    """Turns delays of wires that the placer expects into those that routed ones have, but for those without any."""
    wires = delays.is_wire & (delays.ns > 0)
    delays.ns[wires] = delays.ns[wires] * ROUTED + FIRST_NS


class Relocator:
    """Moves cells of late paths of `module`; `run` does it, `has_moved` tells which pins did, `follows` the wires that it reckons with."""

    def __init__(
        self, module: dict[str, Any], delays: Delays, grid: Grid, period_ns: float, progress: Callable[[str], None] = lambda line: None
    ) -> None:
        self.delays, self.period_ns, self.progress = delays, period_ns, progress
        self.moves: list[tuple[int, Place]] = []
        """Which unit moved, and from where."""
        self.in_vain: set[tuple[int, ...]] = set()
        """Units that were moved together, and the pin to which."""
        self.has_moved = np.zeros(len(delays.pins), bool)
        self.slices = Slices(module["cells"], grid)
        at = {name.replace("\\", ""): place[:2] for name, place in self.slices.place.items()}
        self.x, self.y = np.array([at.get(cell, (-1, -1)) for cell, _ in delays.pins]).T.copy()
        self.known = delays.is_wire & (self.x[delays.source] >= 0) & (self.x[delays.sink] >= 0)
        self.logic = np.array([port in ("A", "B", "C", "D") for _, port in delays.pins])
        self.first_ns, self.unit_ns = 0.0, 1.0
        self._wires()
        self.timing = Timing(delays)
        self._units()

    # What wires cost.

    def _wires(self) -> None:
        """Which arcs are wires whose delay follows from where their ends are, as those do that nextpnr's placer looks at, and which of
        these are not reckoned anew until an end of them moves: `follows`, `fixed`, and `first_ns` and `unit_ns`."""
        d, known = self.delays, self.known
        distance = self._distance()
        some = known & (d.ns > 0)
        self.unit_ns = float(np.median(d.ns[some] / distance[some])) if some.any() else 0.0  # nearly all wires' is the same
        # Within a tile some are direct. They are no longer once an end of them moves.
        self.fixed = known & (distance == 6) & (d.ns == 0) & self.logic[d.sink]
        self.follows = (known & (np.abs(distance * self.unit_ns - d.ns) < 0.002)) | self.fixed
        routed(d)
        self.first_ns, self.unit_ns = FIRST_NS, self.unit_ns * ROUTED

    def _distance(self) -> np.ndarray:
        """Of each arc, by the placer's function; as delay once `first_ns` and `unit_ns` are known."""
        d = self.delays
        return self._delay(self.x[d.source] - self.x[d.sink], self.y[d.source] - self.y[d.sink])

    def _delay(self, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        dx, dy = np.abs(dx), np.abs(dy)
        far, near = np.maximum(dx - 5, 0) + np.maximum(dy - 5, 0), np.minimum(dx, 5) + np.minimum(dy, 5)
        return self.first_ns + self.unit_ns * (6 + far + 2 * near)

    def _measure(self) -> None:
        """The delays of wires as their ends are now, and the times that follow."""
        d = self.delays
        arcs = np.nonzero(self.follows & (~self.fixed | self.has_moved[d.source] | self.has_moved[d.sink]))[0]
        source, sink = d.source[arcs], d.sink[arcs]
        d.ns[arcs] = self._delay(self.x[source] - self.x[sink], self.y[source] - self.y[sink])
        self.arrival = self.timing.arrival()

    def _slacks(self) -> None:
        self.required = self.timing.required(self.period_ns)
        self.slack = self.required - self.arrival

    def _units(self) -> None:
        self.units = self.slices.units()
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

    def longest_ns(self) -> float:
        """What the longest path takes; 0 where nothing is clocked."""
        return float(np.nanmax(np.append(self.arrival + self.delays.setup, 0.0)))

    def run(self, period_ns: float) -> Relocation:
        """Moves what is late by a period."""
        self.period_ns = period_ns
        self.in_vain.clear()
        self._measure()
        before = self._late()
        self._passes()
        for number in range(1, ROUNDS + 1):
            late = self._late_slacks()
            if not self._together():
                break
            self._passes()
            if self._gained(late):
                self.in_vain.clear()
            if not number % SAID:
                self.progress(f"relocate: {number} of at most {ROUNDS} rounds, longest path {self.period_ns - late.min():.2f} ns")
        self.slices.write()
        after = self._late()
        return Relocation(len({index for index, _ in self.moves}), before[0], after[0], before[1], after[1])

    def _passes(self) -> None:
        """Passes as long as there is a gain, and back to the best one: the latest path counts before all others."""
        best, late, vain = self._state(), self._late_slacks(), 0
        for _ in range(PASSES):
            self._slacks()
            if vain == PATIENCE or not self._pass():
                break
            self._measure()
            vain += 1
            if self._gained(late) or self._late_slacks().min(initial=0) > late.min(initial=0) + LEAST_NS:
                best, late, vain = self._state(), self._late_slacks(), 0
        if vain:
            self._back(best)

    def _late(self) -> tuple[int, float]:
        late = self._late_slacks()
        return len(late), round(float(late.sum()), 1)

    def _late_slacks(self) -> np.ndarray:
        ends = self.period_ns - self.delays.setup - self.arrival
        return ends[~np.isnan(ends) & (ends < 0)]

    def _state(self) -> _State:
        return len(self.moves), self.delays.ns.copy(), self.has_moved.copy(), self.arrival

    def _back(self, state: _State) -> None:
        """To a `_state` of before."""
        count, ns, has_moved, self.arrival = state
        while len(self.moves) > count:
            index, place = self.moves.pop()
            self.slices.back(self.units[index], place)
            self._follow(self.units[index])
        self.delays.ns[:], self.has_moved[:] = ns, has_moved

    def _pass(self) -> bool:
        """Moves late units, none next to another that moved: its times would no longer be right. Whether one did."""
        late = np.nonzero((self.slack < 0) & np.isfinite(self.slack) & (self.unit_of >= 0))[0]
        worst: dict[int, float] = {}
        for pin in late:
            unit = int(self.unit_of[pin])
            worst[unit] = min(worst.get(unit, 0.0), float(self.slack[pin]))
        count = len(self.moves)
        waiting: set[int] = set()
        for index in sorted(worst, key=lambda unit: worst[unit]):
            if index in waiting:
                continue
            unit = self.units[index]
            around = self._around(unit)
            tile = self._best(index, unit, around) if len(around) else None
            if tile is not None:
                self._move(index, tile)
                waiting |= {int(self.unit_of[pin]) for pin in around if self.slack[pin] < ENOUGH_NS}
        return len(self.moves) > count

    def _together(self) -> bool:
        """Moves neighbours on one of the latest paths to the one before or behind them, where that gains. Whether some did.

        What was tried is not tried again before something has gained: the passes that follow may undo it.
        """
        ends = self.period_ns - self.delays.setup - self.arrival
        late = np.nonzero(ends < 0)[0]
        for end in late[np.argsort(ends[late], kind="stable")][:ENDS]:
            pins = self.timing.path(int(end), self.arrival)
            pins = [pin for i, pin in enumerate(pins) if i == 0 or self.unit_of[pin] != self.unit_of[pins[i - 1]]]
            path = [int(self.unit_of[pin]) for pin in pins]
            for count in TOGETHER:
                for first in range(len(path) - count + 1):
                    group = path[first : first + count]
                    if len(set(group)) < count or any(index < 0 or self.units[index].leaves for index in group):
                        continue
                    for beside in (first - 1, first + count):
                        if 0 <= beside < len(path) and path[beside] not in group and self._gains(group, pins[beside], ends[late]):
                            return True
        return False

    def _gains(self, group: list[int], pin: int, late: np.ndarray) -> bool:
        """Moves units as near to a pin as there is room; back again where that is worse for the latest path or all of them, late by `late`
        before, or better for neither."""
        if (*group, pin) in self.in_vain:
            return False
        self.in_vain.add((*group, pin))
        before = self._state()
        for index in group:
            tiles = self.slices.room(self.units[index])
            if len(tiles):
                distance = np.abs(self.slices.tile_x[tiles] - self.x[pin]) + np.abs(self.slices.tile_y[tiles] - self.y[pin])
                self._move(index, int(tiles[np.argmin(distance)]))
        self._measure()
        if self._gained(late):
            return True
        self._back(before)
        return False

    def _gained(self, late: np.ndarray) -> bool:
        """Whether the latest path or all of them are less late than by `late`, and neither is more."""
        now = self._late_slacks()
        first, all_late = now.min(initial=0) - late.min(initial=0), now.sum() - late.sum()
        return bool(min(first, all_late) >= 0 and max(first, all_late) > LEAST_NS)

    def _around(self, unit: Unit) -> np.ndarray:
        """Pins of other cells that wires join a unit to."""
        d = self.delays
        into = np.concatenate([self.timing.into(pin) for pin in unit.pins])
        out = np.concatenate([self.timing.out_of(pin) for pin in unit.pins])
        return np.concatenate([d.source[into[self.follows[into]]], d.sink[out[self.follows[out]]]])

    def _best(self, index: int, unit: Unit, around: np.ndarray) -> int | None:
        """The tile at which the latest path through a unit is earliest; None where that is no gain."""
        hard = around[self.slack[around] < ENOUGH_NS]
        hard = hard if len(hard) and not unit.leaves else around
        tiles = self.slices.room(unit)
        for places, at in ((self.x[hard], self.slices.tile_x), (self.y[hard], self.slices.tile_y)):
            tiles = tiles[(at[tiles] >= places.min() - REACH) & (at[tiles] <= places.max() + REACH)]
        if not len(tiles):
            return None
        x, y, _ = self.slices.where(unit)
        slack, wire = self._at(index, unit, np.append(self.slices.tile_x[tiles], x), np.append(self.slices.tile_y[tiles], y))
        slack = np.minimum(slack, ENOUGH_NS)
        good = np.nonzero(slack[:-1] >= max(slack[:-1].max() - NEAR_NS, slack[-1] + LEAST_NS))[0]
        return int(tiles[good[np.argmin(wire[good])]]) if len(good) else None

    def _at(self, index: int, unit: Unit, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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

    def _move(self, index: int, tile: int) -> None:
        unit = self.units[index]
        self.moves.append((index, self.slices.at(unit)))
        self.slices.move(unit, tile)
        self._follow(unit)

    def _follow(self, unit: Unit) -> None:
        self.x[unit.pins], self.y[unit.pins], _ = self.slices.where(unit)
        self.has_moved[unit.pins] = True
