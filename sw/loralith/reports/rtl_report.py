"""The hardware's longest blocks, and those without a test of their own: figures and page of `loralith report rtl`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from loralith.errors import LoralithError
from loralith.verif.block_inventory import LIMIT, inventory

__all__ = ["figures", "page", "title"]


def figures(count: int) -> dict[str, Any]:
    """Every block, the longest one first; the page lists ``count`` of them. Raises LoralithError where there is no checkout."""
    if count < 1:
        raise LoralithError(f"--count must be at least 1, not {count}")
    try:
        blocks = inventory()
    except FileNotFoundError as error:
        raise LoralithError(str(error)) from None
    return {
        "limit": LIMIT,
        "listed": count,
        "over_limit": [block.name for block in blocks if block.lines > LIMIT],
        "without_test": [block.name for block in blocks if not block.checked],
        "blocks": [asdict(block) for block in blocks],
    }


def title(figures: dict[str, Any]) -> str:
    return "The hardware's blocks"


def page(figures: dict[str, Any]) -> list[str]:
    blocks = figures["blocks"]
    missing, over = figures["without_test"], figures["over_limit"]
    return [
        f"{len(blocks)} blocks of `hw/loralith/rtl`; {len(over)} with an `elaborate` of more than {figures['limit']} lines;",
        f"{len(missing)} without a unit test or proof of their own" + (f": {', '.join(missing)}." if missing else "."),
        "",
        "| block | lines of `elaborate` | file | unit tests | proofs |",
        "|---|---|---|---|---|",
        *(
            f"| {block['name']} | {block['lines']} | {block['file']} | {', '.join(block['tests'])} | {', '.join(block['proofs'])} |"
            for block in blocks[: figures["listed"]]
        ),
    ]
