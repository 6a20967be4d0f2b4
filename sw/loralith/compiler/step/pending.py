"""Values that are not computed yet: a chain of elementwise steps on a tensor or on a product's sums, and moves of its result.

The steps are kept in the frame of the source, its dimensions as they were before any move: an operand that meets the chain after a move
takes the way back.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from loralith.compiler.step.chains import Prepared, Step, instructions_of
from loralith.compiler.step.layouts import CHAINED
from loralith.compiler.step.views import View, expand, permute, reshape
from loralith.spec.graph import Graph, Node, Op
from loralith.spec.numerics import Q8_MAX

__all__ = ["PASSED", "Chain", "continues_in_reader", "made_twice", "quantizes", "readers_of"]

FEW_TERMS = 160
"""Terms of a product that is made a second time rather than stored. An FP32 word crosses a bus of 16 bytes in a quarter of a cycle, once
stored and twice loaded; a term takes 1 / 256 of a cycle of 16 x 16."""

MOST_PREPARED = 2
"""Operands of a chain that are chains themselves."""
MOST_INSTRUCTIONS = 6
"""Of such an operand: a tile's instructions are on chip with those of other tiles."""

PASSED = (Op.RESHAPE, Op.PERMUTE)
"""Moves that a chain goes through."""


def readers_of(graph: Graph) -> dict[str, list[Node]]:
    """Who reads each node, as often as it reads it."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes.values():
        for name in node.inputs:
            if isinstance(name, str):
                found.setdefault(name, []).append(node)
    return found


def continues_in_reader(node: Node, readers: Mapping[str, Sequence[Node]], outputs: Container[str]) -> bool:
    """Whether the one reader of ``node`` goes on with its value, so that it need not lie in memory."""
    own = readers.get(node.name, ())
    if len(own) != 1 or node.name in outputs:
        return False
    (reader,) = own
    if reader.op in CHAINED or quantizes(reader):
        return reader.shape == node.shape
    return reader.op in PASSED and continues_in_reader(reader, readers, outputs)


def quantizes(node: Node) -> bool:
    """Whether a chain ends in ``node``: integers of one byte, half to even, with a scale that waits for no maximum."""
    a = node.attributes
    return node.op is Op.QUANTIZE and not isinstance(node.inputs[1], str) and not a["draw"] and a["limit"] <= Q8_MAX


def made_twice(node: Node, graph: Graph, readers: Mapping[str, Sequence[Node]], lanes: int) -> bool:
    """Whether a product's words are made anew for each of their two readers, a maximum of rows and a chain: it has so few terms that this
    takes less than to store them and to load them twice. ``lanes``: of the vector unit."""
    own = readers.get(node.name, ())
    if len(own) != 2 or len(node.shape) < 2:
        return False
    top = [r for r in own if r.op is Op.MAXIMUM and r.attributes["dims"] == (len(node.shape) - 1,)]
    rest = [r for r in own if r.op in CHAINED and r.shape == node.shape]
    if len(top) != 1 or len(rest) != 1 or node.shape[-2] % lanes:
        return False
    steps = 0
    while node.op is Op.MULTIPLY and steps < 2:  # what one instruction does
        tensors = [x for x in node.inputs if isinstance(x, str) and graph[x].shape == node.shape]
        scalars = [x for x in node.inputs if not isinstance(x, str) or graph[x].shape == ()]
        if len(tensors) != 1 or len(scalars) != 1 or (steps and len(readers[node.name]) != 1):
            return False
        node, steps = graph[tensors[0]], steps + 1
    if node.op is not Op.WORD or len(readers[node.name]) != 1:
        return False
    product = graph[node.inputs[0]]
    return product.op is Op.MATMUL and graph[product.inputs[0]].shape[-1] <= FEW_TERMS


@dataclass
class Chain:
    """``steps`` on a tensor in memory or on the sums of a product, of ``shape``, with operands ``views`` of that shape; then ``moves``,
    each the shapes before and after it and, of a permutation, its order. ``reads``: nodes that it reads. ``prepared``: by the number of an
    operand, the chain that makes it of what ``views`` has for it."""

    source: View | Node
    shape: tuple[int, ...]
    steps: list[Step] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    moves: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None]] = field(default_factory=list)
    prepared: dict[int, Chain] = field(default_factory=dict)

    @property
    def current(self) -> tuple[int, ...]:
        """The shape after all moves."""
        return self.moves[-1][1] if self.moves else self.shape

    def operands(self) -> tuple[list[View], Prepared]:
        """Of a chain before its moves, in its shape: the source, if it is a tensor, and the operands; what those are prepared by."""
        views = [self.source, *self.views] if isinstance(self.source, View) else self.views
        prepared = {i: (other.steps, [expand(view, self.shape) for view in other.views]) for i, other in self.prepared.items()}
        return [expand(view, self.shape) for view in views], prepared

    def copy(self) -> Chain:
        prepared = {i: other.copy() for i, other in self.prepared.items()}
        return Chain(self.source, self.shape, [*self.steps], [*self.views], [*self.reads], [*self.moves], prepared)

    def move(self, node: Node) -> None:
        """The result goes through ``node``, one of `PASSED`."""
        order = tuple(node.attributes["order"]) if node.op is Op.PERMUTE else None
        self.moves.append((self.current, node.shape, order))

    @property
    def length(self) -> int:
        """Steps, those of chains that make its operands too."""
        return len(self.steps) + sum(len(other.steps) for other in self.prepared.values())

    def prepares(self, other: Chain) -> bool:
        """Whether ``other``, on a tensor of the same shape that repeats nothing, can be computed on chip for an operand of this chain.
        Beside a product that is one instruction, with at most one operand, which is the same in a whole row."""
        if self.moves or other.moves or other.prepared or other.shape != self.shape or not isinstance(other.source, View):
            return False
        source = expand(other.source, self.shape)
        count, repeats = len(instructions_of(other.steps)), any(s == 0 and n > 1 for n, s in zip(source.shape, source.strides, strict=True))
        if repeats or not other.steps:
            return False
        if isinstance(self.source, View):
            return len(self.prepared) < MOST_PREPARED and count <= MOST_INSTRUCTIONS
        rows = all(view.shape[-1] == 1 or view.strides[-1] == 0 for view in other.views)
        return self.source.op is Op.MATMUL and not self.prepared and rows and count == 1 and len(other.views) <= 1

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
