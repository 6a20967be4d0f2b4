"""Quantizers and packing on numpy arrays, as docs/numerics.md defines them.

Written from `loralith.spec` alone and compared with the torch reference bit for bit. Quantized arrays are ``int8``; scales
are Python floats (FP32 values) or ``float32`` arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loralith.device.arithmetic import hash_range, kernels
from loralith.spec.numerics import Q8_MAX, hash_key
from loralith.spec.scales import power_exponent, rotation_block, scale_of, vanishes, weight_scales
from loralith.spec.scheme import FQT, SchemeError

from .rotation import rotate

__all__ = [
    "Quantized",
    "QuantizedWeight",
    "Stream",
    "dequantize",
    "finite32",
    "largest",
    "pack_columns",
    "padded_rank",
    "quantize",
    "quantize_power",
    "quantize_weight",
]

Int8 = NDArray[np.int8]
Float32 = NDArray[np.float32]

_CHUNK = 1 << 15
"""Elements rounded at a time: what the hash needs of them stays in a core's cache."""
_SHARE = 1 << 19
"""Elements of a large tensor that one thread goes through."""


@dataclass(frozen=True)
class Stream:
    """The random numbers of one tensor at one step: ``seed`` (64 bit), ``step`` and ``tensor`` (32 bit; `scheme.hash_words`)."""

    seed: int
    step: int
    tensor: int

    @property
    def key(self) -> tuple[int, int]:
        """What a command's key0 and key1 hold."""
        return hash_key(self.seed, self.step, self.tensor)


@dataclass(frozen=True)
class Quantized:
    """A quantized tensor, scale * q, and how many of its values were clipped."""

    q: Int8
    scale: float
    clipped: int


@dataclass(frozen=True)
class QuantizedWeight:
    """A frozen base weight: ``q`` int8 [O, I], ``scale`` float32 [O] (one value throughout for a scale per tensor)."""

    q: Int8
    scale: Float32


def finite32(x: NDArray, name: str) -> Float32:
    """``x`` as contiguous float32, exactly.

    Raises SchemeError for another type than float32 and float16, for an empty array and for a value that is not finite, with its index.
    """
    if x.dtype not in (np.float32, np.float16):
        raise SchemeError(f"{name} must be float32 or float16, not {x.dtype}")
    if x.size == 0:
        raise SchemeError(f"{name} must not be empty; its shape is {x.shape}")
    x = np.ascontiguousarray(x, dtype=np.float32)
    if not np.isfinite(largest(x)):  # NaN is the largest, too
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise SchemeError(f"{name} must be finite, but its element {index} is {x[index]}")
    return x


def largest(x: NDArray) -> float:
    """The largest magnitude, exactly; NaN where there is one."""
    if x.size <= 2 * _SHARE or not x.flags.c_contiguous:
        return max(float(x.max()), -float(x.min()))
    flat = x.reshape(-1)
    found = kernels().each(lambda start: largest(flat[start : start + _SHARE]), range(0, x.size, _SHARE))
    return float(np.max(found))


def _rounded(y: NDArray, qmax: int, stream: Stream | None, scale: np.float32 | None = None) -> tuple[Int8, int]:
    """``y``, or y / ``scale`` in FP32, rounded and clipped to +-qmax, and how many values were clipped.

    Element i of the flat array has hash index i modulo 2**32. A part at a time goes through all steps while a core's cache holds it."""
    q = np.empty(y.shape, np.int8)
    flat_y, flat_q = y.reshape(-1), q.reshape(-1)

    def share(start: int) -> int:
        return _round_share(flat_y[start : start + _SHARE], flat_q[start : start + _SHARE], start, qmax, stream, scale)

    return q, sum(kernels().each(share, range(0, y.size, _SHARE)))


def _round_share(y: NDArray, q: Int8, first: int, qmax: int, stream: Stream | None, scale: np.float32 | None) -> int:
    """Rounds ``y``, whose hash indices begin at ``first``, into ``q``; how many values were clipped."""
    clipped, size = 0, min(_CHUNK, y.size)
    quotients = np.empty(size, np.float32)
    if stream is not None:
        key, sums = stream.key, np.empty(size, np.float64)
        ramp, hashes, scratch = np.arange(size, dtype=np.uint32) * np.uint32(1025), np.empty(size, np.uint32), np.empty(size, np.uint32)
    for start in range(0, y.size, size):
        part = y[start : start + size]
        n = part.size
        if scale is not None:
            part = np.divide(part, scale, out=quotients[:n])
        if stream is None:
            rounded = np.rint(part, out=quotients[:n]) if part.dtype == np.float32 else np.rint(part)
            outside = max(part.max(), -part.min()) > qmax
        else:
            hash_range(key, ramp[:n], first + start, hashes[:n], scratch[:n])
            rounded = np.multiply(hashes[:n], 2.0**-32, out=sums[:n])
            rounded += part
            np.floor(rounded, out=rounded)
            outside = part.max() >= qmax or part.min() < -qmax  # the floor of less than qmax + 1 is not
        if outside:
            clipped += int(np.count_nonzero(np.abs(rounded) > qmax))
            np.clip(rounded, -qmax, qmax, out=rounded)
        q[start : start + n] = rounded
    return clipped


def quantize(x: Float32, qmax: int = Q8_MAX, stream: Stream | None = None) -> tuple[Int8, float, int]:
    """A tensor with a scale of its own: `scales.scale_of` of its largest magnitude, `scales.quantize_value` of each value.

    Parameters: ``x`` from `finite32`; ``stream`` for stochastic rounding, None for half to even.
    Returns: (q, scale, number of values clipped: those that stochastic rounding sends past qmax).
    """
    maximum = largest(x)
    scale = scale_of(maximum, qmax)
    if vanishes(maximum, qmax):
        return np.zeros(x.shape, np.int8), scale, 0
    q, clipped = _rounded(x, qmax, stream, np.float32(scale))
    return q, scale, clipped


def quantize_power(v: Float32, exponent: int | None = None, stream: Stream | None = None) -> tuple[Int8, int, int]:
    """A tensor with the scale 2**exponent: by default `scales.power_exponent` of its largest magnitude (0 where it vanishes).

    Returns: (q, exponent, number of values clipped).
    """
    maximum = largest(v)
    gone = vanishes(maximum)
    if exponent is None:
        exponent = 0 if gone else power_exponent(maximum)
    if gone:
        return np.zeros(v.shape, np.int8), exponent, 0
    q, clipped = _rounded(np.ldexp(v.astype(np.float64), -exponent), Q8_MAX, stream)
    return q, exponent, clipped


def quantize_weight(weight: NDArray, scheme: FQT, kernel: int = 1) -> QuantizedWeight:
    """A frozen base weight [O, I] under ``scheme``: rotated, `scales.weight_scales`, values rounded half to even. ``kernel``: elements of
    a convolution's window, I / C.

    Raises SchemeError for a scheme that only the reference runs.
    """
    scheme.require_device()
    weight = finite32(weight, "W")
    columns = weight.reshape(len(weight), -1, kernel)
    weight = rotate(columns, rotation_block(scheme.rotation, columns.shape[1]), 1, "W").reshape(weight.shape)
    scale = np.array(weight_scales([float(m) for m in np.abs(weight).max(axis=1)], scheme), dtype=np.float32)
    if vanishes(largest(weight), scheme.weight_qmax):
        return QuantizedWeight(np.zeros(weight.shape, np.int8), scale)
    return QuantizedWeight(_rounded(weight / scale[:, None], scheme.weight_qmax, None)[0], scale)


def dequantize(acc: NDArray, scale: float | NDArray[np.float64]) -> Float32:
    """Integer results as float32: `scales.dequantize_value` of each, with one scale or float64 scales that broadcast."""
    shape = np.broadcast_shapes(acc.shape, np.shape(scale))
    with np.errstate(over="ignore"):  # infinite where float32 does not hold the product, by definition
        # In float64, a buffer of values at a time.
        return np.multiply(acc, scale, out=np.empty(shape, np.float32), dtype=np.float64, casting="unsafe")


def padded_rank(r: int) -> int:
    """The smallest power of two of at least ``r``: the row length of skinny tensors in the accelerator's memory."""
    if r < 1:
        raise SchemeError(f"the rank must be at least 1, not {r}")
    return 1 << (r - 1).bit_length()


def pack_columns(q: Int8) -> Int8:
    """[K, r] with zero columns up to [K, padded_rank(r)], contiguous: the right operand of a skinny product (A^T for H, B for dH)."""
    k, r = q.shape
    packed = np.zeros((k, padded_rank(r)), np.int8)
    packed[:, :r] = q
    return packed
