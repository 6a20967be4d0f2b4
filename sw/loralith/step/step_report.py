"""The page of `loralith bench step`: where the cycles of a whole training step go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["page"]

UNITS = ("load", "store", "array", "vector")
GOALS = {"ecp5": (0.85, 0.915), "base": (0.90, 0.915), "large": (0.85, 0.862), "paper": (0.65, 0.715)}
"""Of SD-1.5 by preset: the goal for the array's use, and what `loralith plan sd15 --map step` expects (docs/step.md)."""
MOST_BLOCKS = 40


def page(figures: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown for the figures of a step that was compiled by block."""
    cycles = figures["cycles"]
    return [
        f"One step of {figures['model']}, batch {figures['batch']}, LoRA of rank {figures['rank']} with AdamW, forward and backward, on "
        f"`{figures['config']}` with {figures['lanes']} lanes: {figures['macs']:,} multiply-accumulates in {cycles:,} cycles of the cycle "
        f"model, {figures['utilization']:.1%} of the array. {figures['commands']:,} commands, {figures['list_bytes']:,} bytes of lists.",
        "",
        f"The step's graph is cut into {figures['pieces']} pieces, {figures['distinct_pieces']} of which differ; each of those was "
        "compiled as a list of its own, and its cycles are counted as often as the step has it. Nothing runs at the same time on both "
        "sides of a cut, which makes the sum larger than one list would be; the cycle model is some percent low on pieces, which makes it "
        "smaller. Large batches of matrices (heads of attention) run one after the other; that their largest magnitudes meet is not "
        "counted. "
        f"{figures['measured_cycles_share']:.1%} of the cycles stand for lists that ran on the RTL{_ran(figures)}.",
        *_sample(figures),
        *_goal(figures),
        "",
        *_kinds(figures, cycles),
        *_waits(figures, cycles),
        *_blocks(figures["blocks"], cycles),
    ]


def _ran(figures: Mapping[str, Any]) -> str:
    """Of the pieces that ran: how many, what was compared, and the model's error."""
    if not figures["measured_pieces"]:
        return ""
    return (
        f": {figures['measured_pieces']} distinct pieces, {figures['measured_elements']:,} elements of their results, all equal to the "
        f"graph's interpretation. They took {figures['measured_cycles']:,} cycles, of which the model has "
        f"{figures['model_error_of_sum']:+.1%}; its largest error among those of at least 10,000 cycles is {figures['model_error']:+.1%}"
    )


def _sample(figures: Mapping[str, Any]) -> list[str]:
    if not figures["sample"]:
        return []
    text = f"Of pieces with more than {figures['sample']:,} commands long kernels were modelled in parts, and go on in a line from there."
    return ["", text]


def _goal(figures: Mapping[str, Any]) -> list[str]:
    found = GOALS.get(figures["config"].removesuffix("-vector"))
    if figures["model"] != "sd15" or found is None:
        return []
    return ["", f"The goal is {found[0]:.0%}, and the model of docs/step.md, which has no lists, expects {found[1]:.1%}."]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)] + [""]


def _kinds(figures: Mapping[str, Any], cycles: int) -> list[str]:
    rows = [[kind, f"{costs['commands']:,}", *(f"{costs[unit] / 1e6:,.1f}" for unit in UNITS)] for kind, costs in figures["kinds"].items()]
    rows.append(["all", f"{figures['commands']:,}", *(f"{figures[unit] / 1e6:,.1f}" for unit in UNITS)])
    rows.append(["of all cycles", "", *(f"{figures[unit] / cycles:.0%}" for unit in UNITS)])
    return ["## Work by kind of operator, in millions of cycles of each unit", "", *_table(["kind", "commands", *UNITS], rows)]


def _waits(figures: Mapping[str, Any], cycles: int) -> list[str]:
    kinds = list(figures["kinds"])
    rows = [
        [
            unit,
            *(
                f"{value / cycles:.1%}"
                for value in (idle["working"], *(idle["tokens"].get(k, 0) for k in kinds), idle["list"], idle["end"])
            ),
        ]
        for unit, idle in figures["waits"].items()
    ]
    text = "Works, waits for the tokens of a command of a kind, has no command yet, has no more; in parts of all cycles."
    return ["## What each unit does", "", text, "", *_table(["unit", "works", *kinds, "no command", "no more"], rows)]


def _blocks(blocks: Sequence[Mapping[str, Any]], cycles: int) -> list[str]:
    rows = []
    for block in blocks[:MOST_BLOCKS]:
        busy = [f"{block[unit] / max(1, block['cycles']):.0%}" for unit in UNITS]
        all_of_it = block["times"] * block["cycles"]
        rows.append(
            [
                block["operators"],
                f"{block['times']}",
                f"{block['cycles']:,}",
                f"{all_of_it / cycles:.1%}",
                f"{block['array_used']:.0%}",
                *busy,
            ]
        )
    columns = ["torch operators of the first one", "times", "cycles of one", "of the step", "array used", *UNITS]
    text = f"Those that take most, {len(rows)} of {len(blocks)}; how much of its cycles each unit works."
    return ["## Distinct pieces", "", text, "", *_table(columns, rows)]
