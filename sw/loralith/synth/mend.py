"""Late paths of a routed netlist: their cells to better places once more, by the delays that their wires got.

Routed wires are not as foretold: the router goes a long way round with some. A new route for these alone, all others in place, is mostly
straight, and nextpnr keeps the routes that a netlist has. Cells move as after placement (`relocate.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .board import Grid
from .relocate import Relocation, Relocator
from .timing import Delays

__all__ = ["mend"]

MARGIN = 0.97
"""Of the period to reach, the one aimed at here."""
USUAL = 0.75
"""This share of routed wires is faster, for its length, than what a new one is taken for."""
AROUND = 1.2
"""Times the usual delay, from which a wire goes a long way round."""


def mend(module: dict[str, Any], delays: Delays, grid: Grid, period_ns: float) -> tuple[Relocation, set[int]]:
    """Changes the flat `module` of a netlist that nextpnr routed and wrote, by its wires' own `delays`, which become what is then expected.

    Returns what moved, and the nets that are to be routed again, without routes now: those of cells that moved, and those with a wire on
    a late path that goes a long way round.
    """
    mender = _Mender(module, delays, grid, period_ns * MARGIN)
    around = mender.straighten()
    done = mender.run()
    moved = mender.has_moved
    again = {*around.tolist(), *np.nonzero(delays.is_wire & (moved[delays.source] | moved[delays.sink]))[0].tolist()}
    nets = {mender.net(arc) for arc in again}
    for net in module["netnames"].values():
        if nets.intersection(net["bits"]):
            net["attributes"].pop("ROUTING", None)
    return done, nets


class _Mender(Relocator):
    def _wires(self) -> None:
        """All but dedicated wires, which have no delay, and the clock's."""
        d = self.delays
        self.named = {name.replace("\\", ""): name for name in self.cells}
        clock = np.array([name in self.named and self.cells[self.named[name]]["type"] == "DCCA" for name, _ in d.pins])
        self.follows = self.known & ((d.ns > 0) | self.logic[d.sink]) & ~clock[d.source]
        self.fixed = self.follows
        distance, some = self._distance(), self.follows & (d.ns > 0)
        self.unit_ns = float(np.quantile(d.ns[some] / distance[some], USUAL)) if some.any() else 0.0

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
        return self._net(self.named[cell], port)
