"""Standard cells of the accelerator's array, of the same array in floating point, and of its blocks, as a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from loralith.spec.config import load_config

from .cells import BASELINES, CellFlow, find_liberty
from .synth_error import SynthError

__all__ = ["figures", "page", "title"]


TIER = "tier (ii): Yosys's mapping onto an open cell library; no layout, no clock aimed at, no memories"


_SAME = (
    "All arrays have the same rows, columns, control, and in each element registers for a product, a sum and a shadow of it; sums are INT32"
    " or FP32. The floating-point elements are `baseline.float_array`: products exact, sums rounded once, subnormals zero, addition and"
    " rounding in one cycle. A clock would ask for more registers in these than in the INT8 elements, so that the ratios are low rather"
    " than high."
)


def figures(
    liberty: Path | None, rows: int, cols: int, config_name: str, minutes: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Minutes of Yosys; steps that are done stay in build/synth/cells. ``config_name``: whose blocks are listed, or none.
    Raises SynthError and ConfigError."""

    if rows < 1 or cols < 1 or minutes <= 0:
        raise SynthError(f"--rows, --cols and --timeout must be above 0, not {rows}, {cols} and {minutes:g}")
    config = None if config_name == "none" else load_config(config_name)
    flow = CellFlow(find_liberty(liberty), 60 * minutes, progress=progress)
    arrays = {"int8": flow.int8_array(rows, cols)}
    arrays |= {form: flow.float_array(form, rows, cols) for form in BASELINES}
    elements = rows * cols
    return {
        "tier": TIER,
        "library": flow.liberty.name,
        "elements": elements,
        "arrays": {
            name: {
                "cells": found.cells,
                "area": found.area,
                "area_per_element": found.area / elements,
                "ratio": found.area / arrays["int8"].area,
            }
            for name, found in arrays.items()
        },
        "config": None if config is None else config.name,
        "blocks": {} if config is None else {name: {"cells": b.cells, "area": b.area} for name, b in flow.blocks(config).items()},
    }


def title(figures: dict[str, Any]) -> str:
    return "Area in standard cells"


def page(figures: dict[str, Any]) -> list[str]:
    lines = [
        f"**{figures['tier'][0].upper()}{figures['tier'][1:]}.** Cells of `{figures['library']}`, areas in um^2.",
        "",
        f"## Arrays of {figures['elements']} elements",
        "",
        _SAME,
        "",
        "| numbers | cells | area | area of an element | against INT8 |",
        "|---|---|---|---|---|",
    ]
    for name, own in figures["arrays"].items():
        lines.append(f"| {name} | {own['cells']:,} | {own['area']:,.0f} | {own['area_per_element']:,.0f} | {own['ratio']:.2f} |")
    if figures["blocks"]:
        total = sum(own["area"] for own in figures["blocks"].values())
        lines += [
            "",
            f"## Blocks of `{figures['config']}`",
            "",
            "Without their submodules. The scratchpads, the accumulate buffer, scales and statistics are memories and left out; queues are"
            " registers.",
            "",
            "| block | cells | area | share |",
            "|---|---|---|---|",
        ]
        for name, own in figures["blocks"].items():
            lines.append(f"| {name} | {own['cells']:,} | {own['area']:,.0f} | {own['area'] / total:.1%} |")
    return lines
