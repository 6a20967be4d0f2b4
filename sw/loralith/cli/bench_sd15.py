"""`loralith bench sd15`: every LoRA linear of Stable Diffusion 1.5, forward and backward, one after the other on the RTL."""

import argparse
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.reports import result_files as results

HELP = "the LoRA layers of an SD-1.5 step, all 128 linears, every result checked"
TITLE = "The LoRA layers of an SD-1.5 step"
SUFFIXES = (".json", ".md")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="base", help="preset or JSON file (default: base)")
    parser.add_argument("--rank", type=int, default=4, help="LoRA rank (default: 4)")
    parser.add_argument("--rtl", action="store_true", help="run on the RTL, minutes of it; without it only the cycle model's figures")
    parser.add_argument("--first", type=int, metavar="N", help="only the first N linears that read the image, and no text")
    parser.add_argument("--output", type=Path, metavar="STEM", help="write STEM.json and STEM.md too")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Linears that read the image are lists of their own, those of the text one list. Lists that have run are not run again."""
    from loralith.shapes.published_shapes import sd15_page, sd15_step

    command = f"loralith bench sd15 --config {args.config} --rank {args.rank}" + " --rtl" * args.rtl
    origin = results.provenance(command + (f" --first {args.first}" if args.first else ""), on_rtl=args.rtl)
    figures = sd15_step(args.config, args.rank, args.first, origin, on_rtl=args.rtl, say=output.log)
    if args.output:
        results.write(args.output, TITLE, figures["command"], figures, sd15_page(figures), on_rtl=args.rtl)
    return figures


def show(figures: dict[str, Any]) -> None:
    """The table that people read."""
    from loralith.shapes.published_shapes import sd15_summary

    columns = ["linear", "MACs", "cycles", "used", "model error"]
    rows = [
        [row["name"], f"{row['macs']:,}", f"{row['cycles']:,}", f"{row['utilization']:.1%}", f"{row['model_error']:+.1%}"]
        for row in figures["layers"]
    ]
    output.table(f"SD-1.5 on {figures['config']}, rank {figures['rank']}", columns, rows)
    print(sd15_summary(figures))
