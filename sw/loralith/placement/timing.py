"""Static timing analysis of a placed or routed netlist, from nextpnr's SDF."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from .names import designer
from .placement_error import PlacementError

__all__ = ["Delays", "LatePaths", "Pin", "Timing", "read_sdf"]

Pin = tuple[str, str]
"""Cell and port."""

_UNCLOCKED = "nextpnr's SDF has no path between clocked pins"
_IOPATH = re.compile(r"\(IOPATH (?:\((?:posedge|negedge) (\S+)\)|(\S+)) (\S+) \(([^)]*)\)")
_SETUP = re.compile(r"\(SETUPHOLD \((?:posedge|negedge) (\S+)\) \((?:posedge|negedge) \S+\) \(([^)]*)\)")
_WIRE = re.compile(r"\(INTERCONNECT (\S+) (\S+) \(([^)]*)\)")


@dataclass
class Delays:
    """The delays of an SDF, in ns.

    Attributes:
        pins: cell and port; the arrays refer to pins by index.
        clock_to_q: of each clocked output; -inf for other pins.
        setup: of each clocked input (end point); nan for other pins.
        source, sink, ns, is_wire: timing arcs between pins, through a cell or along a wire.
    """

    pins: list[Pin]
    clock_to_q: np.ndarray
    setup: np.ndarray
    source: np.ndarray
    sink: np.ndarray
    ns: np.ndarray
    is_wire: np.ndarray

    def with_cells_of(self, other: Delays) -> Delays:
        """A copy with these wire delays and `other`'s cell delays for the same arcs."""
        numbers = {pin: number for number, pin in enumerate(other.pins)}
        known = {
            (int(source), int(sink)): float(ns)
            for source, sink, ns, is_wire in zip(other.source, other.sink, other.ns, other.is_wire, strict=True)
            if not is_wire
        }
        ns = self.ns.copy()
        for arc in np.nonzero(~self.is_wire)[0]:
            ends = (numbers.get(self.pins[self.source[arc]], -1), numbers.get(self.pins[self.sink[arc]], -1))
            ns[arc] = known.get(ends, ns[arc])
        return replace(self, ns=ns)


@dataclass(frozen=True)
class LatePaths:
    """Late paths from one module to ports of one kind of another: number of end points, and the worst path's slack and delays in ns."""

    source: str
    sink: str
    pin: str
    count: int
    slack_ns: float
    wires_ns: float
    logic_ns: float
    wires: int


def read_sdf(lines: Iterable[str]) -> Delays:
    """The slow corner of nextpnr's SDF, one statement per line. Names are without backslashes."""
    numbers: dict[Pin, int] = {}
    clock_to_q: dict[int, float] = {}
    setup: dict[int, float] = {}
    arcs: list[tuple[int, int, float, bool]] = []
    cell = ""

    def pin(name: str, port: str) -> int:
        return numbers.setdefault((name, port), len(numbers))

    for line in lines:
        text = line.strip()
        if text.startswith("(INSTANCE"):
            cell = _plain(text[9:-1].strip())
        elif match := _IOPATH.match(text):
            clock, source, sink, delay = match.groups()
            if clock or source.startswith(("CLK", "WCK")):
                clock_to_q[pin(cell, sink)] = _ns(delay)
            else:
                arcs.append((pin(cell, source), pin(cell, sink), _ns(delay), False))
        elif match := _SETUP.match(text):
            setup[pin(cell, match[1])] = _ns(match[2])
        elif match := _WIRE.match(text):
            arcs.append((pin(*_split(match[1])), pin(*_split(match[2])), _ns(match[3]), True))
    delays = Delays(
        list(numbers),
        np.full(len(numbers), -np.inf),
        np.full(len(numbers), np.nan),
        *(np.array([arc[i] for arc in arcs], kind) for i, kind in enumerate((int, int, float, bool))),
    )
    for values, array in ((clock_to_q, delays.clock_to_q), (setup, delays.setup)):
        array[list(values)] = list(values.values())
    return delays


class Timing:
    """Arrival and required times at all pins, from the values that `delays.ns` has at the call."""

    def __init__(self, delays: Delays) -> None:
        self.delays = delays
        count = len(delays.pins)
        self.level = self._levels()
        self._forward = self._arcs_by_level(delays.sink)
        self._backward = self._arcs_by_level(delays.source)[::-1]
        by_sink, by_source = np.argsort(delays.sink, kind="stable"), np.argsort(delays.source, kind="stable")
        self._fanin = by_sink, np.searchsorted(delays.sink[by_sink], np.arange(count + 1))
        self._fanout = by_source, np.searchsorted(delays.source[by_source], np.arange(count + 1))

    def fanin_arcs(self, pin: int) -> np.ndarray:
        """Arcs that end at a pin."""
        arcs, first = self._fanin
        return arcs[first[pin] : first[pin + 1]]

    def fanout_arcs(self, pin: int) -> np.ndarray:
        """Arcs that begin at a pin."""
        arcs, first = self._fanout
        return arcs[first[pin] : first[pin + 1]]

    def arrival(self) -> np.ndarray:
        """Arrival time in ns after the clock edge at every pin; -inf where no clocked output leads to it."""
        d, times = self.delays, self.delays.clock_to_q.copy()
        for arcs, pins, first in self._forward:
            times[pins] = np.maximum(times[pins], np.maximum.reduceat(times[d.source[arcs]] + d.ns[arcs], first))
        return times

    def required(self, period_ns: float) -> np.ndarray:
        """Required time in ns at every pin; inf where it leads to no end point."""
        d = self.delays
        times = np.where(np.isnan(d.setup), np.inf, period_ns - d.setup)
        for arcs, pins, first in self._backward:
            times[pins] = np.minimum(times[pins], np.minimum.reduceat(times[d.sink[arcs]] - d.ns[arcs], first))
        return times

    def critical_path(self) -> tuple[list[int], int]:
        """Arcs of the critical path and its end point. Raises PlacementError where nothing is clocked."""
        d, arrival = self.delays, self.arrival()
        total = np.where(np.isnan(d.setup), -np.inf, arrival + d.setup)
        if not np.isfinite(total).any():
            raise PlacementError(_UNCLOCKED)
        end = int(np.argmax(total))
        return self._path_arcs(end, arrival)[::-1], end

    def _path_arcs(self, end: int, arrival: np.ndarray) -> list[int]:
        """Arcs of the path with the latest arrival at a pin, the last arc first."""
        d, at = self.delays, end
        steps: list[int] = []
        while len(arcs := self.fanin_arcs(at)):
            arc = int(arcs[np.argmax(arrival[d.source[arcs]] + d.ns[arcs])])
            if arrival[d.source[arc]] == -np.inf:
                break
            steps.append(arc)
            at = int(d.source[arc])
        return steps

    def path_pins(self, end: int, arrival: np.ndarray) -> list[int]:
        """Pins of the path with the latest arrival at a pin, from its start to that pin."""
        arcs = self._path_arcs(end, arrival)
        return [*(int(self.delays.source[arc]) for arc in reversed(arcs)), end]

    def report(self, period_ns: float) -> dict:
        """`expected_mhz`, `end_points`, `late_points` and `late` (a list of `LatePaths`).

        Raises PlacementError where nothing is clocked.
        """
        d, arrival = self.delays, self.arrival()
        slacks = period_ns - d.setup - arrival
        ends = np.nonzero(~np.isnan(d.setup) & np.isfinite(arrival))[0]
        ends = ends[np.argsort(slacks[ends], kind="stable")]
        if not len(ends):
            raise PlacementError(_UNCLOCKED)
        groups: dict[tuple[str, str, str], list[LatePaths]] = defaultdict(list)
        for end in ends[slacks[ends] < 0]:
            steps = self._path_arcs(int(end), arrival)
            at = d.source[steps[-1]] if steps else end
            key = (_module(d.pins[at][0]), _module(d.pins[end][0]), re.sub(r"\d+", "", d.pins[end][1]))
            wires = [d.ns[arc] for arc in steps if d.is_wire[arc]]
            logic = sum(d.ns[arc] for arc in steps if not d.is_wire[arc])
            slack_ns, wires_ns, logic_ns = (round(float(value), 3) for value in (slacks[end], sum(wires), logic))
            groups[key].append(LatePaths(*key, 0, slack_ns, wires_ns, logic_ns, len(wires)))
        late = [replace(paths[0], count=len(paths)) for paths in groups.values()]
        return {
            "expected_mhz": round(1000 / (period_ns - float(slacks[ends[0]])), 2),
            "end_points": len(ends),
            "late_points": int((slacks[ends] < 0).sum()),
            "late": sorted(late, key=lambda group: (-group.count, group.slack_ns)),
        }

    def _levels(self) -> np.ndarray:
        """Topological level of each pin: the most arcs from a pin without fan-in."""
        d = self.delays
        count = len(d.pins)
        order = np.argsort(d.source, kind="stable")
        first = np.searchsorted(d.source[order], np.arange(count + 1))
        missing, level = np.bincount(d.sink, minlength=count), np.zeros(count, int)
        ready, depth = np.nonzero(missing == 0)[0], 0
        while len(ready):
            level[ready] = depth
            sinks = d.sink[order[np.concatenate([np.arange(first[pin], first[pin + 1]) for pin in ready])]]
            np.subtract.at(missing, sinks, 1)
            reached = np.unique(sinks)
            ready, depth = reached[missing[reached] == 0], depth + 1
        return level

    def _arcs_by_level(self, ends: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Arcs grouped by the level of their `ends`: (arcs, the pins that they end at, index of each pin's first arc)."""
        order = np.lexsort((ends, self.level[ends]))
        cuts = np.nonzero(np.diff(self.level[ends][order]))[0] + 1
        steps = []
        for arcs in np.split(order, cuts):
            pins, first = np.unique(ends[arcs], return_index=True)
            steps.append((arcs, pins, first))
        return steps


def _ns(delay: str) -> float:
    """The slowest of three in ps."""
    return max(float(value) for value in delay.split(":") if value) / 1000


def _plain(name: str) -> str:
    return name.replace("\\", "")


def _split(text: str) -> Pin:
    cell, _, port = _plain(text).rpartition("/")
    return cell, port


def _module(cell: str) -> str:
    """The module of a cell, without the numbers of its twins."""
    return re.sub(r"\$?\d+", "", designer(cell).rpartition(".")[0]) or "harness"
