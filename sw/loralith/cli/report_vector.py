"""`loralith report vector`: area of the vector unit on the ECP5, block by block."""

import argparse
from typing import Any

from loralith.cli import output

HELP = "area of the vector unit on the ECP5, block by block"
ON_RTL = True
SUBJECT = "loralith.reports.vector_report"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lanes", type=int, default=4, help="how many, an even number (default: 4)")
    parser.add_argument("--timeout", type=float, default=60, metavar="MINUTES", help="for one call of a tool (default: 60)")


def command(args: argparse.Namespace) -> str:
    return f"loralith report vector --lanes {args.lanes}"


def figures(args: argparse.Namespace) -> dict[str, Any]:
    from loralith.reports import vector_report

    return vector_report.figures(args.lanes, 60 * args.timeout, output.log)
