"""A step of forward passes alone: finite differences of losses, a gradient's estimate and its projection as nodes of a step graph.

ZOODiP (Seo et al., 2025). The evaluations are rows of one forward pass, that of the token itself first.
"""

from __future__ import annotations

import math

from loralith.errors import LoralithError
from loralith.spec.graph import Graph, Kind, Op

from .builder import Builder
from .operator_programs import constant, mse, total

__all__ = ["HISTORY", "PROJECTOR", "TARGET", "WEIGHT", "with_estimate", "with_history"]

TARGET = "batch.target"
"""Input: what is to be predicted, once for all evaluations."""
WEIGHT = "step.weight"
"""Input, a scalar: 1 / (n mu^2), which makes the estimate of differences times mu times directions."""
PROJECTOR = "projector"
"""State [D, D]: onto the subspace in which the token moves."""
HISTORY = "history"
"""State [tau, D]: the token after each of the latest steps, the latest one last."""


def with_estimate(graph: Graph, directions: str, token: str, target: tuple[int, ...]) -> Graph:
    """``graph``, whose output ``prediction`` has evaluations as rows, with the outputs ``loss``, ``differences`` and ``gradient.token``.

    Parameters: ``directions``, the input [n, D], mu times directions; ``token``, the state [D]; ``target``, the shape of what is to be
    predicted. The difference of two losses is the mean of (y_i - y_0) (y_i + y_0 - 2 target): words that are subtracted where they are
    close, before anything is summed.
    """
    b = Builder()
    for node in graph.nodes.values():
        b.graph.add(node)
    b.source, b.prefix = "the estimate", "estimate"
    y, d = b.graph[graph.outputs["prediction"]], b.graph[directions]
    n, size = d.shape[0], math.prod(target)
    if math.prod(y.shape) != (n + 1) * size:
        raise LoralithError(f"{n} perturbations need predictions of {(n + 1) * size} values, not {list(y.shape)}")
    rows = b.reshape(y, (n + 1, size))
    wanted = b.reshape(b.node(Op.INPUT, Kind.WORD, target, name=TARGET), (1, size))
    first, others = b.slice(rows, 0, 0, 1), b.slice(rows, 0, 1, n + 1)
    b.graph.set_output("loss", mse(b, first, wanted).name)
    twice = b.subtract(b.add(others, first), b.multiply(wanted, 2.0))
    differences = b.multiply(total(b, b.multiply(b.subtract(others, first), twice), (1,)), constant(1.0 / size))
    b.graph.set_output("differences", differences.name)
    estimate = total(b, b.multiply(d, b.multiply(differences, b.node(Op.INPUT, Kind.WORD, (), name=WEIGHT))), (0,))
    width = d.shape[1]
    onto = b.node(Op.STATE, Kind.WORD, (width, width), name=PROJECTOR)
    b.graph.set_output(f"gradient.{token}", b.reshape(total(b, b.multiply(onto, estimate), (1,)), (width,)).name)
    return b.graph


def with_history(graph: Graph, token: str, steps: int) -> Graph:
    """``graph``, which updates ``token``, with its latest ``steps`` values as a state."""
    b = Builder()
    for node in graph.nodes.values():
        b.graph.add(node)
    b.graph.outputs = dict(graph.outputs)
    b.source, b.prefix = "the history", "history"
    after = b.graph[graph.outputs[f"state.{token}"]]
    past = b.node(Op.STATE, Kind.WORD, (steps, *after.shape), name=HISTORY)
    parts = b.slice(past, 0, 1, steps), b.reshape(after, (1, *after.shape))
    b.graph.set_output(f"state.{HISTORY}", b.node(Op.CONCAT, Kind.WORD, past.shape, *parts, dim=0).name)
    return b.graph
