"""`loralith report vector`: area of the vector unit on the ECP5, block by block."""

import argparse
from typing import Any

from loralith.cli import output

HELP = "area of the vector unit on the ECP5, block by block"
ON_RTL = True
SUBJECT = "loralith.reports.vector_page"

TIER = "synthesized by Yosys for the ECP5; neither placed nor routed"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lanes", type=int, default=4, help="how many, an even number (default: 4)")
    parser.add_argument("--timeout", type=float, default=60, metavar="MINUTES", help="for one call of a tool (default: 60)")


def command(args: argparse.Namespace) -> str:
    return f"loralith report vector --lanes {args.lanes}"


def figures(args: argparse.Namespace) -> dict[str, Any]:
    """Minutes of Yosys; steps that are done stay in build/synth/vector. Raises SynthError."""
    from loralith.synth.vector import VectorFlow

    found = VectorFlow(60 * args.timeout, progress=output.log).area(args.lanes)
    return {"tier": TIER, "lanes": args.lanes, "blocks": found.blocks, "total": found.total, "packed": found.packed}
