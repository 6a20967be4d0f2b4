"""`loralith report area`: standard cells of the accelerator's array, of the same array in floating point, and of its blocks."""

import argparse
from pathlib import Path
from typing import Any

from loralith.cli import output

HELP = "area in standard cells: the INT8 array beside FP16, BF16 and FP32, and the accelerator's blocks"
ON_RTL = True
SUBJECT = "loralith.synth.area_report"


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
    from loralith.synth import area_report

    return area_report.figures(args.liberty, args.rows, args.cols, args.config, args.timeout, output.log)
