"""Rotation of a tensor's channels by regular Hadamard blocks, as docs/numerics.md defines it (section 1). Numpy only; runs on a board."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from loralith.spec.scheme import SchemeError

__all__ = ["rotate"]

Float32 = NDArray[np.float32]

_CHUNK = 1 << 16
"""Elements rotated at a time: a core's cache holds them through all stages."""


def rotate(x: Float32, block: int, axis: int = -1, name: str = "") -> Float32:
    """``x`` times R along ``axis``, whose blocks of ``block`` channels, a power of four that divides the axis, are rotated each by itself.
    R is its own inverse. ``x`` itself where ``block`` is 1.

    With ``name`` raises SchemeError for a value that is no longer finite.
    """
    if block == 1:
        return x
    axis %= x.ndim
    if x.shape[axis] % block:
        raise SchemeError(f"{name or 'a tensor'} has {x.shape[axis]} channels, which blocks of {block} do not divide")
    inner = math.prod(x.shape[axis + 1 :])
    blocks = np.ascontiguousarray(x).reshape(-1, block, inner)
    result = np.empty_like(blocks)
    step = max(1, _CHUNK // (block * inner))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(blocks), step):
            _rotated(blocks[start : start + step], result[start : start + step])
    if name and not np.isfinite(result).all():
        raise SchemeError(f"{name} must be finite after its rotation; its largest magnitude before is {float(np.abs(x).max())}")
    return result.reshape(x.shape)


def _rotated(x: Float32, out: Float32) -> None:
    """``out`` [n, 4^k, inner] from ``x``. Each stage takes the lowest digit of the channel's number and puts it before the others, so that
    after k of them every digit has been lowest once, digit 0 first, and all are in their places again."""
    n, block, inner = x.shape
    stages = (block.bit_length() - 1) // 2
    quarter = block // 4
    source = x
    for stage in range(stages):
        target = out if stage == stages - 1 else np.empty((n, block, inner), np.float32)
        a, b, c, d = (source.reshape(n, quarter, 4, inner)[:, :, i] for i in range(4))
        placed = target.reshape(n, 4, quarter, inner)
        total, difference, left = a + b, c - d, a - b
        right = np.add(c, d)
        np.add(total, difference, out=placed[:, 0])
        np.subtract(total, difference, out=placed[:, 1])
        np.add(left, right, out=placed[:, 2])
        np.subtract(right, left, out=placed[:, 3])
        source = target
    out *= np.float32(2.0**-stages)
