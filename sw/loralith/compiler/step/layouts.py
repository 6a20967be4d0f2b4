"""Which way matrices lie in memory: with their rows or their columns along the lanes of the vector unit.

Tensors that elementwise nodes and moves connect should lie alike, or one of them is copied, element by element. They are a class; products
are where a class begins and ends, since the array writes either way. A class lies as costs it less.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

from loralith.spec.graph import Graph, Kind, Node, Op

__all__ = ["BINARY", "CHAINED", "LaneDimensions"]

BINARY = (Op.ADD, Op.SUBTRACT, Op.MULTIPLY)
CHAINED = frozenset((*BINARY, Op.EXP2, Op.RECIPROCAL, Op.RSQRT, Op.PHI, Op.BRAIN))
"""Elementwise nodes, which keep the layout of what they read."""

COPY = 1.3
"""Cycles that a copy between the two ways takes for an element, about."""
ROW = 130.0
"""Cycles of a reduction along the lanes for each row, beside its words."""
BUS = 16
"""Bytes that rows begin at, of most configurations."""
_CHAIN = (*CHAINED, Op.WORD)
_REDUCTIONS = (Op.MAXIMUM, Op.COUNT, Op.SUM, Op.LARGEST)
_SOURCES = (Op.INPUT, Op.FROZEN, Op.STATE)


class LaneDimensions:
    """The dimension along the lanes of each product, and of what is connected with it."""

    def __init__(self, graph: Graph, readers: Mapping[str, Sequence[Node]]) -> None:
        self.graph, self.readers = graph, readers
        self._found: dict[str, int | None] = {}
        for node in graph.of(Op.MATMUL):
            if node.name not in self._found and len(node.shape) > 1:
                self._class(node)

    def rows(self, node: Node) -> bool:
        """Whether the rows of a product lie along the lanes."""
        return self._found.get(node.name) == len(node.shape) - 2

    def of(self, name: str) -> int | None:
        """The dimension of a tensor that is to lie along the lanes; None where nothing asks for one."""
        return self._found.get(name)

    def _class(self, product: Node) -> None:
        """Follows what ``product`` is connected with, its rows along the lanes, and sums up what that saves."""
        at = {product.name: len(product.shape) - 2}
        queue, saved = deque([product]), 0.0
        while queue:
            node = queue.popleft()
            lane = at[node.name]
            saved += self._saved(node, lane)
            for other, where in (*self._before(node, lane), *self._after(node, lane)):
                if where is None:  # an image, which lies with its channels along the lanes
                    saved -= COPY * math.prod(other.shape) if other.kind is Kind.WORD else 0.0
                elif other.name not in at and other.name not in self._found:
                    at[other.name] = where
                    queue.append(other)
        for name, lane in at.items():
            node = self.graph[name]
            if node.op is Op.MATMUL:
                last = len(node.shape) - 1
                self._found[name] = lane if saved > 0 else 2 * last - 1 - lane
            else:
                self._found[name] = lane if saved > 0 else None

    def _saved(self, node: Node, lane: int) -> float:
        """Cycles that readers of ``node`` save where dimension ``lane`` lies along the lanes, against its last one."""
        size, last = math.prod(node.shape), len(node.shape) - 1
        saved = 0.0
        if node.op in _SOURCES:
            return COPY * size if lane == last else -COPY * size
        for reader in self.readers.get(node.name, ()):
            if reader.op in _REDUCTIONS and "dims" in reader.attributes:
                dims = [d % len(node.shape) for d in reader.attributes["dims"]]
                along = min(COPY * size, ROW * size / math.prod(node.shape[d] for d in dims))
                saved += -along if lane in dims else along if last in dims else 0.0
            elif reader.op is Op.QUANTIZE and reader.attributes["draw"]:
                saved += COPY * size if reader.attributes["lanes"] == lane else -COPY * size
            elif node.kind is Kind.INT8 and reader.op is Op.RESHAPE and reader.shape[-1] % BUS and reader.shape[-1] != node.shape[-1]:
                saved += COPY * size if lane != last else 0.0  # heads that do not begin at bus words
        return saved

    def _after(self, node: Node, lane: int) -> list[tuple[Node, int | None]]:
        found: list[tuple[Node, int | None]] = []
        for reader in self.readers.get(node.name, ()):
            if reader.op in _CHAIN and reader.shape == node.shape and node.kind is not Kind.INT8:
                found.append((reader, lane))
            elif reader.op is Op.QUANTIZE and reader.inputs[0] == node.name and not reader.attributes["draw"]:
                found.append((reader, lane))
            elif reader.op is Op.PERMUTE:
                found.append((reader, reader.attributes["order"].index(lane)))
            elif reader.op is Op.RESHAPE:
                found.append((reader, _mapped(node.shape, reader.shape, lane)))
            elif reader.op is Op.SLICE or (reader.op is Op.CONCAT and reader.attributes["dim"] != lane):
                found.append((reader, lane))
        return found

    def _before(self, node: Node, lane: int) -> list[tuple[Node, int | None]]:
        if node.op in (*_SOURCES, Op.MATMUL):
            return []
        found: list[tuple[Node, int | None]] = []
        for name in node.inputs:
            other = self.graph[name] if isinstance(name, str) else None
            if other is None or other.op in (Op.EXPAND, Op.CONVOLUTION, Op.CONVOLUTION_INPUT):
                continue
            if node.op is Op.PERMUTE:
                found.append((other, node.attributes["order"][lane]))
            elif node.op is Op.RESHAPE:
                found.append((other, _mapped(node.shape, other.shape, lane)))
            elif other.shape == node.shape or node.op in (Op.SLICE, Op.CONCAT):
                found.append((other, lane))
        return found


def _mapped(old: Sequence[int], new: Sequence[int], dim: int) -> int | None:
    """Where dimension ``dim`` is after a reshape; None where it is no dimension of its own any more."""
    before = math.prod(old[:dim])
    for d, size in enumerate(new):
        if size == old[dim] and math.prod(new[:d]) == before:
            return d
    return None
