"""`loralith report area`: standard cells of the accelerator's array, of the same array in floating point, and of its blocks."""

import argparse
from pathlib import Path
from typing import Any

from loralith.cli import output

HELP = "area in standard cells: the INT8 array beside FP16, BF16 and FP32, and the accelerator's blocks"
ON_RTL = True

TIER = "tier (ii): Yosys's mapping onto an open cell library; no layout, no clock aimed at, no memories"

_SAME = (
    "All arrays have the same rows, columns, control, and in each element registers for a product, a sum and a shadow of it; sums are INT32"
    " or FP32. The floating-point elements are `baseline.float_array`: products exact, sums rounded once, subnormals zero, addition and"
    " rounding in one cycle. A clock would ask for more registers in these than in the INT8 elements, so that the ratios are low rather"
    " than high."
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--liberty", type=Path, help="liberty file of the cells (default: Debian's qflow-tech-osu018)")
    parser.add_argument("--rows", type=int, default=2, help="rows of the compared arrays (default: 2)")
    parser.add_argument("--cols", type=int, default=4, help="columns of the compared arrays (default: 4)")
    parser.add_argument("--config", default="tiny", help="preset or JSON file whose blocks are listed, or none (default: tiny)")
    parser.add_argument("--timeout", type=float, default=60, metavar="MINUTES", help="for one call of a tool (default: 60)")


def command(args: argparse.Namespace) -> str:
    words = [f"--rows {args.rows} --cols {args.cols} --config {args.config}"]
    return " ".join(["loralith report area", *words, *([f"--liberty {args.liberty}"] if args.liberty else [])])


def figures(args: argparse.Namespace) -> dict[str, Any]:
    """Minutes of Yosys; steps that are done stay in build/synth/cells. Raises SynthError and ConfigError."""
    from loralith.spec.config import load_config
    from loralith.synth.cells import BASELINES, CellFlow, find_liberty
    from loralith.synth.errors import SynthError

    if args.rows < 1 or args.cols < 1 or args.timeout <= 0:
        raise SynthError(f"--rows, --cols and --timeout must be above 0, not {args.rows}, {args.cols} and {args.timeout:g}")
    config = None if args.config == "none" else load_config(args.config)
    flow = CellFlow(find_liberty(args.liberty), 60 * args.timeout, progress=output.log)
    arrays = {"int8": flow.int8_array(args.rows, args.cols)}
    arrays |= {form: flow.float_array(form, args.rows, args.cols) for form in BASELINES}
    elements = args.rows * args.cols
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
