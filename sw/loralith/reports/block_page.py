"""The page of `loralith report rtl`: the hardware's longest blocks, and those without a test of their own."""

from __future__ import annotations

from typing import Any

__all__ = ["page", "title"]


def title(figures: dict[str, Any]) -> str:
    return "The hardware's blocks"


def page(figures: dict[str, Any]) -> list[str]:
    blocks = figures["blocks"]
    missing, over = figures["without_test"], figures["over_limit"]
    return [
        f"{len(blocks)} blocks; {len(over)} with an `elaborate` of more than {figures['limit']} lines; {len(missing)} without a unit test",
        "or proof of their own" + (f": {', '.join(missing)}." if missing else "."),
        "",
        "| block | lines of `elaborate` | file | unit tests | proofs |",
        "|---|---|---|---|---|",
        *(
            f"| {block['name']} | {block['lines']} | {block['file']} | {', '.join(block['tests'])} | {', '.join(block['proofs'])} |"
            for block in blocks[: figures["listed"]]
        ),
    ]
