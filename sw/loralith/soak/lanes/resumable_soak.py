"""A soak of the vector unit's lanes that keeps its progress in a file, and resumes from it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loralith.files import write_json
from loralith.soak import SoakError
from loralith.state_file import read_state

from .lane_soak import ELEMENTS, OPERATIONS, Difference, LaneSoak

__all__ = ["VectorSoak"]

BLOCKS = 250
"""Of one call of the program: some seconds, after which progress is told and kept."""


class VectorSoak:
    """Every operation on random elements. Parameters: ``seed``, a random one by default; ``state``, a file that keeps its progress.

    Attributes: ``result``, the figures so far. Raises SoakError for a file that is no state, or one of another seed.
    """

    def __init__(self, seed: int | None, state: Path | None) -> None:
        self.state, self.result = state, _stored(state, seed)

    def run(self, elements: int, say: Callable[[str], None]) -> Difference | None:
        """At least ``elements`` of each operation, in whole blocks; the first that differs, or None."""
        soak = LaneSoak()
        blocks = -(-elements // ELEMENTS)
        difference = None
        for operation in OPERATIONS:
            own = self.result["operations"].setdefault(operation, {"elements": 0, "seconds": 0.0})
            while difference is None and own["elements"] < blocks * ELEMENTS:
                first = own["elements"] // ELEMENTS
                count, started = min(BLOCKS, blocks - first), time.monotonic()
                difference = soak.run(operation, self.result["seed"], first, count)
                own["seconds"] = round(own["seconds"] + time.monotonic() - started, 3)
                if difference is None:
                    own["elements"] += count * ELEMENTS
                    if self.state is not None:
                        write_json(self.result, self.state)
            own["seconds_per_million"] = round(1e6 * own["seconds"] / max(own["elements"], 1), 2)
            say(f"{operation}: {own['elements']:,} elements, {own['seconds']:.0f} s, {own['seconds_per_million']:.2f} s per 10^6")
        self.result["first_difference"] = None if difference is None else vars(difference)
        self.result["elements"] = sum(own["elements"] for own in self.result["operations"].values())
        self.result["seconds"] = round(sum(own["seconds"] for own in self.result["operations"].values()), 1)
        return difference


def _stored(path: Path | None, seed: int | None) -> dict[str, Any]:
    """What the state file holds, or a new state."""
    what = "a soak of the vector unit"
    found = read_state(path, what, {"seed": seed}, {"seed": int, "operations": dict}, SoakError)
    if found is None:
        return {"seed": secrets.randbits(32) if seed is None else seed, "operations": {}}
    try:
        known = all(name in OPERATIONS and own["elements"] % ELEMENTS == 0 for name, own in found["operations"].items())
    except (KeyError, TypeError):
        known = False
    if not known:
        raise SoakError(f"{path} is not the state of {what}; another file starts a new one")
    return {"seed": found["seed"], "operations": found["operations"]}
