"""`loralith report coverage`: lines and toggles of the emitted Verilog that random lists, products and registers reach."""

import argparse
from pathlib import Path
from typing import Any

from loralith.cli import output
from loralith.errors import LoralithError
from loralith.places import checkout
from loralith.spec.config import load_config

HELP = (
    "lines and toggles of the emitted Verilog that random lists and products reach; fails below the goals and on a waiver that is not true"
)
ON_RTL = True
SUBJECT = "loralith.reports.coverage_report"
WAIVERS = "verif/coverage.toml"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="tiny-vector", help="preset or JSON file (default: tiny-vector, which has all blocks)")
    parser.add_argument("--lists", type=int, default=400, metavar="N", help="cases of random command lists (default: 400)")
    parser.add_argument("--products", type=int, default=2000, metavar="N", help="random products (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of both (default: 0)")
    parser.add_argument("--state", type=Path, metavar="FILE", help="keep the counts in this file, and go on from there")
    parser.add_argument("--waivers", type=Path, metavar="FILE", help=f"points that nothing can reach (default: {WAIVERS})")


def command(args: argparse.Namespace) -> str:
    return f"loralith report coverage --config {args.config} --lists {args.lists} --products {args.products} --seed {args.seed}"


def figures(args: argparse.Namespace) -> dict[str, Any]:
    """Raises LoralithError without a checkout, for faulty waivers and where a list or a product comes out wrong."""
    from loralith.reports.coverage_report import figures_of
    from loralith.soak.coverage.runs import CoverageRun
    from loralith.soak.coverage.waivers import read_waivers

    root, path = checkout(), args.waivers
    if path is None:
        if root is None:
            raise LoralithError(f"{WAIVERS} is a file of a checkout, and this is an installed package; give --waivers")
        path = root / WAIVERS
    waivers = read_waivers(path)
    run = CoverageRun(load_config(args.config), args.seed, args.state)
    run.run(args.lists, args.products, output.log)
    return {"config": args.config, "seed": args.seed, **figures_of(run.counts, run.done, waivers)}


def problems(args: argparse.Namespace, figures: dict[str, Any]) -> list[str]:
    from loralith.reports.coverage_report import problems

    return problems(figures)
