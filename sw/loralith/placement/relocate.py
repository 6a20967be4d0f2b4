"""Timing-driven relocation of cells after placement: nextpnr's static placer minimizes wire length and ignores timing.

Each pass visits the units (a cell with what must share its slice) on paths with negative slack, the worst first, and moves each to the free
slice at which the worst slack through it is largest; then arrival times are computed again. When passes no longer gain, neighbours on a
critical path move together: on a path that goes far and comes back no cell gains alone. The free slices are mostly those of the whitespace
rows (`whitespace.py`). Wire delays are the placer's function of the distance, corrected for routing, see `estimate_routed`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .grid import Grid
from .slices import Location, Slices, Unit
from .timing import Delays, Timing

__all__ = ["ROUTED_OFFSET_NS", "ROUTED_SCALE", "Relocation", "Relocator", "relocate", "estimate_routed"]

ROUTED_SCALE, ROUTED_OFFSET_NS = 0.61, 0.33
"""A routed wire's delay is the placer's estimate times this scale plus this offset, fitted to the accelerator's late paths. Wires with
slack take somewhat more. A few wires get detours, so that the routed clock may be below the predicted one."""
PERIOD_SHARES, GOOD_SHARE = (0.9, 0.8), 0.95
"""Shares of the target period, aimed at in turn until the critical path takes no more than `GOOD_SHARE` of it. A margin is needed:
routed wires differ from the prediction; a large one costs, as each move lengthens the wires of other paths."""
ENOUGH_SLACK_NS = 0.3
"""More slack than this is worth nothing."""
MIN_GAIN_NS = 0.03
"""Least gain of slack for which a unit moves."""
TIE_NS = 0.05
"""Among tiles whose slack differs by less, the one with the least wire wins."""
SEARCH_MARGIN = 6
"""Tiles around the bounding box of a unit's neighbours that are candidates."""
MAX_PASSES = 40
PATIENCE = 3
"""Passes in a row without a gain before giving up: a pass moves units for the sake of one path each, and may harm others."""
GROUP_SIZES = (2, 3, 4, 5)
"""Numbers of neighbours on a late path that are tried as a group."""
WORST_END_POINTS = 20
"""Groups are taken from this many of the paths with the worst slack."""
MAX_ROUNDS = 100
"""Most group moves, each followed by passes."""
PROGRESS_EVERY = 10
"""Rounds from one line of progress to the next."""

_State = tuple[int, np.ndarray, np.ndarray, np.ndarray]
"""Number of moves made, arc delays, which pins moved, and arrival times."""


@dataclass(frozen=True)
class Relocation:
    """Number of units moved; late end points and total negative slack (TNS, ns) before and after, against the target period."""

    moved: int
    late_before: int
    late_after: int
    tns_before: float
    tns_after: float


def relocate(
    module: dict[str, Any], delays: Delays, grid: Grid, period_ns: float, progress: Callable[[str], None] = lambda line: None
) -> Relocation:
    """Relocates cells of the flat `module` of a netlist that nextpnr placed and wrote, for `period_ns`.

    `delays`, from the SDF of the same run, ends as the estimate of routed delays at the new locations. `progress` gets a line every
    `PROGRESS_EVERY` rounds. Removes the cells of `whitespace.reserve` (reserved_*), as nothing is placed after this.
    """
    for name in [name for name in module["cells"] if name.startswith("reserved_")]:
        del module["cells"][name]
    relocator = Relocator(module, delays, grid, period_ns, progress)
    for share in PERIOD_SHARES:
        done = relocator.run(period_ns * share)
        if relocator.longest_ns() <= period_ns * GOOD_SHARE:
            break
    return done


def estimate_routed(delays: Delays) -> None:
    """Turns the placer's wire delays into an estimate of routed ones; wires of zero delay, which are direct, keep it."""
    wires = delays.is_wire & (delays.ns > 0)
    delays.ns[wires] = delays.ns[wires] * ROUTED_SCALE + ROUTED_OFFSET_NS


class Relocator:
    """Relocates cells of late paths of `module`.

    Attributes:
        has_moved: by pin, whether its cell has moved.
        by_distance: by arc, whether it is a wire whose delay is computed from the positions of its ends.
        keeps_delay: by arc, those of `by_distance` that keep their delay until one of their ends moves.
    """

    def __init__(
        self, module: dict[str, Any], delays: Delays, grid: Grid, period_ns: float, progress: Callable[[str], None] = lambda line: None
    ) -> None:
        self.delays, self.period_ns, self.progress = delays, period_ns, progress
        self.moves: list[tuple[int, Location]] = []
        """Index of each unit moved, and its location before."""
        self.tried: set[tuple[int, ...]] = set()
        """Groups that were moved, and the pin to which: not tried again before something has gained."""
        self.has_moved = np.zeros(len(delays.pins), bool)
        self.slices = Slices(module["cells"], grid)
        at = {name.replace("\\", ""): place[:2] for name, place in self.slices.place.items()}
        self.x, self.y = np.array([at.get(cell, (-1, -1)) for cell, _ in delays.pins]).T.copy()
        self.known = delays.is_wire & (self.x[delays.source] >= 0) & (self.x[delays.sink] >= 0)
        self.logic = np.array([port in ("A", "B", "C", "D") for _, port in delays.pins])
        self.offset_ns, self.ns_per_unit = 0.0, 1.0
        self._classify_wires()
        self.timing = Timing(delays)
        self._collect_units()

    # Wire delays and timing.

    def _classify_wires(self) -> None:
        """Sets `by_distance` (the wires that nextpnr's placer estimates by distance), `keeps_delay`, `offset_ns` and `ns_per_unit`."""
        d, known = self.delays, self.known
        distance = self._distance()
        estimated = known & (d.ns > 0)
        self.ns_per_unit = (
            float(np.median(d.ns[estimated] / distance[estimated])) if estimated.any() else 0.0
        )  # nearly all wires' is the same
        # Within a tile some wires are direct, until one of their ends moves.
        self.keeps_delay = known & (distance == 6) & (d.ns == 0) & self.logic[d.sink]
        self.by_distance = (known & (np.abs(distance * self.ns_per_unit - d.ns) < 0.002)) | self.keeps_delay
        estimate_routed(d)
        self.offset_ns, self.ns_per_unit = ROUTED_OFFSET_NS, self.ns_per_unit * ROUTED_SCALE

    def _distance(self) -> np.ndarray:
        """Of each arc, by the placer's function of distance; a delay in ns once `offset_ns` and `ns_per_unit` are known."""
        d = self.delays
        return self._delay(self.x[d.source] - self.x[d.sink], self.y[d.source] - self.y[d.sink])

    def _delay(self, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        dx, dy = np.abs(dx), np.abs(dy)
        far, near = np.maximum(dx - 5, 0) + np.maximum(dy - 5, 0), np.minimum(dx, 5) + np.minimum(dy, 5)
        return self.offset_ns + self.ns_per_unit * (6 + far + 2 * near)

    def _update_timing(self) -> None:
        """Wire delays for the present positions, and the arrival times."""
        d = self.delays
        arcs = np.nonzero(self.by_distance & (~self.keeps_delay | self.has_moved[d.source] | self.has_moved[d.sink]))[0]
        source, sink = d.source[arcs], d.sink[arcs]
        d.ns[arcs] = self._delay(self.x[source] - self.x[sink], self.y[source] - self.y[sink])
        self.arrival = self.timing.arrival()

    def _update_slack(self) -> None:
        self.required = self.timing.required(self.period_ns)
        self.slack = self.required - self.arrival

    def _collect_units(self) -> None:
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
                if unit.leaves_chain and self.delays.pins[pin][1] == "DI":
                    self.by_distance[self.timing.fanin_arcs(pin)] = self.keeps_delay[self.timing.fanin_arcs(pin)] = True

    # Moves.

    def longest_ns(self) -> float:
        """Delay of the critical path; 0 where nothing is clocked."""
        return float(np.nanmax(np.append(self.arrival + self.delays.setup, 0.0)))

    def run(self, period_ns: float) -> Relocation:
        """Relocates until no path is late for `period_ns`, or nothing gains any more."""
        self.period_ns = period_ns
        self.tried.clear()
        self._update_timing()
        before = self._late()
        self._passes()
        for number in range(1, MAX_ROUNDS + 1):
            late = self._late_slacks()
            if not self._move_group():
                break
            self._passes()
            if self._improved(late):
                self.tried.clear()
            if not number % PROGRESS_EVERY:
                self.progress(f"relocate: {number} of at most {MAX_ROUNDS} rounds, longest path {self.period_ns - late.min():.2f} ns")
        self.slices.write()
        after = self._late()
        return Relocation(len({index for index, _ in self.moves}), before[0], after[0], before[1], after[1])

    def _passes(self) -> None:
        """Passes while they gain, then back to the best state: the worst slack counts first, then TNS."""
        best, late, without_gain = self._save(), self._late_slacks(), 0
        for _ in range(MAX_PASSES):
            self._update_slack()
            if without_gain == PATIENCE or not self._pass():
                break
            self._update_timing()
            without_gain += 1
            if self._improved(late) or self._late_slacks().min(initial=0) > late.min(initial=0) + MIN_GAIN_NS:
                best, late, without_gain = self._save(), self._late_slacks(), 0
        if without_gain:
            self._restore(best)

    def _late(self) -> tuple[int, float]:
        late = self._late_slacks()
        return len(late), round(float(late.sum()), 1)

    def _late_slacks(self) -> np.ndarray:
        ends = self.period_ns - self.delays.setup - self.arrival
        return ends[~np.isnan(ends) & (ends < 0)]

    def _save(self) -> _State:
        return len(self.moves), self.delays.ns.copy(), self.has_moved.copy(), self.arrival

    def _restore(self, state: _State) -> None:
        """Back to a state of `_save`."""
        count, ns, has_moved, self.arrival = state
        while len(self.moves) > count:
            index, place = self.moves.pop()
            self.slices.restore(self.units[index], place)
            self._update_positions(self.units[index])
        self.delays.ns[:], self.has_moved[:] = ns, has_moved

    def _pass(self) -> bool:
        """Moves late units, but no critical neighbour of one that moved, whose times are out of date. Returns whether one moved."""
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
            neighbours = self._neighbours(unit)
            tile = self._best_tile(index, unit, neighbours) if len(neighbours) else None
            if tile is not None:
                self._move(index, tile)
                waiting |= {int(self.unit_of[pin]) for pin in neighbours if self.slack[pin] < ENOUGH_SLACK_NS}
        return len(self.moves) > count

    def _move_group(self) -> bool:
        """Moves neighbours on one of the worst paths next to their predecessor or successor, where that gains. Whether a group moved.

        A group in `tried` is not tried again before something has gained: the passes that follow may undo it.
        """
        ends = self.period_ns - self.delays.setup - self.arrival
        late = np.nonzero(ends < 0)[0]
        for end in late[np.argsort(ends[late], kind="stable")][:WORST_END_POINTS]:
            pins = self.timing.path_pins(int(end), self.arrival)
            pins = [pin for i, pin in enumerate(pins) if i == 0 or self.unit_of[pin] != self.unit_of[pins[i - 1]]]
            path = [int(self.unit_of[pin]) for pin in pins]
            for count in GROUP_SIZES:
                for first in range(len(path) - count + 1):
                    group = path[first : first + count]
                    if len(set(group)) < count or any(index < 0 or self.units[index].leaves_chain for index in group):
                        continue
                    for beside in (first - 1, first + count):
                        if 0 <= beside < len(path) and path[beside] not in group and self._try_group(group, pins[beside], ends[late]):
                            return True
        return False

    def _try_group(self, group: list[int], pin: int, late: np.ndarray) -> bool:
        """Moves units to the free tiles nearest to a pin; takes the moves back unless they improve on the slacks `late`."""
        if (*group, pin) in self.tried:
            return False
        self.tried.add((*group, pin))
        before = self._save()
        for index in group:
            tiles = self.slices.free_tiles(self.units[index])
            if len(tiles):
                distance = np.abs(self.slices.tile_x[tiles] - self.x[pin]) + np.abs(self.slices.tile_y[tiles] - self.y[pin])
                self._move(index, int(tiles[np.argmin(distance)]))
        self._update_timing()
        if self._improved(late):
            return True
        self._restore(before)
        return False

    def _improved(self, late: np.ndarray) -> bool:
        """Whether worst slack or TNS is better than that of the negative slacks `late`, and neither is worse."""
        now = self._late_slacks()
        first, all_late = now.min(initial=0) - late.min(initial=0), now.sum() - late.sum()
        return bool(min(first, all_late) >= 0 and max(first, all_late) > MIN_GAIN_NS)

    def _neighbours(self, unit: Unit) -> np.ndarray:
        """Pins of other cells that a unit's wires lead to."""
        d = self.delays
        into = np.concatenate([self.timing.fanin_arcs(pin) for pin in unit.pins])
        out = np.concatenate([self.timing.fanout_arcs(pin) for pin in unit.pins])
        return np.concatenate([d.source[into[self.by_distance[into]]], d.sink[out[self.by_distance[out]]]])

    def _best_tile(self, index: int, unit: Unit, neighbours: np.ndarray) -> int | None:
        """The tile with the largest worst slack through a unit; None where no tile gains `MIN_GAIN_NS`."""
        critical = neighbours[self.slack[neighbours] < ENOUGH_SLACK_NS]
        critical = critical if len(critical) and not unit.leaves_chain else neighbours
        tiles = self.slices.free_tiles(unit)
        for places, at in ((self.x[critical], self.slices.tile_x), (self.y[critical], self.slices.tile_y)):
            tiles = tiles[(at[tiles] >= places.min() - SEARCH_MARGIN) & (at[tiles] <= places.max() + SEARCH_MARGIN)]
        if not len(tiles):
            return None
        x, y, _ = self.slices.position(unit)
        slack, wire = self._cost_at(index, unit, np.append(self.slices.tile_x[tiles], x), np.append(self.slices.tile_y[tiles], y))
        slack = np.minimum(slack, ENOUGH_SLACK_NS)
        good = np.nonzero(slack[:-1] >= max(slack[:-1].max() - TIE_NS, slack[-1] + MIN_GAIN_NS))[0]
        return int(tiles[good[np.argmin(wire[good])]]) if len(good) else None

    def _cost_at(self, index: int, unit: Unit, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Worst slack through a unit and its wire length, for each of several positions; the last one is the present one."""
        d = self.delays
        times: dict[int, np.ndarray] = {}
        slack, length = np.full(len(x), np.inf), np.zeros(len(x))

        def wire(arc: int, other: int) -> np.ndarray | float:
            nonlocal length
            if not self.by_distance[arc]:
                return d.ns[arc]
            length = length + np.abs(x - self.x[other]) + np.abs(y - self.y[other])
            ns = self._delay(x - self.x[other], y - self.y[other])
            ns[-1] = d.ns[arc]
            return ns

        for pin in unit.pins:
            time = np.full(len(x), d.clock_to_q[pin])
            for arc in self.timing.fanin_arcs(pin):
                source = int(d.source[arc])
                if self.unit_of[source] == index:
                    time = np.maximum(time, times[source] + d.ns[arc])
                else:
                    time = np.maximum(time, self.arrival[source] + wire(arc, source))
            times[pin] = time
            if not np.isnan(d.setup[pin]):
                slack = np.minimum(slack, self.period_ns - d.setup[pin] - time)
            for arc in self.timing.fanout_arcs(pin):
                sink = int(d.sink[arc])
                if self.unit_of[sink] != index:
                    slack = np.minimum(slack, self.required[sink] - time - wire(arc, sink))
        return slack, length

    def _move(self, index: int, tile: int) -> None:
        unit = self.units[index]
        self.moves.append((index, self.slices.location(unit)))
        self.slices.move(unit, tile)
        self._update_positions(unit)

    def _update_positions(self, unit: Unit) -> None:
        self.x[unit.pins], self.y[unit.pins], _ = self.slices.position(unit)
        self.has_moved[unit.pins] = True
