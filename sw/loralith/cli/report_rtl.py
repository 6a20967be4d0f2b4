"""`loralith report rtl`: the longest `elaborate`s of the hardware, and the blocks without a test of their own."""

import argparse
from dataclasses import asdict
from typing import Any

from loralith.errors import LoralithError

HELP = "the hardware's longest blocks, and those without a unit test or proof of their own"
ON_RTL = True
SUBJECT = "loralith.reports.block_page"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=10, help="how many of the longest blocks the page lists (default: 10)")


def command(args: argparse.Namespace) -> str:
    return f"loralith report rtl --count {args.count}"


def figures(args: argparse.Namespace) -> dict[str, Any]:
    """Every block, the longest one first. Raises LoralithError where there is no checkout."""
    from loralith.verif.block_inventory import LIMIT, inventory

    if args.count < 1:
        raise LoralithError(f"--count must be at least 1, not {args.count}")
    try:
        blocks = inventory()
    except FileNotFoundError as error:
        raise LoralithError(str(error)) from None
    return {
        "limit": LIMIT,
        "listed": args.count,
        "over_limit": [block.name for block in blocks if block.lines > LIMIT],
        "without_test": [block.name for block in blocks if not block.checked],
        "blocks": [asdict(block) for block in blocks],
    }
