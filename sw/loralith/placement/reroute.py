"""Rip-up and reroute of late paths of a routed netlist, with another relocation of their cells by the routed delays.

The router gives some wires detours that no estimate predicts. This pass removes the routes of detours on late paths and relocates cells as
after placement (`relocate.py`); nextpnr then routes what has no route and keeps the rest. All other nets are locked: a router that may rip
them up has to reroute those in turn, and does not converge.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import numpy as np

from .grid import Grid
from .relocate import Relocation, Relocator
from .timing import Delays

__all__ = ["rip_up"]

PERIOD_SHARE = 0.995
"""Share of the target period that this pass aims at. The margin is small: amid locked nets not every new route is a better one."""
DETOUR = 1.1
"""A wire is a detour from this many times the delay that is usual for its distance."""

FIT_ROUNDS, MIN_RESIDUAL_NS = 20, 0.001
"""Iterations of the fit of delay against distance; residuals below the latter count as equal."""

_WEAK, _LOCKED = "1", "5"
"""Strength of a route's step in nextpnr: whether its router may rip it up for another net."""
_PIN = re.compile(r"SLICE([ABCD])\.(?:K|FF)([01])")
_PER_HALF = ("A", "B", "C", "D", "M")
"""Pins that each half of a slice has; its flip-flops share the others."""


def rip_up(module: dict[str, Any], delays: Delays, grid: Grid, period_ns: float) -> tuple[Relocation, int]:
    """Relocates cells of late paths and rips up wires in the flat `module` of a netlist that nextpnr routed and wrote.

    `delays` are the routed ones; they end as the estimate after rerouting. Returns what moved, and the number of wires without a route: all
    wires of cells that moved, and the detours on late paths.
    """
    rerouter = _Rerouter(module, delays, grid, period_ns * PERIOD_SHARE)
    detours = rerouter.take_out_detours()
    done = rerouter.run(rerouter.period_ns)
    moved = rerouter.has_moved
    again = set(np.nonzero(delays.is_wire & (moved[delays.source] | moved[delays.sink]))[0].tolist())
    full_nets = {rerouter.net(arc) for arc in again if moved[delays.source[arc]]}
    full_nets |= {rerouter.net(arc) for arc in again if rerouter.is_clock[arc]}
    sink_wires: dict[int, set[str]] = defaultdict(set)
    for arc in set(detours.tolist()) - again:
        if wire := rerouter.sink_wire(arc):
            sink_wires[rerouter.net(arc)].add(wire)
        else:
            full_nets.add(rerouter.net(arc))
    cells = {rerouter.cell_name[delays.pins[pin][0]] for pin in np.nonzero(moved)[0]}
    changed = {bit for name in cells for bits in module["cells"][name]["connections"].values() for bit in bits} | set(sink_wires)
    for net in module["netnames"].values():
        route = net["attributes"].pop("ROUTING", "")
        if ";" in route and not full_nets.intersection(net["bits"]):  # else a blank: nextpnr would not take an empty one
            wires = set[str]().union(*(sink_wires[bit] for bit in net["bits"] if bit in sink_wires))
            net["attributes"]["ROUTING"] = _without_wires(route, wires, _WEAK if changed.intersection(net["bits"]) else _LOCKED)
    return done, len(again.union(detours.tolist()))


def _without_wires(route: str, without: set[str], strength: str) -> str:
    """A route (wire;pip;strength per step) less the wires in `without`, at `strength`. nextpnr drops steps that lead to nothing else."""
    parts = route.split(";")
    steps = (parts[at : at + 2] for at in range(0, len(parts) - 2, 3))
    return ";".join(";".join([*step, strength]) for step in steps if step[0] not in without)


class _Rerouter(Relocator):
    def _classify_wires(self) -> None:
        """`by_distance`: all wires but the clock's and dedicated ones, which have no delay."""
        d = self.delays
        self.cell_name = {name.replace("\\", ""): name for name in self.slices.cells}
        clock = np.array([name in self.cell_name and self.slices.cells[self.cell_name[name]]["type"] == "DCCA" for name, _ in d.pins])
        self.is_clock = clock[d.source]
        self.by_distance = self.known & ((d.ns > 0) | self.logic[d.sink]) & ~self.is_clock
        self.keeps_delay = self.by_distance
        timed = self.by_distance & (d.ns > 0)
        if timed.any():
            self.offset_ns, self.ns_per_unit = _line(self._distance()[timed], d.ns[timed])

    def take_out_detours(self) -> np.ndarray:
        """Gives detours on late paths the usual delay for their distance; returns their arcs."""
        d, usual = self.delays, self._distance()
        late = self.timing.arrival()[d.source] + d.ns > self.timing.required(self.period_ns)[d.sink]
        detours = np.nonzero(late & self.by_distance & (d.ns > usual * DETOUR))[0]
        d.ns[detours] = usual[detours]
        return detours

    def net(self, arc: int) -> int:
        """The net of a wire."""
        cell, port = self.delays.pins[self.delays.source[arc]]
        return self.slices.net(self.cell_name[cell], port)

    def sink_wire(self, arc: int) -> str | None:
        """Name of the routing wire at the sink pin of an arc; None where the sink is neither LUT nor flip-flop."""
        cell, port = self.delays.pins[self.delays.sink[arc]]
        x, y, bel = self.slices.place[self.cell_name[cell]]
        if not (match := _PIN.fullmatch(bel)):
            return None
        slice = "ABCD".index(match[1])
        return f"X{x}/Y{y}/{port}{2 * slice + int(match[2]) if port in _PER_HALF else slice}_SLICE"


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Offset and slope of a least-absolute-deviation line through (x, y), which outliers do not move."""
    at = np.stack([np.ones(len(x)), x], axis=1)
    weight, line = np.ones(len(x)), np.zeros(2)
    for _ in range(FIT_ROUNDS):
        line = np.linalg.lstsq(at * weight[:, None], y * weight, rcond=None)[0]
        weight = 1 / np.sqrt(np.maximum(np.abs(y - at @ line), MIN_RESIDUAL_NS))
    return float(line[0]), float(line[1])
