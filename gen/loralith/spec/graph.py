"""The step graph: a training step as single operations on whole tensors, each defined to the bit.

The compiler writes it, `loralith.verif.graph` interprets it, and `--verify` names its nodes. Every node has one result. docs/step_graph.md
defines each operation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

__all__ = ["MOVES", "Graph", "GraphError", "Kind", "Node", "Op"]


class GraphError(ValueError):
    """A step graph that cannot be; the message names the node."""


class _Name(str, Enum):  # noqa: UP042  # StrEnum came with Python 3.11
    """Names whose text is their value, as Python 3.11's StrEnum has it; a board may run 3.10."""

    def __str__(self) -> str:
        return str(self.value)

    __format__ = str.__format__


class Kind(_Name):
    """What a tensor's elements are."""

    WORD = "word"
    """Words of the vector unit. In DRAM: FP32, or bfloat16 where the node is a `Op.BRAIN`."""
    INT8 = "int8"
    """Integers in +-127, or +-32512 in two bytes where the node says so; their scale is a word of its own."""
    SUM = "sum"
    """Exact sums of products, INT32. Only the operation that makes words of them reads them."""


class Op(_Name):
    """Operations. Shapes broadcast as numpy's do, from the last dimension."""

    # Where tensors come from. No inputs.
    INPUT = "input"
    """Written by the host before each step."""
    FROZEN = "frozen"
    """Written once: weights (INT8), their units, norms' weights and biases."""
    STATE = "state"
    """A, B and what the optimizer keeps: in device memory from step to step."""
    # Words.
    ADD = "add"
    SUBTRACT = "subtract"
    MULTIPLY = "multiply"
    EXP2 = "exp2"
    RECIPROCAL = "reciprocal"
    RSQRT = "rsqrt"
    PHI = "phi"
    BRAIN = "brain"
    """Rounded to bfloat16, as it lies in memory."""
    SUM = "sum"
    """Over the dimensions ``dims``, which stay with size 1: terms x, bound. The bound is a scalar."""
    LARGEST = "largest"
    """The largest magnitude, a scalar; over ``dims``, which stay with size 1, where the node has them."""
    MAXIMUM = "maximum"
    """The largest value over ``dims``, which stay with size 1."""
    SCALE = "scale"
    """2^k, k the smallest of at least -126 with x <= ``limit`` 2^k; ``limit`` is 127 times a power of two."""
    # Integers.
    QUANTIZE = "quantize"
    """x, scale: x / scale as integers within ``limit``; half to even, or stochastic where ``draw`` numbers the tensor from 1,
    with ``lanes`` the dimension along the vector unit's lanes."""
    COUNT = "count"
    """The sum of integers over ``dims``, as words."""
    MATMUL = "matmul"
    """[..., M, K] [..., K, N]: sums."""
    CONVOLUTION = "convolution"
    """x [N, C, H, W], w [O, C, h, w]: sums [N, O, ...]; ``stride``, ``padding``."""
    CONVOLUTION_INPUT = "convolution_input"
    """dY [N, O, ...], w: sums of dX in ``shape``; ``stride``, ``padding`` of the convolution."""
    WORD = "word"
    """Sums, or integers, as words."""
    # Moves. The kind is that of the first input.
    RESHAPE = "reshape"
    PERMUTE = "permute"
    """``order``."""
    SLICE = "slice"
    """``dim``, ``start``, ``stop``, ``step``."""
    CONCAT = "concat"
    """``dim``."""
    EXPAND = "expand"
    REPEAT = "repeat"
    """Each pixel ``rows`` x ``cols`` times, [N, C, H, W]."""


MOVES = frozenset({Op.RESHAPE, Op.PERMUTE, Op.SLICE, Op.CONCAT, Op.EXPAND, Op.REPEAT})
_COUNTS = {
    **dict.fromkeys((Op.INPUT, Op.FROZEN, Op.STATE), 0),
    **dict.fromkeys((Op.ADD, Op.SUBTRACT, Op.MULTIPLY, Op.SUM, Op.QUANTIZE, Op.MATMUL, Op.CONVOLUTION, Op.CONVOLUTION_INPUT), 2),
}
_ATTRIBUTES = {
    Op.SUM: ("dims",),
    Op.MAXIMUM: ("dims",),
    Op.COUNT: ("dims",),
    Op.SCALE: ("limit",),
    Op.QUANTIZE: ("limit", "draw"),
    Op.CONVOLUTION: ("stride", "padding"),
    Op.CONVOLUTION_INPUT: ("stride", "padding"),
    Op.PERMUTE: ("order",),
    Op.SLICE: ("dim", "start", "stop", "step"),
    Op.CONCAT: ("dim",),
    Op.REPEAT: ("rows", "cols"),
}
_INTEGERS_IN = {Op.COUNT: Kind.INT8, Op.MATMUL: Kind.INT8, Op.CONVOLUTION: Kind.INT8, Op.CONVOLUTION_INPUT: Kind.INT8}
_KINDS_OUT = {Op.QUANTIZE: Kind.INT8, Op.MATMUL: Kind.SUM, Op.CONVOLUTION: Kind.SUM, Op.CONVOLUTION_INPUT: Kind.SUM}


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        name: unique in its graph.
        op, kind, shape: what it does, and of what its result is; () is a scalar.
        inputs: names of earlier nodes; a number is a constant word, the same for every element.
        attributes: what the operation needs besides, by name.
        source: the torch operator and module that it belongs to, for messages.
    """

    name: str
    op: Op
    kind: Kind
    shape: tuple[int, ...]
    inputs: tuple[str | float, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def __str__(self) -> str:
        arguments = [*(str(x) for x in self.inputs), *(f"{k}={v}" for k, v in self.attributes.items())]
        return f"{self.name}: {self.kind}{list(self.shape)} = {self.op}({', '.join(arguments)})"


class Graph:
    """Nodes in an order in which they can run, and the names of its results by what they are: ``loss``, gradients, new states."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.outputs: dict[str, str] = {}

    def add(self, node: Node) -> Node:
        """Appends ``node``. Raises GraphError for an input that is not there yet, a kind or a count that the operation does not take."""
        if node.name in self.nodes:
            raise GraphError(f"{node.name} stands in the graph already")
        expected = _COUNTS.get(node.op, None if node.op is Op.CONCAT else 1)
        if expected is not None and len(node.inputs) != expected:
            raise GraphError(f"{node.name}: {node.op} takes {expected} inputs, not {len(node.inputs)}")
        kinds = [Kind.WORD if isinstance(x, float) else self[x].kind for x in node.inputs]
        wanted = _INTEGERS_IN.get(node.op, Kind.WORD)
        if node.op in MOVES:
            wanted = kinds[0]
        if node.op is not Op.WORD:
            for operand, kind in zip(node.inputs, kinds, strict=True):
                if kind is not wanted:
                    raise GraphError(f"{node.name}: {node.op} takes {wanted}, and {operand} is {kind}")
        result = kinds[0] if node.op in MOVES else _KINDS_OUT.get(node.op, Kind.WORD)
        if node.op not in (Op.INPUT, Op.FROZEN, Op.STATE) and node.kind is not result:
            raise GraphError(f"{node.name}: {node.op} makes {result}, not {node.kind}")
        for attribute in _ATTRIBUTES.get(node.op, ()):
            if attribute not in node.attributes:
                raise GraphError(f"{node.name}: {node.op} needs {attribute}")
        self.nodes[node.name] = node
        return node

    def __getitem__(self, name: str | float) -> Node:
        node = self.nodes.get(name) if isinstance(name, str) else None
        if node is None:
            raise GraphError(f"there is no node {name!r} so far")
        return node

    def set_output(self, what: str, name: str) -> None:
        self.outputs[what] = self[name].name

    def live(self) -> Graph:
        """The same graph without what no output needs."""
        wanted = set(self.outputs.values())
        for node in reversed(self.nodes.values()):
            if node.name in wanted:
                wanted.update(x for x in node.inputs if isinstance(x, str))
        kept = Graph()
        for node in self.nodes.values():
            if node.name in wanted:
                kept.add(node)
        kept.outputs = dict(self.outputs)
        return kept

    def of(self, op: Op) -> Iterable[Node]:
        return (node for node in self.nodes.values() if node.op is op)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.nodes.values()), *(f"{what} = {name}" for what, name in self.outputs.items())])
