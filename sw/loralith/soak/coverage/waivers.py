"""Points that no list can reach, each group with its reason: verif/coverage.toml.

A waiver must stay true: one whose points are all gone, or of which one is reached, is a problem.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loralith.errors import LoralithError
from loralith.files import read_text
from loralith.soak.coverage.points import Point

__all__ = ["Waiver", "read_waivers", "stale", "waived"]


@dataclass(frozen=True)
class Waiver:
    """``points``: a regular expression for the whole of `Point.text`; ``reason``: why nothing reaches them."""

    points: re.Pattern[str]
    reason: str

    def fits(self, point: Point) -> bool:
        return self.points.fullmatch(point.text) is not None


def read_waivers(path: Path) -> list[Waiver]:
    """The waivers of a file: `[[waiver]]` with `points` and `reason`. Raises LoralithError for anything else."""
    import tomllib  # not in Python 3.10, which boards have

    try:
        entries = tomllib.loads(read_text(path)).get("waiver", [])
    except tomllib.TOMLDecodeError as error:
        raise LoralithError(f"{path} is no TOML: {error}") from None
    waivers = []
    for number, entry in enumerate(entries, 1):
        if set(entry) != {"points", "reason"} or not all(isinstance(text, str) and text.strip() for text in entry.values()):
            raise LoralithError(f"{path}, waiver {number}: it must have the texts `points` and `reason`, not {', '.join(sorted(entry))}")
        try:
            waivers.append(Waiver(re.compile(entry["points"]), entry["reason"]))
        except re.error as error:
            raise LoralithError(f"{path}, waiver {number}: {entry['points']!r} is no regular expression: {error}") from None
    return waivers


def waived(point: Point, waivers: Sequence[Waiver]) -> bool:
    """Whether one of the waivers fits the point."""
    return any(waiver.fits(point) for waiver in waivers)


def stale(counts: Mapping[Point, int], waivers: Sequence[Waiver]) -> list[str]:
    """What is wrong with the waivers, as sentences."""
    problems = []
    for waiver in waivers:
        fitting = {point: count for point, count in counts.items() if waiver.fits(point)}
        reached = next((point for point, count in fitting.items() if count), None)
        if not fitting:
            problems.append(f"the waiver {waiver.points.pattern!r} fits no point of the design; remove it")
        elif reached is not None:
            problems.append(f"the waiver {waiver.points.pattern!r} says that nothing reaches {reached.text!r}, and something does")
    return problems
