"""`loralith soak --vector N`: random elements through the vector unit's lanes in native code, compared with a soft float."""

from __future__ import annotations

import argparse
import json
import secrets
import time
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.errors import LoralithError
from loralith.files import check_output, write_json
from loralith.soak.lanes import ELEMENTS, OPERATIONS, LaneSoak

__all__ = ["VectorSoakError", "run"]

BLOCKS = 250
"""Of one call of the program: some seconds, after which progress is told and kept."""


class VectorSoakError(LoralithError):
    """A soak that cannot be run, or a state that is none of its own."""


def run(args: argparse.Namespace) -> int:
    """Returns 1 where an element differs. Every operation runs at least ``args.vector`` elements, in whole blocks."""
    result = _state(args)
    output.log(f"seed {result['seed']}")
    soak = LaneSoak()
    blocks = -(-args.vector // ELEMENTS)
    difference = None
    for operation in OPERATIONS:
        own = result["operations"].setdefault(operation, {"elements": 0, "seconds": 0.0})
        while difference is None and own["elements"] < blocks * ELEMENTS:
            first = own["elements"] // ELEMENTS
            count, started = min(BLOCKS, blocks - first), time.monotonic()
            difference = soak.run(operation, result["seed"], first, count)
            own["seconds"] = round(own["seconds"] + time.monotonic() - started, 3)
            if difference is None:
                own["elements"] += count * ELEMENTS
                _keep(args.state, result)
        own["seconds_per_million"] = round(1e6 * own["seconds"] / max(own["elements"], 1), 2)
        output.log(f"{operation}: {own['elements']:,} elements, {own['seconds']:.0f} s, {own['seconds_per_million']:.2f} s per 10^6")
    result["first_difference"] = None if difference is None else vars(difference)
    result["elements"] = sum(own["elements"] for own in result["operations"].values())
    result["seconds"] = round(sum(own["seconds"] for own in result["operations"].values()), 1)
    if args.json:
        output.emit_json(result)
    elif difference is None:
        seconds = 1e6 * result["seconds"] / result["elements"]
        print(
            f"{result['elements']:,} elements in {len(OPERATIONS)} operations, all as the soft float says"
            f" (seed {result['seed']}, {result['seconds']:.0f} s, {seconds:.2f} s per 10^6)"
        )
    else:
        print(f"{difference.operation}, block {difference.block} of seed {result['seed']}: {difference.text}")
    return 0 if difference is None else 1


def _state(args: argparse.Namespace) -> dict[str, Any]:
    """What the state file holds, or a new state. Raises VectorSoakError for a file that is no state, or one of another seed."""
    path: Path | None = args.state
    if path is None or not path.is_file():
        if path is not None:
            check_output(path)
        return {"seed": secrets.randbits(32) if args.seed is None else args.seed, "operations": {}}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        state = {"seed": int(found["seed"]), "operations": dict(found["operations"])}
        known = all(name in OPERATIONS and own["elements"] % ELEMENTS == 0 for name, own in state["operations"].items())
    except (ValueError, KeyError, TypeError):
        known, state = False, {"seed": 0, "operations": {}}
    if not known:
        raise VectorSoakError(f"{path} is not the state of a soak of the vector unit; another file starts a new one")
    if args.seed not in (None, state["seed"]):
        raise VectorSoakError(f"{path} is the state of seed {state['seed']}, not {args.seed}")
    return state


def _keep(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        write_json(result, path)
