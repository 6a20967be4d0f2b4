"""Which way matrices lie in memory: with their rows or their columns along the lanes of the vector unit.

Tensors that elementwise nodes and moves connect should lie alike, or one of them is copied, element by element. They are a class; products
are where a class begins and ends, since the array writes either way. A class lies as costs it less.

An image lies with its channels along the lanes. A convolution of 1 x 1 is a product too (`pointwise`): it writes the matrix that is made of
its result, and reads the image that is made of a matrix, as the matrix lies.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

from loralith.spec.graph import Graph, Kind, Node, Op

__all__ = ["BINARY", "CHAINED", "PIXELS", "LaneDimensions", "pointwise"]

BINARY = (Op.ADD, Op.SUBTRACT, Op.MULTIPLY)
CHAINED = frozenset((*BINARY, Op.EXP2, Op.RECIPROCAL, Op.RSQRT, Op.PHI, Op.BRAIN))
"""Elementwise nodes, which keep the layout of what they read."""

COPY = 1.3
"""Cycles that a copy between the two ways takes for an element, about."""
ROW = 130.0
"""Cycles of a reduction along the lanes for each row, beside its words."""
V0_WORDS = 1024
"""Terms of sums that each lane adds up for itself, at most, of most configurations: one command has all of them in V0."""
BUS = 16
"""Bytes that rows begin at, of most configurations."""
PIXELS = 3
"""The dimension of an image [N, C, H, W] whose pixels lie along the lanes, row after row."""
TO_MATRIX = (0, 2, 3, 1)
_CHAIN = (*CHAINED, Op.WORD)
_REDUCTIONS = (Op.MAXIMUM, Op.COUNT, Op.SUM, Op.LARGEST)
_SOURCES = (Op.INPUT, Op.FROZEN, Op.STATE)


def pointwise(node: Node, graph: Graph) -> bool:
    """Whether ``node`` is a convolution of 1 x 1, or the gradient of one: a product of pixels and channels."""
    if node.op not in (Op.CONVOLUTION, Op.CONVOLUTION_INPUT):
        return False
    size = graph[node.inputs[1]].shape[2:]
    return (*size, *node.attributes["stride"]) == (1, 1, 1, 1) and tuple(node.attributes["padding"]) == (0, 0)


class LaneDimensions:
    """The dimension along the lanes of each product, and of what is connected with it."""

    def __init__(self, graph: Graph, readers: Mapping[str, Sequence[Node]]) -> None:
        self.graph, self.readers = graph, readers
        self._found: dict[str, int | None] = {}
        for node in graph.of(Op.MATMUL):
            if node.name not in self._found and len(node.shape) > 1:
                self._class(node)

    def rows_along_lanes(self, node: Node) -> bool:
        """Whether the rows of a product lie along the lanes; of a convolution, the pixels."""
        return self._found.get(node.name) == (len(node.shape) - 2 if node.op is Op.MATMUL else PIXELS)

    def dimension(self, name: str) -> int | None:
        """The dimension of a tensor that is to lie along the lanes; None where nothing asks for one."""
        return self._found.get(name)

    def _class(self, product: Node) -> None:
        last = len(product.shape) - 1
        ways = [self._connected(product, lane) for lane in (last, last - 1)]
        self._found.update(max(ways, key=lambda way: way[1])[0])

    def _connected(self, product: Node, lane: int) -> tuple[dict[str, int], float]:
        """(the dimension along the lanes of each tensor connected with ``product``, whose own is ``lane``; cycles that this saves)."""
        at = {product.name: lane}
        queue, saved = deque([product]), 0.0
        while queue:
            node = queue.popleft()
            saved += self._savings(node, at[node.name])
            for other, where in (*self._before(node, at[node.name]), *self._after(node, at[node.name])):
                if where is None:
                    saved -= _mismatch_cost(node, other)
                elif other.name not in at and other.name not in self._found:
                    at[other.name] = where
                    queue.append(other)
        return at, saved

    def _savings(self, node: Node, lane: int) -> float:
        """Cycles that readers of ``node`` save where dimension ``lane`` lies along the lanes; less than 0 for those that it costs them."""
        size, last = math.prod(node.shape), len(node.shape) - 1
        saved = 0.0
        if node.op in _SOURCES:
            return COPY * size if lane == last else -COPY * size
        for reader in self.readers.get(node.name, ()):
            if reader.op in _REDUCTIONS and "dims" in reader.attributes:
                dims = [d % len(node.shape) for d in reader.attributes["dims"]]
                terms = math.prod(node.shape[d] for d in dims)
                along = min(COPY * size, ROW * size / terms)
                if lane not in dims and last in dims and reader.op is Op.SUM and terms > V0_WORDS:
                    saved -= COPY * size
                else:
                    saved += -along if lane in dims else along if last in dims else 0.0
            elif reader.op is Op.QUANTIZE and reader.attributes["draw"]:
                saved += COPY * size if reader.attributes["lanes"] == lane else -COPY * size
        return saved

    def _after(self, node: Node, lane: int) -> list[tuple[Node, int | None]]:
        if pointwise(node, self.graph):
            return [(matrix, len(matrix.shape) - 2) for matrix in self._matrices(node)]
        found: list[tuple[Node, int | None]] = []
        for reader in self.readers.get(node.name, ()):
            elementwise = reader.op in _CHAIN and node.kind is not Kind.INT8
            if reader.shape == node.shape and (elementwise or (reader.op is Op.QUANTIZE and not reader.attributes["draw"])):
                found.append((reader, lane))
            elif reader.op is Op.PERMUTE:
                found.append((reader, reader.attributes["order"].index(lane)))
            elif reader.op is Op.RESHAPE:
                where = _reshaped_dimension(node.shape, reader.shape, lane)
                if where is not None or lane != len(node.shape) - 2 or not self._multiplied(reader):
                    found.append((reader, where))
            elif reader.op is Op.SLICE or (reader.op is Op.CONCAT and reader.attributes["dim"] != lane):
                found.append((reader, lane))
        return found

    def _before(self, node: Node, lane: int) -> list[tuple[Node, int | None]]:
        if node.op in (*_SOURCES, Op.MATMUL, Op.CONVOLUTION, Op.CONVOLUTION_INPUT):
            return []
        found: list[tuple[Node, int | None]] = []
        for name in node.inputs:
            other = self.graph[name] if isinstance(name, str) else None
            if other is None or other.op in (Op.EXPAND, Op.CONVOLUTION, Op.CONVOLUTION_INPUT):
                continue
            if node.op is Op.PERMUTE:
                found.append((other, node.attributes["order"][lane]))
            elif node.op is Op.RESHAPE:
                where = _reshaped_dimension(node.shape, other.shape, lane)
                product = self._maker(other) if where is None and lane == len(node.shape) - 2 else None
                found.append((other, where) if product is None else (product, PIXELS))
            elif other.shape == node.shape or node.op in (Op.SLICE, Op.CONCAT):
                found.append((other, lane))
        return found

    def _maker(self, image: Node) -> Node | None:
        """The `pointwise` product whose epilogue makes ``image``, which nobody reads but those that make matrices of it; or None."""
        if image.op is not Op.PERMUTE or image.attributes["order"] != TO_MATRIX or not self._read_as_matrices(image):
            return None
        node = self.graph[image.inputs[0]]
        while node.op in _CHAIN and len(self.readers[node.name]) == 1:
            whole = [self.graph[x] for x in node.inputs if isinstance(x, str) and self.graph[x].shape == node.shape]
            before = [x for x in whole if x.op is not Op.EXPAND]
            if len(before) != 1:
                return None
            (node,) = before
        return node if pointwise(node, self.graph) and len(self.readers[node.name]) == 1 else None

    def _read_as_matrices(self, image: Node) -> bool:
        pixels, channels = math.prod(image.shape[:-1]), image.shape[-1]
        return all(
            r.op is Op.RESHAPE and r.shape[-1] == channels and r.shape[-2] in (pixels, pixels // image.shape[0])
            for r in self.readers.get(image.name, ())
        )

    def _matrices(self, product: Node) -> list[Node]:
        """The matrices that are made of what `_maker` names ``product`` for."""
        (node,) = self.readers[product.name]
        while node.op is not Op.PERMUTE:
            (node,) = self.readers[node.name]
        return list(self.readers[node.name])

    def _multiplied(self, node: Node) -> bool:
        """Whether ``node`` goes through moves to nothing but a largest magnitude, and integers that `pointwise` products read."""
        for reader in self.readers.get(node.name, ()):
            if reader.op in (Op.RESHAPE, Op.PERMUTE):
                if not self._multiplied(reader):
                    return False
            elif reader.op is Op.QUANTIZE and not reader.attributes["draw"]:
                if not all(pointwise(product, self.graph) for product in self.readers[reader.name]):
                    return False
            elif reader.op is not Op.LARGEST:
                return False
        return True


def _mismatch_cost(node: Node, other: Node) -> float:
    """What it costs that ``other``, a reshape of ``node`` or what that is of, has not the dimension that lies along the lanes: where one of
    them is an image, with its channels along the lanes, and where rows are cut into heads that do not begin at bus words as INT8."""
    image = node.shape[-1] == other.shape[-1]
    heads = other.shape[-1] < node.shape[-1] and other.shape[-1] % BUS
    return COPY * math.prod(other.shape) if other.kind is Kind.WORD and (image or heads) else 0.0


def _reshaped_dimension(old: Sequence[int], new: Sequence[int], dim: int) -> int | None:
    """Where dimension ``dim`` is after a reshape; None where it is no dimension of its own any more."""
    before = math.prod(old[:dim])
    for d, size in enumerate(new):
        if size == old[dim] and math.prod(new[:d]) == before:
            return d
    return None
