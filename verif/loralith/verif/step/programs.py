"""Operators between products, forward and backward, as sequences of the vector unit's operations.

Each function takes and returns float32 tensors in the vector format of ``v``. Scalars that a host knows beforehand (1 / n, eps, a
factor) are rounded to the format first. The names are those of torch's operators, whose arguments they take where that helps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from loralith.spec.step import PART_TERMS, WHOLE_TERMS
from loralith.verif.vector.format import VectorFormat

__all__ = [
    "adamw",
    "gelu",
    "gelu_backward",
    "mse",
    "mse_backward",
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
TINY = 2.0**-100
"""Added before a root, so that a second moment of zero has one; far below the square of any eps in use."""


def _constant(v: VectorFormat, value: float) -> float:
    return float(v.round(torch.tensor(value, dtype=torch.float64)))


def sigmoid(v: VectorFormat, x: Tensor) -> Tensor:
    """1 / (1 + 2^(-x log2 e))."""
    return v.reciprocal(v.add(v.exp2(v.mul(x, _constant(v, -LOG2E))), 1.0))


def silu(v: VectorFormat, x: Tensor) -> Tensor:
    return v.mul(x, sigmoid(v, x))


def silu_backward(v: VectorFormat, grad: Tensor, x: Tensor) -> Tensor:
    """grad s (1 + x (1 - s)), s the sigmoid of x."""
    s = sigmoid(v, x)
    inner = v.add(v.mul(x, v.sub(torch.ones_like(s), s)), 1.0)
    return v.mul(grad, v.mul(s, inner))


def gelu(v: VectorFormat, x: Tensor) -> Tensor:
    return v.mul(x, v.phi(x))


def gelu_backward(v: VectorFormat, grad: Tensor, x: Tensor) -> Tensor:
    """grad (cdf(x) + x pdf(x))."""
    pdf = v.mul(v.exp2(v.mul(v.mul(x, x), _constant(v, -LOG2E / 2))), _constant(v, 1.0 / math.sqrt(2.0 * math.pi)))
    return v.mul(grad, v.add(v.phi(x), v.mul(x, pdf)))


def softmax(v: VectorFormat, z: Tensor) -> tuple[Tensor, Tensor]:
    """Over the last dimension: (Pq, R), Pq = 127 exp(z - max) rounded to an integer 0..127, R [..., 1] the sum of each row of Pq."""
    factor = _constant(v, LOG2E)
    e = v.exp2(v.sub(v.mul(z, factor), v.mul(z.amax(-1, keepdim=True), factor)))
    q = torch.round(v.mul(e, 127.0))
    return q, q.sum(-1, keepdim=True)


def softmax_words(v: VectorFormat, z: Tensor) -> Tensor:
    """P over the last dimension, where operands have two INT8 tensors: exponentials as they are, over their sum, bounded by 1 for each."""
    scaled = v.mul(z, _constant(v, LOG2E))
    e = v.exp2(v.sub(scaled, scaled.amax(-1, keepdim=True)))
    return v.mul(e, v.reciprocal(total(v, e, (-1,), 1.0)))


def softmax_backward(v: VectorFormat, grad: Tensor, p: Tensor, out: Tensor, grad_out: Tensor) -> Tensor:
    """P (dP - D), D the row's sum of dO O, which is that of P dP: O = P V [..., T, d] and its gradient are smaller than P."""
    bound = v.mul(v.mul(largest(out), largest(grad_out)), 2.0)
    return v.mul(p, v.sub(grad, total(v, v.mul(out, grad_out), (-1,), bound)))


def total(v: VectorFormat, x: Tensor, dims: tuple[int, ...], bound: Tensor | float) -> Tensor:
    """The sum over ``dims``, which stay with size 1. One of more than `WHOLE_TERMS` terms is first made of parts along its longest
    dimension, whose sums are terms of at most so many times the bound."""
    dims = tuple(d % x.ndim for d in dims)
    if math.prod(x.shape[d] for d in dims) <= WHOLE_TERMS:
        return v.sum(x, dims, bound)
    long = max(sorted(dims, reverse=True), key=lambda d: x.shape[d])
    divisors = [n for n in range(1, PART_TERMS + 1) if x.shape[long] % n == 0]
    if divisors[-1] == 1:
        return v.sum(x, dims, bound)
    parts = v.sum(x.unflatten(long, (-1, divisors[-1])), (long + 1,), bound).squeeze(long + 1)
    return total(v, parts, dims, v.mul(torch.as_tensor(bound), float(divisors[-1])))


def largest(x: Tensor) -> Tensor:
    """A tensor's largest magnitude, a scalar."""
    return x.abs().amax()


def norm(
    v: VectorFormat, x: Tensor, dims: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, mean, 1 / standard deviation) over ``dims`` of x; weight and bias broadcast. Mean first, then the squares of what is left."""
    count = _constant(v, 1.0 / math.prod(x.shape[d] for d in dims))
    m = largest(x)
    mean = v.mul(total(v, x, dims, m), count)
    centred = v.sub(x, mean)
    variance = v.mul(total(v, v.mul(centred, centred), dims, v.mul(v.mul(m, m), 8.0)), count)
    rstd = v.rsqrt(v.add(variance, _constant(v, eps)))
    y = v.mul(centred, rstd)
    if weight is not None:
        y = v.mul(y, weight)
    if bias is not None:
        y = v.add(y, bias)
    return y, mean, rstd


def norm_backward(
    v: VectorFormat, grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, dims: tuple[int, ...], weight: Tensor | None
) -> Tensor:
    """dX = rstd (g - mean of g - xhat mean of g xhat), g = grad weight, xhat = (x - mean) rstd: at most the root of their number."""
    size = math.prod(x.shape[d] for d in dims)
    count = _constant(v, 1.0 / size)
    g = grad if weight is None else v.mul(grad, weight)
    bound = largest(grad) if weight is None else v.mul(v.mul(largest(grad), largest(weight)), 2.0)
    xhat = v.mul(v.sub(x, mean), rstd)
    of_g = v.mul(total(v, g, dims, bound), count)
    of_gx = v.mul(total(v, v.mul(g, xhat), dims, v.mul(bound, _constant(v, 2.0 * math.sqrt(size)))), count)
    return v.mul(rstd, v.sub(v.sub(g, of_g), v.mul(xhat, of_gx)))


def mse(v: VectorFormat, x: Tensor, target: Tensor) -> Tensor:
    """A scalar: the mean of the squared differences."""
    difference = v.sub(x, target)
    m = v.add(largest(x), largest(target))
    squares = total(v, v.mul(difference, difference).flatten(), (0,), v.mul(v.mul(m, m), 2.0))
    return v.mul(squares, _constant(v, 1.0 / x.numel())).reshape(())


def upsample_backward(v: VectorFormat, grad: Tensor, rows: int, cols: int) -> Tensor:
    """Each pixel's sum over its ``rows`` x ``cols`` copies of grad [N, C, H, W], added one by one, row by row."""
    parts = [grad[:, :, i::rows, j::cols] for i in range(rows) for j in range(cols)]
    total = parts[0]
    for part in parts[1:]:
        total = v.add(total, part)
    return total


def mse_backward(v: VectorFormat, grad: Tensor, x: Tensor, target: Tensor) -> Tensor:
    return v.mul(v.mul(v.sub(x, target), _constant(v, 2.0 / x.numel())), grad)


def adamw(
    v: VectorFormat, value: Tensor, grad: Tensor, m: Tensor, s: Tensor, step: int, lr: float, betas: tuple[float, float], eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One AdamW update without weight decay: (change of the value, first moment, second moment). ``step`` counts from 1."""
    one, two = (_constant(v, b) for b in betas)
    m = v.add(v.mul(m, one), v.mul(grad, _constant(v, 1.0 - betas[0])))
    s = v.add(v.mul(s, two), v.mul(v.mul(grad, grad), _constant(v, 1.0 - betas[1])))
    rate = _constant(v, lr / (1.0 - betas[0] ** step))
    positive = v.add(s, TINY)
    root = v.mul(v.mul(positive, v.rsqrt(positive)), _constant(v, 1.0 / math.sqrt(1.0 - betas[1] ** step)))
    return v.mul(v.mul(m, v.reciprocal(v.add(root, _constant(v, eps)))), rate), m, s
