"""Late paths of a routed netlist: their cells to better places once more, by the delays that their wires got.

Routed wires are not as foretold: the router goes a long way round with some. These are routed anew, and cells move as after placement
(`relocate.py`); nextpnr keeps the routes that a netlist has. All other nets are locked: a router that may take their wires has to find
these nets others in turn, and does not come to an end.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import numpy as np

from .grid import Grid
from .relocate import Relocation, Relocator
from .timing import Delays

__all__ = ["mend"]

MARGIN = 0.995
"""Of the period to reach, the one aimed at here. Little is changed at a time: amid locked nets not every new route is a better one."""
AROUND = 1.1
"""Times the usual delay, from which a wire goes a long way round."""

FITS, LEAST_OFF_NS = 20, 0.001
"""Rounds of fitting wires' usual delays, and what counts as on the line."""

_WEAK, _LOCKED = "1", "5"
"""Of a step of a route, as nextpnr has them: whether its router may take it for another net."""
_PIN = re.compile(r"SLICE([ABCD])\.(?:K|FF)([01])")
_OF_A_HALF = ("A", "B", "C", "D", "M")
"""Pins that a slice has two of; flip-flops share the others."""


def mend(module: dict[str, Any], delays: Delays, grid: Grid, period_ns: float) -> tuple[Relocation, int]:
    """Changes the flat `module` of a netlist that nextpnr routed and wrote, by its wires' own `delays`, which become what is then expected.

    Returns what moved, and how many wires are to be routed again, as `module` has no routes for them: those of cells that moved, and those
    on late paths that go a long way round.
    """
    mender = _Mender(module, delays, grid, period_ns * MARGIN)
    around = mender.straighten()
    done = mender.run(mender.period_ns)
    moved = mender.has_moved
    again = set(np.nonzero(delays.is_wire & (moved[delays.source] | moved[delays.sink]))[0].tolist())
    whole = {mender.net(arc) for arc in again if moved[delays.source[arc]]}
    whole |= {mender.net(arc) for arc in again if mender.is_clock[arc]}
    last: dict[int, set[str]] = defaultdict(set)
    for arc in set(around.tolist()) - again:
        if wire := mender.last_wire(arc):
            last[mender.net(arc)].add(wire)
        else:
            whole.add(mender.net(arc))
    cells = {mender.named[delays.pins[pin][0]] for pin in np.nonzero(moved)[0]}
    changed = {bit for name in cells for bits in module["cells"][name]["connections"].values() for bit in bits} | set(last)
    for net in module["netnames"].values():
        route = net["attributes"].pop("ROUTING", "")
        if ";" in route and not whole.intersection(net["bits"]):  # else a blank: nextpnr would not take an empty one
            wires = set[str]().union(*(last[bit] for bit in net["bits"] if bit in last))
            net["attributes"]["ROUTING"] = _again(route, wires, _WEAK if changed.intersection(net["bits"]) else _LOCKED)
    return done, len(again.union(around.tolist()))


def _again(route: str, without: set[str], strength: str) -> str:
    """A route, which nextpnr writes as wire;pip;strength over and over, without some of its wires. What leads only to these it drops."""
    parts = route.split(";")
    steps = (parts[at : at + 2] for at in range(0, len(parts) - 2, 3))
    return ";".join(";".join([*step, strength]) for step in steps if step[0] not in without)


class _Mender(Relocator):
    def _wires(self) -> None:
        """All but dedicated wires, which have no delay, and the clock's."""
        d = self.delays
        self.named = {name.replace("\\", ""): name for name in self.slices.cells}
        clock = np.array([name in self.named and self.slices.cells[self.named[name]]["type"] == "DCCA" for name, _ in d.pins])
        self.is_clock = clock[d.source]
        self.follows = self.known & ((d.ns > 0) | self.logic[d.sink]) & ~self.is_clock
        self.fixed = self.follows
        some = self.follows & (d.ns > 0)
        if some.any():
            self.first_ns, self.unit_ns = _line(self._distance()[some], d.ns[some])

    def straighten(self) -> np.ndarray:
        """Takes the usual delay for wires on late paths that go a long way round. Returns them."""
        d, usual = self.delays, self._distance()
        late = self.timing.arrival()[d.source] + d.ns > self.timing.required(self.period_ns)[d.sink]
        around = np.nonzero(late & self.follows & (d.ns > usual * AROUND))[0]
        d.ns[around] = usual[around]
        return around

    def net(self, arc: int) -> int:
        """That of a wire."""
        cell, port = self.delays.pins[self.delays.source[arc]]
        return self.slices.net(self.named[cell], port)

    def last_wire(self, arc: int) -> str | None:
        """The name of a wire's last step, at a pin of a LUT or a flip-flop; None at others, of other names."""
        cell, port = self.delays.pins[self.delays.sink[arc]]
        x, y, bel = self.slices.place[self.named[cell]]
        if not (match := _PIN.fullmatch(bel)):
            return None
        slice = "ABCD".index(match[1])
        return f"X{x}/Y{y}/{port}{2 * slice + int(match[2]) if port in _OF_A_HALF else slice}_SLICE"


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Where a line begins and how it rises from which y is not far off in all: few far ones do not count for more."""
    at = np.stack([np.ones(len(x)), x], axis=1)
    weight, line = np.ones(len(x)), np.zeros(2)
    for _ in range(FITS):
        line = np.linalg.lstsq(at * weight[:, None], y * weight, rcond=None)[0]
        weight = 1 / np.sqrt(np.maximum(np.abs(y - at @ line), LEAST_OFF_NS))
    return float(line[0]), float(line[1])
