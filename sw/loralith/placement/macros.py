"""Macro placement: assigns multipliers and block RAMs to sites by wire length.

nextpnr legalizes macros one by one to the nearest free site, which goes badly on a part that is nearly full of them. This pass takes a
placement and permutes its macros of each kind among their sites so that the total wire length is least (a linear assignment). The next
placement starts with the macros locked there.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from .placement_error import PlacementError

__all__ = ["MACROS", "assign", "lock"]

MACROS = ("MULT18X18D", "DP16KD")

_ROUNDS = 6
"""Each kind is assigned with the other one fixed; after a few rounds little changes."""
_MOST_PINS = 200
"""Nets of more pins span the part anyway and are left out."""


def assign(placed: dict[str, Any]) -> dict[str, str]:
    """The site of each macro by name, from the flat module of a netlist that nextpnr placed and wrote. Wire length is half perimeters.

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
    """Locks cells of the flat `module` of a Yosys netlist to the sites `places`, by name."""
    for name, place in places.items():
        module["cells"][name]["attributes"]["BEL"] = place


def _position(place: str) -> tuple[int, int]:
    match = re.match(r"X(\d+)/Y(\d+)/", place)
    assert match, place
    return int(match[1]), int(match[2])
