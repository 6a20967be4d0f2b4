"""AdamW or SGD on the trained tensors as nodes of a step graph, written from docs/step.md and `loralith.spec`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from loralith.errors import LoralithError
from loralith.spec.graph import Graph, Kind, Node, Op

from .builder import Builder
from .operator_programs import constant

__all__ = ["CORRECTION", "RATE", "SGD", "AdamW", "Optimizer", "moments_of", "moved_by", "with_adamw", "with_optimizer"]

RATE, CORRECTION = "step.rate", "step.correction"
"""Inputs, scalars: what the step's number makes of the learning rate and of the second moment."""
TINY = 2.0**-100
"""Added to the second moment, so that its root has an argument above zero."""


@dataclass(frozen=True)
class AdamW:
    """AdamW without weight decay. ``lr``; ``betas``; ``eps``."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def scalars(self, step: int) -> dict[str, float]:
        """The inputs of update number ``step``, from 1, as words."""
        if step < 1:
            raise LoralithError(f"updates are counted from 1, not {step}")
        one, two = self.betas
        return {RATE: constant(self.lr / (1.0 - one**step)), CORRECTION: constant(1.0 / math.sqrt(1.0 - two**step))}


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent without momentum: p - lr g. ``lr``."""

    lr: float

    def scalars(self, step: int) -> dict[str, float]:
        """The inputs of update number ``step``, from 1, as words."""
        if step < 1:
            raise LoralithError(f"updates are counted from 1, not {step}")
        return {RATE: constant(self.lr)}


Optimizer = AdamW | SGD


def moments_of(name: str) -> tuple[str, str]:
    """The states that the optimizer keeps for the trained tensor ``name``."""
    return f"moment1.{name}", f"moment2.{name}"


def with_optimizer(graph: Graph, optimizer: Optimizer) -> Graph:
    """``graph`` with an update of each state that has a gradient: outputs ``state.NAME`` of the tensor and, of AdamW, of its moments."""
    b = Builder()
    for node in graph.nodes.values():
        b.graph.add(node)
    b.graph.outputs = dict(graph.outputs)
    b.source, b.prefix = type(optimizer).__name__, "update"
    rate = b.node(Op.INPUT, Kind.WORD, (), name=RATE)
    correction = b.node(Op.INPUT, Kind.WORD, (), name=CORRECTION) if isinstance(optimizer, AdamW) else None
    for what, gradient in graph.outputs.items():
        if not what.startswith("gradient."):
            continue
        value, grad = b.graph[what.removeprefix("gradient.")], b.graph[gradient]
        if isinstance(optimizer, AdamW):
            assert correction is not None
            _update(b, value, grad, rate, correction, optimizer)
        else:
            b.graph.set_output(f"state.{value.name}", b.subtract(value, b.multiply(grad, rate)).name)
    return b.graph


def with_adamw(graph: Graph, optimizer: AdamW) -> Graph:
    """`with_optimizer`, of AdamW."""
    return with_optimizer(graph, optimizer)


def _update(b: Builder, value: Node, grad: Node, rate: Node, correction: Node, optimizer: AdamW) -> None:
    one, two = optimizer.betas
    names = moments_of(value.name)
    m, s = (b.node(Op.STATE, Kind.WORD, value.shape, name=name) for name in names)
    m = b.add(b.multiply(m, constant(one)), b.multiply(grad, constant(1.0 - one)))
    s = b.add(b.multiply(s, constant(two)), b.multiply(b.multiply(grad, grad), constant(1.0 - two)))
    scaled = moved_by(b, m, s, correction, optimizer.eps)
    for name, node in zip((value.name, *names), (b.subtract(value, b.multiply(scaled, rate)), m, s), strict=True):
        b.graph.set_output(f"state.{name}", node.name)


def moved_by(b: Builder, m: Node, s: Node, correction: Node, eps: float) -> Node:
    """What AdamW moves a tensor by, but for the rate: m / (sqrt(s) correction + eps)."""
    positive = b.add(s, TINY)
    root = b.multiply(b.multiply(positive, b.function(Op.RSQRT, positive)), correction)
    return b.multiply(m, b.function(Op.RECIPROCAL, b.add(root, constant(eps))))
