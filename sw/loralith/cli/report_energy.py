"""`loralith report energy`: energy of a training step's LoRA layers, in INT8 and in wider numbers, by cause."""

import argparse
from typing import Any

HELP = "energy of a training step's LoRA layers, by tiers"
ON_RTL = False
SUBJECT = "loralith.energy.energy_report"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="base", help="preset or JSON file (default: base)")
    parser.add_argument("--model", default="sd15", help="model whose adapted layers make the step (default: sd15)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8, 16, 32], metavar="R", help="ranks (default: 4 8 16 32)")
    parser.add_argument("--node", action="append", help="node of the energy table, may be repeated (default: all)")


def command(args: argparse.Namespace) -> str:
    nodes = "".join(f" --node {node}" for node in args.node or ())
    return f"loralith report energy --config {args.config} --model {args.model} --ranks {' '.join(map(str, args.ranks))}{nodes}"


def figures(args: argparse.Namespace) -> dict[str, Any]:
    from loralith.energy import energy_report

    return energy_report.figures(args.config, args.model, args.ranks, args.node)
