"""What the lowering knows of a torch value: its node, the tensor whose storage it is a view of, and how it is quantized for products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from loralith.errors import LoralithError
from loralith.spec.graph import Node
from loralith.spec.step import dimension_of, row_dimension

from .builder import Builder

__all__ = ["Move", "Quantized", "Root", "Step", "Value", "spread"]

Move = Callable[[Builder, Node], Node]
Strided = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Quantized:
    """An INT8 operand. value: scale times the integers, times ``unit`` where there is one.

    scale: a scalar node, or None for 1. unit: a node of the tensor's shape, a word for each element, constant but along one dimension.
    strides: a tensor without storage whose strides are zero where the unit is constant. wide: of integers of two bytes.
    """

    q: Node
    scale: Node | None
    unit: Node | None = None
    strides: Tensor | None = None
    wide: bool = False


@dataclass
class Root:
    """A tensor with storage of its own.

    known: how it is quantized already. unit_of: what its unit belongs to; B has its base weight's. scores: the gradient of a
    softmax's argument. copies: its quantized forms by what was
    taken in. rest: what its quantized form has left, quantized.
    """

    node: Node
    gradient: bool
    batch: bool = False
    known: Quantized | None = None
    unit_of: object = None
    scores: bool = False
    copies: dict[object, Quantized] = field(default_factory=dict)
    rest: Quantized | None = None


@dataclass(frozen=True)
class Step:
    """A move of a view, on nodes and on torch tensors, and the way back on both; a way back of None has no use for products."""

    move: Move
    strided: Strided
    back: Move | None
    strided_back: Strided | None


@dataclass(frozen=True)
class Value:
    """A view: ``node`` is what it looks like, ``moves`` are what lead from the root to it."""

    node: Node
    root: Root
    moves: tuple[Step, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.node.shape

    def moved(self, b: Builder, step: Step) -> Value:
        """The view after one more move."""
        return Value(step.move(b, self.node), self.root, (*self.moves, step))

    def lanes(self) -> int:
        """The dimension of this view that lies along the lanes where it is rounded stochastically."""
        made = self.root.node.shape
        rows = row_dimension(made)
        if rows is None:
            return -1
        seen = root = torch.empty(made, device="meta")
        for step in self.moves:
            seen = step.strided(seen)
        return dimension_of(seen.shape, seen.stride(), made[rows], root.stride(rows))

    def view(self, b: Builder, quantized: Quantized) -> Quantized:
        """A quantized form of the root as this view sees it."""
        q, unit, strides = quantized.q, quantized.unit, quantized.strides
        for step in self.moves:
            q = step.move(b, q)
            unit = None if unit is None else step.move(b, unit)
            strides = None if strides is None else step.strided(strides)
        return Quantized(q, quantized.scale, unit, strides, quantized.wide)

    def at_root(self, b: Builder, line: Node) -> tuple[Node, Tensor]:
        """``line``, which broadcasts over this view, over the root: (node, tensor of strides)."""
        node, strides = spread(b, line, self.shape)
        for step in reversed(self.moves):
            assert step.strided_back is not None
            strides = step.strided_back(strides)
        return self.back(b, node), strides

    def back(self, b: Builder, node: Node) -> Node:
        """``node``, which looks like this view, as the root looks."""
        for step in reversed(self.moves):
            if step.back is None:
                raise LoralithError(f"{self.node.name}: the step on the device has no product of an expanded tensor")
            node = step.back(b, node)
        return node


def spread(b: Builder, unit: Node, shape: Sequence[int]) -> tuple[Node, Tensor]:
    """``unit``, with size 1 where it is constant, over a whole tensor: (node, tensor of strides)."""
    return b.expand(unit, shape), torch.empty(unit.shape, device="meta").expand(tuple(shape))
