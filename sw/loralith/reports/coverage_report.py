"""The page of the coverage of the emitted Verilog: by block, what is not reached, and what is waived and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loralith.soak.coverage.points import KINDS, Point, blocks
from loralith.soak.coverage.waivers import Waiver, stale, waived

__all__ = ["GOALS", "figures_of", "page", "problems", "title"]

GOALS = {"line": 98.0, "branch": 98.0, "toggle": 90.0}
"""Percent of the points that are not waived."""
SHOWN = 12
"""Points of a block that are listed as not reached."""


def figures_of(counts: Mapping[Point, int], done: Mapping[str, int], waivers: Sequence[Waiver]) -> dict[str, Any]:
    """Counts by block and kind: points, waived, not reached, and the first names of those; the names of all are in the state's file."""
    rows = []
    by_block: dict[str, dict[Point, int]] = {block: {} for block in blocks(counts)}
    for point, count in counts.items():
        by_block[point.block][point] = count
    for block, own in by_block.items():
        row: dict[str, Any] = {"block": block}
        for kind in KINDS:
            points = sorted(point for point in own if point.kind == kind)
            left_out = [point for point in points if waived(point, waivers)]
            apart = set(left_out)
            missed = [point.name for point in points if not own[point] and point not in apart]
            row[kind] = {"points": len(points), "waived": len(left_out), "missed": len(missed), "shown": missed[:SHOWN]}
        rows.append(row)
    totals = {kind: _total([row[kind] for row in rows]) for kind in KINDS}
    reasons = [{"points": waiver.points.pattern, "reason": waiver.reason} for waiver in waivers]
    return {"done": dict(done), **totals, "blocks": rows, "waivers": reasons, "stale": stale(counts, waivers)}


def _total(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    points, left_out, missed = (sum(values) for values in zip(*((p["points"], p["waived"], p["missed"]) for p in parts), strict=True))
    return {"points": points, "waived": left_out, "missed": missed, "percent": _percent(points, left_out, missed)}


def _percent(points: int, left_out: int, missed: int) -> float:
    return round(100 * (1 - missed / (points - left_out)), 2) if points > left_out else 100.0


def problems(figures: Mapping[str, Any]) -> list[str]:
    """Goals that are missed and waivers that are not true, as sentences."""
    missed = [
        f"{kind} coverage is {figures[kind]['percent']} %, and the goal is {goal:g} %"
        for kind, goal in GOALS.items()
        if figures[kind]["percent"] < goal
    ]
    return missed + list(figures["stale"])


def title(figures: Mapping[str, Any]) -> str:
    return "Coverage of the emitted Verilog"


def page(figures: Mapping[str, Any]) -> list[str]:
    """The figures as Markdown."""
    done = ", ".join(f"{count:,} {suite}" for suite, count in figures["done"].items())
    lines = [
        f"Configuration {figures['config']}, seed {figures['seed']}: {done}. A line is a block of statements of the emitted Verilog that",
        "runs, a branch is a choice that is taken; a toggle is a bit of a signal that rises, or one that falls. Modules of several",
        "instances are one.",
        "",
        "| | points | waived | not reached | reached | goal |",
        "|---|---|---|---|---|---|",
    ]
    for kind, goal in GOALS.items():
        f = figures[kind]
        lines.append(f"| {kind} | {f['points']:,} | {f['waived']:,} | {f['missed']:,} | {f['percent']} % | {goal:g} % |")
    lines += ["", "| block | lines | reached | branches | reached | toggles | reached |", "|---|---|---|---|---|---|---|"]
    for row in figures["blocks"]:
        cells = [f"{row[kind]['points']:,} | {_of(row[kind])} %" for kind in KINDS]
        lines.append(f"| {row['block']} | {' | '.join(cells)} |")
    lines += ["", "## Not reached", ""]
    for row in figures["blocks"]:
        for kind in KINDS:
            missed, names = row[kind]["missed"], row[kind]["shown"]
            if missed:
                more = f" and {missed - len(names):,} more" if missed > len(names) else ""
                lines.append(f"- {row['block']}, {kind}: {', '.join(f'`{name}`' for name in names)}{more}")
    if figures["waivers"]:
        lines += ["", "## Waived", "", "| points | reason |", "|---|---|"]
        lines += [f"| `{waiver['points']}` | {waiver['reason']} |" for waiver in figures["waivers"]]
    return lines


def _of(part: Mapping[str, Any]) -> float:
    return _percent(part["points"], part["waived"], part["missed"])
