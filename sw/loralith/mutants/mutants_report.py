"""The page of a campaign: how many mutants the tests killed, and which test each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .campaign import Verdict

__all__ = ["TITLE", "figures_of", "page"]

TITLE = "Mutants of the RTL"
OUTCOMES = ("killed", "survived", "invalid")


def figures_of(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Their number, how many had each outcome, and all of them."""
    counts = {outcome: sum(verdict.outcome == outcome for verdict in verdicts) for outcome in OUTCOMES}
    return {"mutants": len(verdicts), **counts, "verdicts": [vars(verdict) for verdict in verdicts]}


def page(figures: dict[str, Any]) -> list[str]:
    """The figures as Markdown."""
    lines = [
        "Each is the hardware of configuration tiny with one expression changed ([list](../generated/mutants.md)). Tests",
        "run from the cheapest to the dearest until one fails: products and lists on the native model, golden layers, faults, the",
        "block's own tests, cocotb.",
        "",
        f"{figures['mutants']} mutants: {figures['killed']} killed, {figures['survived']} survived, {figures['invalid']} invalid.",
        "",
        "| mutant | block | outcome | first test that fails |",
        "|---|---|---|---|",
    ]
    for v in figures["verdicts"]:
        by = v["by"].splitlines()[0].replace("|", "\\|") if v["by"] else ""
        lines.append(f"| {v['name']} | {v['block']} | {v['outcome']} | {by} |")
    return lines
