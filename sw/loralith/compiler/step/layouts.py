"""Which way a tensor lies in memory, where its readers want another way than its dimensions' order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loralith.spec.graph import Node, Op

__all__ = ["BINARY", "CHAINED", "rows_along_lanes"]

BINARY = (Op.ADD, Op.SUBTRACT, Op.MULTIPLY)
CHAINED = frozenset((*BINARY, Op.EXP2, Op.RECIPROCAL, Op.RSQRT, Op.PHI, Op.BRAIN))
"""Elementwise nodes, which keep the layout of what they read."""


def rows_along_lanes(node: Node, readers: Mapping[str, Sequence[Node]]) -> bool:
    """Whether those who read the product ``node``, by way of elementwise nodes, want its rows along the lanes: softmax, whose maxima and
    sums are then each lane's own, and what is rounded stochastically so."""
    seen, found = {node.name}, [node]
    for one in found:
        for reader in readers.get(one.name, ()):
            last = len(reader.shape) - 1
            if reader.op in (Op.MAXIMUM, Op.COUNT) and reader.attributes["dims"] in ((last,), (-1,)):
                return True
            if reader.op is Op.QUANTIZE and reader.attributes["draw"] and reader.attributes["lanes"] == last - 1:
                return True
            if (reader.op in CHAINED or reader.op is Op.WORD) and reader.shape == node.shape and reader.name not in seen:
                seen.add(reader.name)
                found.append(reader)
    return False
