"""Writes a step graph's nodes: names, shapes and kinds follow from what is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from loralith.spec.graph import Graph, Kind, Node, Op
from loralith.spec.step import sum_parts

__all__ = ["Builder", "Term"]

Term = Node | float
"""A node, or a constant word."""


class Builder:
    """Nodes in the order in which they are asked for. ``source`` is what they belong to from then on, ``prefix``
    begins their names."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.source = ""
        self.draws = 0
        self.prefix = "n"

    def node(self, op: Op, kind: Kind, shape: Sequence[int], *inputs: Term, name: str = "", **attributes: Any) -> Node:
        names = tuple(x.name if isinstance(x, Node) else float(x) for x in inputs)
        return self.graph.add(Node(name or f"{self.prefix}{len(self.graph.nodes)}", op, kind, tuple(shape), names, attributes, self.source))

    def _words(self, op: Op, *inputs: Term) -> Node:
        return self.node(op, Kind.WORD, broadcast(*(x.shape if isinstance(x, Node) else () for x in inputs)), *inputs)

    # Words.

    def add(self, x: Term, y: Term) -> Node:
        return self._words(Op.ADD, x, y)

    def subtract(self, x: Term, y: Term) -> Node:
        return self._words(Op.SUBTRACT, x, y)

    def multiply(self, x: Term, y: Term) -> Node:
        return self._words(Op.MULTIPLY, x, y)

    def function(self, op: Op, x: Node) -> Node:
        return self._words(op, x)

    def brain(self, x: Node) -> Node:
        """As it lies in memory until the next operator reads it."""
        return self._words(Op.BRAIN, x)

    def sum(self, x: Node, dims: Sequence[int], bound: Term) -> Node:
        """Over ``dims``, which stay with size 1; a long one in two stages, first its parts (`loralith.spec.step.sum_parts`)."""
        dims = tuple(d % len(x.shape) for d in dims)
        cut = sum_parts(x.shape, dims)
        if cut is None:
            return self.node(Op.SUM, Kind.WORD, _kept(x.shape, dims), x, bound, dims=dims)
        d, part = cut
        parted = self.reshape(x, (*x.shape[:d], x.shape[d] // part, part, *x.shape[d + 1 :]))
        parts = self.node(Op.SUM, Kind.WORD, _kept(parted.shape, (d + 1,)), parted, bound, dims=(d + 1,))
        return self.sum(self.reshape(parts, (*x.shape[:d], x.shape[d] // part, *x.shape[d + 1 :])), dims, self.multiply(bound, float(part)))

    def largest(self, x: Node) -> Node:
        return self.node(Op.LARGEST, Kind.WORD, (), x)

    def maximum(self, x: Node, dim: int) -> Node:
        dims = (dim % len(x.shape),)
        return self.node(Op.MAXIMUM, Kind.WORD, _kept(x.shape, dims), x, dims=dims)

    # Integers.

    def scale(self, x: Node, limit: int) -> Node:
        """Of a tensor whose largest magnitude is ``x``."""
        return self.node(Op.SCALE, Kind.WORD, (), x, limit=limit)

    def quantize(self, x: Node, scale: Term, limit: int, stochastic: bool, lanes: int = -1) -> Node:
        self.draws += stochastic
        draw: dict[str, Any] = {"draw": self.draws, "lanes": lanes % len(x.shape)} if stochastic else {"draw": 0}
        return self.node(Op.QUANTIZE, Kind.INT8, x.shape, x, scale, limit=limit, **draw)

    def count(self, x: Node, dim: int) -> Node:
        dims = (dim % len(x.shape),)
        return self.node(Op.COUNT, Kind.WORD, _kept(x.shape, dims), x, dims=dims)

    def word(self, x: Node) -> Node:
        return self.node(Op.WORD, Kind.WORD, x.shape, x)

    def matmul(self, a: Node, b: Node) -> Node:
        return self.node(Op.MATMUL, Kind.SUM, (*broadcast(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), a, b)

    # Moves.

    def move(self, op: Op, x: Node, shape: Sequence[int], **attributes: Any) -> Node:
        return self.node(op, x.kind, shape, x, **attributes)

    def reshape(self, x: Node, shape: Sequence[int]) -> Node:
        shape = list(shape)
        if -1 in shape:
            rest = math.prod(n for n in shape if n != -1)
            shape[shape.index(-1)] = math.prod(x.shape) // rest
        if x.op is Op.RESHAPE:  # there and back is nothing
            x = self.graph[x.inputs[0]]
        return x if tuple(shape) == x.shape else self.move(Op.RESHAPE, x, shape)

    def permute(self, x: Node, order: Sequence[int]) -> Node:
        if x.op is Op.PERMUTE:
            order = [x.attributes["order"][d] for d in order]
            x = self.graph[x.inputs[0]]
        if list(order) == list(range(len(x.shape))):
            return x
        return self.move(Op.PERMUTE, x, [x.shape[i] for i in order], order=tuple(order))

    def slice(self, x: Node, dim: int, start: int, stop: int, step: int = 1) -> Node:
        dim %= len(x.shape)
        length = len(range(start, stop, step))
        return self.move(Op.SLICE, x, [*x.shape[:dim], length, *x.shape[dim + 1 :]], dim=dim, start=start, stop=stop, step=step)

    def expand(self, x: Node, shape: Sequence[int]) -> Node:
        return x if tuple(shape) == x.shape else self.move(Op.EXPAND, x, shape)


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that numpy's rules give."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(max(sizes) for sizes in zip(*padded, strict=True))


def _kept(shape: Sequence[int], dims: Sequence[int]) -> tuple[int, ...]:
    return tuple(1 if i in dims else n for i, n in enumerate(shape))
