"""What each placement pass gains: the predicted clock with it and without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from .flow import FLOWS
from .netlist import synthesize
from .placer import Placement, place
from .synth_error import SynthError
from .target import OPTIONAL_PASSES, Target

__all__ = ["measure_passes", "page"]

LEFT_IN = "none"
"""What is left out where all passes run."""
BETWEEN_PLACEMENTS = ("macros",)
"""Passes that run between two placements. The others are measured with a single placement."""
FIGURES = ("expected_mhz", "before_mhz", "moved", "end_points", "late_points", "wire_tiles", "tool")
Figures = dict[str, Any]


def measure_passes(target: Target, seeds: Sequence[int], keep: Callable[[Figures], None] = lambda figures: None) -> Figures:
    """Places `target` with all passes and without each of `OPTIONAL_PASSES`, with each of `seeds`; nothing is routed.

    Relocation needs no run of its own: every placement has the clock before it. A variant that nextpnr cannot place is `failed`, with the
    first line of the reason. `keep` gets the figures after each placement; placements are kept in `target.folder`, so that a second call
    goes on where the first one stopped. Clocks are predicted, in MHz (`relocate.estimate_routed`).

    Raises SynthError where the board's tool does not place, and where the design does not place with all passes.
    """
    if not FLOWS[target.board.tool].places:
        raise SynthError(f"{target.board.name} is for {target.board.tool}, which is not run here; ulx3s-85f is placed")
    before = [name for name in OPTIONAL_PASSES if name not in BETWEEN_PLACEMENTS]
    variants = [(left_out, 1) for left_out in (LEFT_IN, *before)] + [(left_out, 2) for left_out in (LEFT_IN, *BETWEEN_PLACEMENTS)]
    runs: list[Figures] = []
    figures: Figures = {}
    for seed in seeds:
        for left_out, placements in variants:
            variant = replace(target, without=frozenset({left_out} - {LEFT_IN}), placements=placements)
            target.progress(f"placement: seed {seed}, {placements} placements, without {left_out}")
            try:
                found = _found(place(variant, synthesize(variant), seed))
            except SynthError as error:
                if left_out == LEFT_IN:
                    raise
                found = {"failed": str(error).splitlines()[0]}
            runs.append({"left_out": left_out, "placements": placements, "seed": seed, **found})
            figures = {
                "board": target.board.name,
                "config": target.config.name,
                "part": target.part,
                "target_mhz": target.frequency_mhz,
                "runs": list(runs),
                "gains": gains(runs),
            }
            keep(figures)
    return figures


def _found(placement: Placement) -> Figures:
    return {name: getattr(placement, name) for name in FIGURES}


def gains(runs: Sequence[Figures]) -> list[Figures]:
    """Of each pass, over the seeds that were placed with it and without it: by how many percent the mean predicted clock is higher with
    the pass, after relocation and before it, and by how many the wire is longer. Of relocation, over all runs with all passes: the clock
    after it against the clock before it."""
    placed = [run for run in runs if "failed" not in run]
    full = {(run["placements"], run["seed"]): run for run in placed if run["left_out"] == LEFT_IN}
    found: list[Figures] = []
    for name in dict.fromkeys(run["left_out"] for run in placed if run["left_out"] != LEFT_IN):
        pairs = [(full[run["placements"], run["seed"]], run) for run in placed if run["left_out"] == name]
        columns = {"clock": "expected_mhz", "clock_before_relocation": "before_mhz", "wire": "wire_tiles"}
        percents = {gain: _percent([(one[key], other[key]) for one, other in pairs]) for gain, key in columns.items()}
        found.append({"pass": name, "seeds": len(pairs), **percents})
    if full:
        clocks = [(run["expected_mhz"], run["before_mhz"]) for run in full.values()]
        found.append({"pass": "relocate", "seeds": len({seed for _, seed in full}), "clock": _percent(clocks)})
    return found


def _percent(pairs: Sequence[tuple[float, float]]) -> float:
    """By how many percent the mean of the first ones is above that of the second ones."""
    first, second = (fmean(column) for column in zip(*pairs, strict=True))
    return round(100 * (first / second - 1), 1)


def page(figures: Figures) -> list[str]:
    """`measure_passes` as Markdown."""
    lines = [
        f"{figures['config']} ({figures['part']}) on {figures['board']}, target {figures['target_mhz']:g} MHz. The clock is predicted",
        "after placement; nothing is routed. One pass is left out at a time.",
        "",
        "| left out | placements | seed | MHz | MHz before relocation | late end points | wire length (tiles) |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in figures["runs"]:
        start = f"| {run['left_out']} | {run['placements']} | {run['seed']} |"
        if "failed" in run:
            lines.append(f"{start} not placed: {run['failed']} | | | |")
        else:
            clocks = f"{run['expected_mhz']:.1f} | {run['before_mhz']:.1f}"
            lines.append(f"{start} {clocks} | {run['late_points']:,} of {run['end_points']:,} | {run['wire_tiles']:,} |")
    lines += ["", "What a pass gains, by the means over the seeds:", ""]
    lines += ["| pass | seeds | clock | clock before relocation | wire length |", "|---|---|---|---|---|"]
    columns = ("clock", "clock_before_relocation", "wire")
    for gain in figures["gains"]:
        lines.append(f"| {gain['pass']} | {gain['seeds']} | {' | '.join(_signed(gain.get(column)) for column in columns)} |")
    return lines


def _signed(percent: float | None) -> str:
    return "" if percent is None else f"{percent:+.1f} %"
