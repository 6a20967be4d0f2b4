"""What each placement pass gains: the predicted clock with all passes, and with each one left out."""

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
"""The variant with all passes."""


def measure_passes(
    target: Target,
    seeds: Sequence[int],
    passes: Sequence[str] = OPTIONAL_PASSES,
    keep: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> dict[str, Any]:
    """Places `target` with all passes and without each of `passes` (`OPTIONAL_PASSES`), with each of `seeds`; nothing is routed.

    Relocation needs no run of its own: every placement has the clock before it. A variant that nextpnr cannot place counts as `failed`,
    with the first line of the reason. `keep` gets the figures after each placement; placements are kept in `target.folder`, so that a
    second call goes on where the first one stopped. Clocks are predicted, in MHz (`relocate.estimate_routed`).

    Raises SynthError where the board's tool does not place, and where the design does not place with all passes.
    """
    if not FLOWS[target.board.tool].places:
        raise SynthError(f"{target.board.name} is for {target.board.tool}, which is not run here; ulx3s-85f is placed")
    found: dict[str, list[dict[str, Any]]] = {}
    figures: dict[str, Any] = {}
    for left_out in (LEFT_IN, *passes):
        variant = replace(target, without=frozenset({left_out} - {LEFT_IN}))
        netlist = synthesize(variant)
        for seed in seeds:
            target.progress(f"placement: {left_out} left out, seed {seed}")
            try:
                entry = _entry(place(variant, netlist, seed))
            except SynthError as error:
                if left_out == LEFT_IN:
                    raise
                entry = {"seed": seed, "failed": str(error).splitlines()[0]}
            found.setdefault(left_out, []).append(entry)
            figures = {
                "board": target.board.name,
                "config": target.config.name,
                "part": target.part,
                "target_mhz": target.frequency_mhz,
                "seeds": list(seeds),
                "placements": found,
                "gains": _gains(found),
            }
            keep(figures)
    return figures


def _entry(placement: Placement) -> dict[str, Any]:
    names = ("seed", "expected_mhz", "before_mhz", "moved", "late_points", "wire_tiles", "tool")
    return {name: getattr(placement, name) for name in names}


def _gains(found: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float | None]]:
    """Of each pass over the seeds that were placed with and without it: by how many percent the mean predicted clock is higher with the
    pass, before relocation and after it, and the wire length; None where no seed was placed without it. Of relocation: the clock after it
    against the one before it."""
    full = {entry["seed"]: entry for entry in found[LEFT_IN]}
    gains: dict[str, dict[str, float | None]] = {}
    for left_out, entries in found.items():
        pairs = [(full[entry["seed"]], entry) for entry in entries if "failed" not in entry and entry["seed"] in full]
        if left_out == LEFT_IN:
            gains["relocate"] = {"clock": _percent([(e["expected_mhz"], e["before_mhz"]) for e, _ in pairs])}
            continue
        names = {"clock": "expected_mhz", "clock_before_relocation": "before_mhz", "wire": "wire_tiles"}
        gains[left_out] = {gain: _percent([(a[name], b[name]) for a, b in pairs]) for gain, name in names.items()}
    return gains


def _percent(pairs: Sequence[tuple[float, float]]) -> float | None:
    """By how many percent the mean of the first ones is above that of the second ones."""
    if not pairs:
        return None
    first, second = (fmean(column) for column in zip(*pairs, strict=True))
    return round(100 * (first / second - 1), 1)


def page(figures: dict[str, Any]) -> list[str]:
    """`measure_passes` as Markdown."""
    lines = [
        f"{figures['config']} ({figures['part']}) on {figures['board']}, target {figures['target_mhz']:g} MHz; predicted clock after",
        "placement, not routed. One pass is left out at a time.",
        "",
        "| left out | seed | MHz | before relocation | late end points | wire length (tiles) |",
        "|---|---|---|---|---|---|",
    ]
    for left_out, entries in figures["placements"].items():
        for entry in entries:
            if "failed" in entry:
                lines.append(f"| {left_out} | {entry['seed']} | not placed: {entry['failed']} | | | |")
            else:
                lines.append(
                    f"| {left_out} | {entry['seed']} | {entry['expected_mhz']:.1f} | {entry['before_mhz']:.1f} | {entry['late_points']:,}"
                    f" | {entry['wire_tiles']:,} |"
                )
    lines += [
        "",
        "What a pass gains, from the means over the seeds:",
        "",
        "| pass | clock | before relocation | wire length |",
        "|---|---|---|---|",
    ]
    columns = ("clock", "clock_before_relocation", "wire")
    lines += [f"| {name} | {' | '.join(_signed(gain.get(column)) for column in columns)} |" for name, gain in figures["gains"].items()]
    return lines


def _signed(percent: float | None) -> str:
    return "" if percent is None else f"{percent:+.1f} %"
