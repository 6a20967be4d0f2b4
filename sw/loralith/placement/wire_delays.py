"""Routed wire delays against the placer's estimates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .placement_error import PlacementError
from .timing import Delays, Pin

__all__ = ["fit_line"]


def fit_line(placed: Delays, routed: Delays) -> tuple[float, float]:
    """Slope and offset (ns) of a line that gives routed wire delays from the placer's estimates.

    Tukey's resistant line, through the medians of the outer thirds: cells that moved after placement make outliers. Wires of zero delay in
    either are left out. Raises PlacementError where fewer than three have one.
    """
    expected = dict(_wires(placed))
    both = np.array([(expected[ends], ns) for ends, ns in _wires(routed) if ends in expected])
    if len(both) < 3:
        raise PlacementError(f"{len(both)} wires have a delay before and after routing, and a line through them needs three")
    thirds = np.array([np.median(third, axis=0) for third in np.array_split(both[np.argsort(both[:, 0], kind="stable")], 3)])
    (x, y), (right_x, right_y) = thirds[0], thirds[2]
    share = (right_y - y) / (right_x - x) if right_x > x else 0.0
    return round(float(share), 3), round(float(np.median(thirds[:, 1] - share * thirds[:, 0])), 3)


def _wires(delays: Delays) -> Iterator[tuple[tuple[Pin, Pin], float]]:
    """(ends, delay) of each wire with a delay above zero."""
    for arc in np.nonzero(delays.is_wire & (delays.ns > 0))[0]:
        yield (delays.pins[delays.source[arc]], delays.pins[delays.sink[arc]]), float(delays.ns[arc])
