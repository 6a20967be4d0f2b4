"""The page of `loralith report vector`: area of the vector unit, block by block."""

from __future__ import annotations

from typing import Any

__all__ = ["page", "title"]


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
