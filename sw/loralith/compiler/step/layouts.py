"""Which way a tensor lies in memory, where its readers want another way than its dimensions' order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loralith.spec.graph import Node, Op

__all__ = ["BINARY", "CHAINED", "rows_along_lanes"]

BINARY = (Op.ADD, Op.SUBTRACT, Op.MULTIPLY)
CHAINED = frozenset((*BINARY, Op.EXP2, Op.RECIPROCAL, Op.RSQRT, Op.PHI, Op.BRAIN))
"""Elementwise nodes, which keep the layout of what they read."""


def rows_along_lanes(node: Node, readers: Mapping[str, Sequence[Node]]) -> bool:
    """Whether most of those who read the product ``node``, by way of elementwise nodes and transpositions, want its rows along the lanes:
    softmax, whose maxima and sums are then each lane's own, and what is rounded stochastically so."""
    votes = 0
    seen: set[tuple[str, bool]] = set()
    found = [(node, False)]
    for one, transposed in found:
        last = len(one.shape) - 1
        for reader in readers.get(one.name, ()):
            if reader.op in (Op.MAXIMUM, Op.COUNT, Op.SUM) and reader.attributes["dims"] in ((last,), (-1,)):
                votes += -1 if transposed else 1
            elif reader.op is Op.QUANTIZE and reader.attributes["draw"] and last and reader.attributes["lanes"] >= last - 1:
                votes += 1 if (reader.attributes["lanes"] == last - 1) != transposed else -1
            else:
                exchanged = reader.op is Op.PERMUTE and tuple(reader.attributes["order"]) == (*range(last - 1), last, last - 1)
                same = (reader.op in CHAINED or reader.op is Op.WORD) and reader.shape == one.shape
                same |= reader.op is Op.RESHAPE and reader.shape[-2:] == one.shape[-2:] and len(one.shape) > 1
                key = (reader.name, transposed != exchanged)
                if (same or exchanged) and key not in seen:
                    seen.add(key)
                    found.append((reader, transposed != exchanged))
    return votes > 0
