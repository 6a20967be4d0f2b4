"""Operators between products as nodes of a step graph, written from docs/step.md and docs/vector_unit.md.

Nodes are words; each + - x is rounded once to 16 fraction bits, half to even, in the order that is written. Gradients have the shape of
what they are of; a backward function's ``grad`` is that of the forward result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from loralith.spec.graph import Node, Op
from loralith.spec.vector.numbers import from_float, to_float

from .builder import Builder, Term

__all__ = [
    "constant",
    "gelu",
    "gelu_backward",
    "mse",
    "norm",
    "norm_backward",
    "silu",
    "silu_backward",
    "softmax",
    "softmax_backward",
    "softmax_words",
    "total",
]

LOG2E = 1.0 / math.log(2.0)


def constant(value: float) -> float:
    """The nearest word."""
    return to_float(from_float(value))


def _sigmoid(b: Builder, x: Node) -> Node:
    e = b.function(Op.EXP2, b.multiply(x, constant(-LOG2E)))
    return b.function(Op.RECIPROCAL, b.add(e, 1.0))


def silu(b: Builder, x: Node) -> Node:
    """x / (1 + 2^(-x log2 e)), the shape of ``x``."""
    return b.multiply(x, _sigmoid(b, x))


def silu_backward(b: Builder, grad: Node, x: Node) -> Node:
    """grad s (1 + x (1 - s)), s the sigmoid of ``x``."""
    s = _sigmoid(b, x)
    inner = b.add(b.multiply(x, b.subtract(1.0, s)), 1.0)
    return b.multiply(grad, b.multiply(s, inner))


def gelu(b: Builder, x: Node) -> Node:
    """x times the normal distribution's integral up to x, the shape of ``x``."""
    return b.multiply(x, b.function(Op.PHI, x))


def gelu_backward(b: Builder, grad: Node, x: Node) -> Node:
    """grad (Phi(x) + x phi(x)), Phi the normal distribution's integral and phi its density."""
    e = b.function(Op.EXP2, b.multiply(b.multiply(x, x), constant(-LOG2E / 2.0)))
    density = b.multiply(e, constant(1.0 / math.sqrt(2.0 * math.pi)))
    return b.multiply(grad, b.add(b.function(Op.PHI, x), b.multiply(x, density)))


def softmax(b: Builder, z: Node) -> tuple[Node, Node, Node]:
    """(Pq, 1 / R, P) over the last dimension: integers, the reciprocal of each row's sum, their product."""
    factor = constant(LOG2E)
    e = b.function(Op.EXP2, b.subtract(b.multiply(z, factor), b.multiply(b.maximum(z, -1), factor)))
    q = b.quantize(b.multiply(e, 127.0), 1.0, 127, stochastic=False)
    unit = b.function(Op.RECIPROCAL, b.count(q, -1))
    return q, unit, b.multiply(b.word(q), unit)


def softmax_words(b: Builder, z: Node) -> Node:
    """P over the last dimension, from exponentials that are not rounded to integers."""
    factor = constant(LOG2E)
    e = b.function(Op.EXP2, b.subtract(b.multiply(z, factor), b.multiply(b.maximum(z, -1), factor)))
    return b.multiply(e, b.function(Op.RECIPROCAL, b.sum(e, (-1,), 1.0)))


def softmax_backward(b: Builder, grad: Node, p: Node, out: Node, grad_out: Node) -> Node:
    """dS = P (dP - the row sums of O dO): ``grad`` is dP and ``p`` P, [..., T, S]; ``out`` O and ``grad_out`` dO, [..., T, D]."""
    bound = b.multiply(b.multiply(b.largest(out), b.largest(grad_out)), 2.0)
    return b.multiply(p, b.subtract(grad, b.sum(b.multiply(out, grad_out), (-1,), bound)))


def norm(b: Builder, x: Node, dims: Sequence[int], weight: Node | None, bias: Node | None, eps: float) -> tuple[Node, Node, Node]:
    """(y, mean, 1 / standard deviation) over ``dims``, of size 1 in the last two; ``weight`` and ``bias`` broadcast to ``x``."""
    count = constant(1.0 / math.prod(x.shape[d] for d in dims))
    m = b.largest(x)
    mean = b.multiply(b.sum(x, dims, m), count)
    centred = b.subtract(x, mean)
    squares = b.sum(b.multiply(centred, centred), dims, b.multiply(b.multiply(m, m), 8.0))
    rstd = b.function(Op.RSQRT, b.add(b.multiply(squares, count), constant(eps)))
    y = b.multiply(centred, rstd)
    y = y if weight is None else b.multiply(y, weight)
    return y if bias is None else b.add(y, bias), mean, rstd


def norm_backward(b: Builder, grad: Node, x: Node, mean: Node, rstd: Node, dims: Sequence[int], weight: Node | None) -> Node:
    """The gradient of `norm`'s ``x``, from its ``mean`` and ``rstd``; weight and bias have none, as they are frozen."""
    size = math.prod(x.shape[d] for d in dims)
    count = constant(1.0 / size)
    g = grad if weight is None else b.multiply(grad, weight)
    bound = b.largest(grad) if weight is None else b.multiply(b.multiply(b.largest(grad), b.largest(weight)), 2.0)
    xhat = b.multiply(b.subtract(x, mean), rstd)
    of_g = b.multiply(b.sum(g, dims, bound), count)
    of_gx = b.multiply(b.sum(b.multiply(g, xhat), dims, b.multiply(bound, constant(2.0 * math.sqrt(size)))), count)
    return b.multiply(rstd, b.subtract(b.subtract(g, of_g), b.multiply(xhat, of_gx)))


def total(b: Builder, x: Node, dims: Sequence[int]) -> Node:
    """The sum over ``dims``, which stay with size 1, bounded by the largest term."""
    return b.sum(x, dims, b.largest(x))


def mse(b: Builder, x: Node, target: Node) -> Node:
    """The mean of (x - target)^2, a scalar []."""
    difference = b.subtract(x, target)
    m = b.add(b.largest(x), b.largest(target))
    count = math.prod(x.shape)
    flat = b.reshape(b.multiply(difference, difference), (count,))
    total = b.sum(flat, (0,), b.multiply(b.multiply(m, m), 2.0))
    return b.reshape(b.multiply(total, constant(1.0 / count)), ())


def mse_backward(b: Builder, grad: Term, x: Node, target: Node) -> Node:
    """The gradient of `mse`'s ``x``; ``grad`` is a scalar."""
    return b.multiply(b.multiply(b.subtract(x, target), constant(2.0 / math.prod(x.shape))), grad)


def upsample_backward(b: Builder, grad: Node, rows: int, cols: int) -> Node:
    """Each pixel's sum over its copies, added one by one, row by row."""
    h, w = grad.shape[2:]
    total: Node | None = None
    for i in range(rows):
        for j in range(cols):
            part = b.slice(b.slice(grad, 2, i, h, rows), 3, j, w, cols)
            total = part if total is None else b.add(total, part)
    assert total is not None
    return total
