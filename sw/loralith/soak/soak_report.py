"""The pages of soaks: what ran, on which device, and what differed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loralith.soak.lists import ILLEGAL
from loralith.spec.config import Config

__all__ = ["LISTS_TITLE", "PRODUCTS_TITLE", "lists_page", "products_page"]

PRODUCTS_TITLE = "Random products on the RTL"
LISTS_TITLE = "Random command lists on the RTL"


def products_page(result: dict[str, Any]) -> list[str]:
    """The figures of `products.ProductSoak.result` as Markdown."""
    page = [
        f"{result['products']:,} random products of up to three tiles each way in {result['lists']:,} lists: folded, chained, added",
        "to the accumulate buffer, INT32 and INT8, with one scale and vectors of them, both roundings, stored straight and",
        "transposed. Latency and stalls of every bus channel are drawn anew for each list. Every result is compared with numpy.",
        "",
        "| figure | value |",
        "|---|---|",
        f"| configuration | {result['config']} |",
        f"| device | {result['device']} |",
        f"| seed | {result['seed']} |",
        f"| products | {result['products']:,} |",
        f"| wrong products | {result['mismatches']} |",
        f"| {'simulated cycles' if result['cycle_unit'] == 'cycles' else result['cycle_unit']} | {result['cycles']:,} |",
        f"| seconds | {result['seconds']:,} ({result['cpu_seconds']:,} of CPU time) |",
    ]
    return page + (["", f"The first wrong one: {result['first_mismatch']}."] if result["first_mismatch"] else [])


def lists_page(names: Sequence[str], configs: Sequence[Config], tally: dict[str, Any]) -> list[str]:
    """The tally of a `lists.ListSoak` on ``configs``, by ``names``, as Markdown."""
    page = [
        "Random raw lists of LOADs, COMPUTEs, STOREs and, with vector lanes, VECTORs with random programs: every field is drawn, tokens,",
        f"memory latency and stalls too. Every {ILLEGAL}th case has one command that a check must refuse, or one that ends the list while",
        "it runs. DRAM, scratchpads as far as stores and products show them,",
        "statistics, counters and status of the device and of the `reference` device are compared with an oracle that executes",
        "lists in order. The compiler's checker must accept each legal list, and refuse it where a token less makes it illegal or lets",
        "it race.",
        "",
        "| figure | value |",
        "|---|---|",
        f"| device | {tally['device']} |",
        f"| seed | {tally['seed']} |",
        f"| commands | {tally['commands']:,} |",
        f"| VECTOR commands among them | {tally['vectors']:,} |",
        f"| legal lists | {tally['lists']:,} |",
        f"| illegal lists | {tally['illegal']:,} |",
        f"| functional bins | {_bins(tally['bins'])} |",
        f"| lists that differ | {0 if tally['difference'] is None else 1} |",
        f"| simulated cycles | {tally['cycles']:,} |",
        f"| seconds | {tally['seconds']:,} ({tally['cpu_seconds']:,} of CPU time) |",
        "",
        "| configuration | rows | columns | bus bytes | most fold | left, right, out rows | acc, scale words | lanes | V0, V1 words |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, c in zip(names, configs, strict=True):
        depths = f"{c.left_depth}, {c.right_depth}, {c.out_depth} | {c.acc_depth}, {c.scale_depth}"
        vector = f"{c.vector_lanes} | {c.v0_words}, {c.v1_words}" if c.vector_lanes else "0 | none"
        page.append(f"| {name} | {c.rows} | {c.cols} | {c.bus_bytes} | {c.max_fold} | {depths} | {vector} |")
    missed = [name for name, count in tally["bins"].items() if not count]
    if missed:
        page += ["", f"Bins that no case has hit: {', '.join(missed)}."]
    if tally["difference"]:
        page += ["", f"The first difference: {tally['difference']}."]
    return page


def _bins(bins: dict[str, int]) -> str:
    hit = sum(count > 0 for count in bins.values())
    return f"{hit} of {len(bins)} hit" + (f", each {min(bins.values()):,} times or more" if hit == len(bins) else "")
