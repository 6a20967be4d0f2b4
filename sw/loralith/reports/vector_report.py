"""Area of the vector unit, block by block: figures and page of `loralith report vector`."""

from __future__ import annotations

from typing import Any

from loralith.synth.process import Progress
from loralith.synth.vector import VectorFlow

__all__ = ["figures", "page", "title"]

TIER = "synthesized by Yosys for the ECP5; neither placed nor routed"


def figures(lanes: int, timeout: float, progress: Progress) -> dict[str, Any]:
    """Minutes of Yosys; steps that are done stay in build/synth/vector. ``timeout``: seconds for one call of a tool. Raises SynthError."""
    found = VectorFlow(timeout, progress=progress).area(lanes)
    return {"tier": TIER, "lanes": lanes, "blocks": found.blocks, "total": found.total, "packed": found.packed}


def title(figures: dict[str, Any]) -> str:
    return "Area of the vector unit"


def page(figures: dict[str, Any]) -> list[str]:
    def line(name: str, counts: dict[str, int]) -> str:
        return f"| {name} | {counts['lut']:,} | {counts['ff']:,} | {counts['dsp']} | {counts['bram']} |"

    return [
        f"{figures['lanes']} lanes, {figures['tier']}. Blocks without their submodules, all lanes together; the last line after packing:",
        "flip-flops into multipliers and block RAMs, LUTs into adders.",
        "",
        "| block | LUT4 | flip-flops | multipliers | block RAMs |",
        "|---|---|---|---|---|",
        *(line(f"`{name}`", counts) for name, counts in figures["blocks"].items()),
        line("all", figures["total"]),
        line("all, packed", figures["packed"]),
    ]
