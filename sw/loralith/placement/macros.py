"""Multipliers and block RAMs to places: nextpnr takes the nearest free one for each in turn, which is luck on a part that is nearly full.

A first placement tells where everything else wants to be. Of the places that its multipliers, and its block RAMs, have among them, each
gets the one for which the wires are shortest in all: a linear assignment. A second placement starts with them locked there.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from .error import PlacementError

__all__ = ["MACROS", "assign", "lock"]

MACROS = ("MULT18X18D", "DP16KD")

_ROUNDS = 6
"""They are assigned kind after kind, each to where the others are: a few rounds until nothing much changes."""
_MOST_PINS = 200
"""Nets of more reach everywhere."""


def assign(placed: dict[str, Any]) -> dict[str, str]:
    """Place of each of `MACROS` by name, for the flat module of a design that nextpnr placed and wrote; lengths are half perimeters.

    Raises PlacementError without SciPy.
    """
    import numpy as np

    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise PlacementError("scipy is not installed; `pip install 'loralith[fpga]'` installs it") from None

    places = {name: cell["attributes"]["NEXTPNR_BEL"] for name, cell in placed["cells"].items() if "NEXTPNR_BEL" in cell["attributes"]}
    at = {name: _position(place) for name, place in places.items()}
    nets: dict[int, set[str]] = defaultdict(set)
    for name in at:
        for bits in placed["cells"][name]["connections"].values():
            for bit in bits:
                if isinstance(bit, int):
                    nets[bit].add(name)
    kinds = {kind: [name for name in places if placed["cells"][name]["type"] == kind] for kind in MACROS}
    sites = {kind: [places[name] for name in names] for kind, names in kinds.items()}
    others: dict[str, list[list[str]]] = defaultdict(list)
    for net in nets.values():
        if 1 < len(net) <= _MOST_PINS:
            for name in net:
                if placed["cells"][name]["type"] in MACROS:
                    others[name].append([other for other in net if other != name])
    for _ in range(_ROUNDS):
        for kind, names in kinds.items():
            x, y = np.array([_position(site) for site in sites[kind]], float).reshape(-1, 2).T
            cost = np.zeros((len(names), len(names)))
            for row, name in zip(cost, names, strict=True):
                for net in others[name]:
                    left, right = min(at[other][0] for other in net), max(at[other][0] for other in net)
                    top, bottom = min(at[other][1] for other in net), max(at[other][1] for other in net)
                    row += np.maximum(left - x, 0) + np.maximum(x - right, 0) + np.maximum(top - y, 0) + np.maximum(y - bottom, 0)
            for index, site in zip(*linear_sum_assignment(cost), strict=True):
                places[names[index]] = sites[kind][site]
                at[names[index]] = _position(sites[kind][site])
    return {name: places[name] for names in kinds.values() for name in names}


def lock(module: dict[str, Any], places: dict[str, str]) -> None:
    """Cells of the flat `module` of a Yosys netlist to their `places`."""
    for name, place in places.items():
        module["cells"][name]["attributes"]["BEL"] = place


def _position(place: str) -> tuple[int, int]:
    match = re.match(r"X(\d+)/Y(\d+)/", place)
    assert match, place
    return int(match[1]), int(match[2])
