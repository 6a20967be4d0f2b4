"""`loralith report rtl`: the longest `elaborate`s of the hardware, and the blocks without a test of their own."""

import argparse
from typing import Any

HELP = "the hardware's longest blocks, and those without a unit test or proof of their own"
ON_RTL = True
SUBJECT = "loralith.reports.rtl_report"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=10, help="how many of the longest blocks the page lists (default: 10)")


def command(args: argparse.Namespace) -> str:
    return f"loralith report rtl --count {args.count}"


def figures(args: argparse.Namespace) -> dict[str, Any]:
    from loralith.reports import rtl_report

    return rtl_report.figures(args.count)
