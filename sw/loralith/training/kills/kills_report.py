"""The page of a campaign of kills: where they fell, and how many runs came to the same bits."""

from __future__ import annotations

from typing import Any

from loralith.training.kills.campaign import REKILL_PROBABILITY, SCALES, STEPS
from loralith.training.kills.killed_run import PLACES

__all__ = ["TITLE", "page"]

TITLE = "Kills and resumes"


def page(result: dict[str, Any]) -> list[str]:
    """The counts of `KillCampaign.result` as Markdown."""
    lines = [
        f"{result['kills']:,} times a fine-tune got SIGKILL and was resumed: {result['equal']:,} to the bits of a run that nobody killed.",
        f"Each is {STEPS} steps of a very small U-Net on the `{result['device']}` device of configuration {result['config']}, with a",
        f"checkpoint every second step; scales of H and dH {' and '.join(SCALES)}, in turn. Half of the kills come from outside after a",
        "random share of the run's CPU time, the others within a write: of the empty file, of half of its bytes, before its rename and",
        f"after it. {REKILL_PROBABILITY:.0%} of the runs that resume are killed again. Compared are adapter files, picture, losses,",
        "evaluations, counters and all tensors of the last checkpoint with those of a run in a fresh process; no file may be left over.",
        "",
        "| where the kill fell | by time | in a write | all |",
        "|---|---|---|---|",
    ]
    for place in PLACES:
        counts = result["places"][place]
        lines.append(f"| {place} | {counts['time']} | {counts['write']} | {sum(counts.values())} |")
    lines += [
        f"| all | {_sum(result, 'time')} | {_sum(result, 'write')} | {result['kills']} |",
        "",
        f"Seed {result['seed']}, {result['runs']:,} runs, {result['seconds']:,} seconds. {result['ended_before']:,} more runs ended before",
        f"their kill came. The runs were made on {' and '.join(result['commits'])}.",
    ]
    return lines + (["", f"The first difference: {result['difference']}."] if result["difference"] else [])


def _sum(result: dict[str, Any], kind: str) -> int:
    return sum(counts[kind] for counts in result["places"].values())
