"""`loralith bench simulator`: simulated cycles per second, native and under cocotb, of one program on the same Verilog."""

import argparse
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.reports import result_files as results

HELP = "simulated cycles per second, native and under cocotb"
SUFFIXES = (".json", ".md")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="base", help="preset or JSON file (default: base)")
    parser.add_argument("--size", type=int, default=192, help="the program multiplies two matrices of this size (default: 192)")
    parser.add_argument("--repeat", type=int, default=10, help="native runs, of which the median counts (default: 10)")
    parser.add_argument("--profiled", action="store_true", help="compile the native model by a profile of a short run")
    parser.add_argument("--output", type=Path, metavar="STEM", help="write STEM.json and STEM.md too")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Figures by name; see `loralith.reports.simulator_report`."""
    from loralith.reports.simulator_report import TITLE, page, simulator_figures
    from loralith.spec.config import load_config

    figures = simulator_figures(load_config(args.config), args.size, args.repeat, args.profiled, output.log)
    if args.output:
        command = f"loralith bench simulator --config {args.config} --size {args.size} --repeat {args.repeat}"
        results.write(args.output, TITLE, command + " --profiled" * args.profiled, figures, page(figures))
    return figures
