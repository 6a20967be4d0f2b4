"""Values that are not computed yet: a chain of elementwise steps on a tensor or on a product's sums, and moves of its result.

The steps are kept in the frame of the source, its dimensions as they were before any move: an operand that meets the chain after a move
takes the way back.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from loralith.compiler.step.chains import Step
from loralith.compiler.step.layouts import CHAINED
from loralith.compiler.step.views import View, expand, permute, reshape
from loralith.spec.graph import Node, Op

__all__ = ["PASSED", "Chain", "goes_on"]

PASSED = (Op.RESHAPE, Op.PERMUTE)
"""Moves that a chain goes through."""


def goes_on(node: Node, readers: Mapping[str, Sequence[Node]], outputs: Container[str]) -> bool:
    """Whether the one reader of ``node`` goes on with its value, so that it need not lie in memory."""
    own = readers.get(node.name, ())
    if len(own) != 1 or node.name in outputs:
        return False
    (reader,) = own
    return (reader.op in CHAINED and reader.shape == node.shape) or (reader.op in PASSED and goes_on(reader, readers, outputs))


@dataclass
class Chain:
    """``steps`` on a tensor in memory or on the sums of a product, of ``shape``, with operands ``views`` of that shape; then ``moves``,
    each the shapes before and after it and, of a permutation, its order. ``debts``: nodes that it reads."""

    source: View | Node
    shape: tuple[int, ...]
    steps: list[Step] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    debts: list[str] = field(default_factory=list)
    moves: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None]] = field(default_factory=list)

    @property
    def current(self) -> tuple[int, ...]:
        """The shape after all moves."""
        return self.moves[-1][1] if self.moves else self.shape

    def move(self, node: Node) -> None:
        """The result goes through ``node``, one of `PASSED`."""
        order = tuple(node.attributes["order"]) if node.op is Op.PERMUTE else None
        self.moves.append((self.current, node.shape, order))

    def operand(self, view: View) -> View | None:
        """``view``, which broadcasts to the shape after the moves, in the frame of the source; None where no strides say that."""
        found: View | None = expand(view, self.current)
        for before, _, order in reversed(self.moves):
            assert found is not None
            found = reshape(found, before) if order is None else permute(found, _inverse(order))
            if found is None:
                return None
        return found

    def result(self, view: View) -> View | None:
        """What ``view``, the value in the frame of the source, is after the moves; None where no strides say that."""
        found: View | None = view
        for _, after, order in self.moves:
            assert found is not None
            found = reshape(found, after) if order is None else permute(found, order)
            if found is None:
                return None
        return found


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(order)), key=order.__getitem__))
