"""The page of a campaign over the blocks of test plans: how many of each plan's mutants the tests kill, and why the others live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loralith.mutants.block_campaign import STAGES, BlockVerdict

__all__ = ["TITLE", "figures_of", "page"]

TITLE = "Mutants of the RTL's blocks"
WORDS = {
    "native": "random lists and products",
    "faults": "faults and illegal lists",
    "unit": "the block's own tests",
    "formal": "its properties",
    "equivalent": "proved equivalent",
}


def figures_of(
    verdicts: Sequence[BlockVerdict], population: Mapping[str, tuple[int, int]], reasons: Mapping[str, str], kept: Mapping[str, Any]
) -> dict[str, Any]:
    """By plan the counts, and all verdicts, those of survivors with their reason. ``kept``: what stages found, by key, to go on from."""
    plans = {}
    for plan in dict.fromkeys(verdict.plan for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict.plan == plan]
        operators, selectable = population[plan]
        by_stage = {stage: sum(verdict.stage == stage for verdict in own) for stage in STAGES}
        killed, left = sum(v.outcome == "killed" for v in own), sum(v.outcome != "equivalent" for v in own)
        survivors = [verdict for verdict in own if verdict.outcome == "survived"]
        plans[plan] = {
            "operators": operators,
            "selectable": selectable,
            "drawn": len(own),
            **by_stage,
            "killed": killed,
            "open": sum(verdict.outcome == "open" for verdict in own),
            "survivors": len(survivors),
            "explained": sum(verdict.name in reasons for verdict in survivors),
            "percent": round(100 * killed / left, 1) if left else 100.0,
            "cpu_seconds": round(sum(verdict.cpu_seconds for verdict in own)),
        }
    told = [{**vars(v), **({"reason": reasons.get(v.name, "")} if v.outcome == "survived" else {})} for v in verdicts]
    total = {
        key: sum(plan[key] for plan in plans.values()) for key in ("drawn", "killed", "equivalent", "open", "survivors", "cpu_seconds")
    }
    return {**total, "plans": plans, "verdicts": told, "kept": dict(kept)}


def page(figures: Mapping[str, Any]) -> list[str]:
    """The figures as Markdown."""
    plans, hours = figures["plans"], figures["cpu_seconds"] / 3600
    lines = [
        "Mutants of all operators in the classes of each test plan, drawn by a seed; a plan that has fewer gives all. One native model of",
        "configuration tiny-vector holds all of them, and an input selects one. Each is asked about until something sees it: random lists",
        "and products against their oracles; faults of the bus, aborts and illegal lists; the plan's own tests in Amaranth's simulator; a",
        "proof that the block gives the same outputs for all inputs; the plan's properties. The percentage is that of killed mutants among",
        "those that are not proved equivalent; one that is open, of which a stage has yet to be asked, counts as not killed.",
        "",
        f"{figures['drawn']:,} mutants: {figures['killed']:,} killed, {figures['equivalent']:,} proved equivalent,",
        f"{figures['survivors']:,} survive, {figures['open']:,} are open. They took {hours:.2f} hours of CPU time of one",
        "core, the model's build left out.",
        "",
        f"| plan | operators' mutants | selectable | drawn | {' | '.join(WORDS[stage] for stage in STAGES)} | open | survive | killed |",
        "|---|---|---|---|" + "---|" * len(STAGES) + "---|---|---|",
    ]
    for name, plan in plans.items():
        counts = [plan[key] for key in ("operators", "selectable", "drawn", *STAGES)]
        lines.append(f"| {name} | {' | '.join(map(str, counts))} | {plan['open']} | {plan['survivors']} | {plan['percent']} % |")
    survivors = [verdict for verdict in figures["verdicts"] if verdict["outcome"] == "survived"]
    if survivors:
        lines += ["", "## Survivors", "", "| mutant | why it lives |", "|---|---|"]
        lines += [f"| `{_cell(verdict['name'])}` | {_cell(verdict['reason']) or 'not looked at yet'} |" for verdict in survivors]
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
