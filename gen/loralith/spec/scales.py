"""Every decision on numbers that host and reference must make alike: scales, quantized values, exponents, chains.

Definitions on Python numbers, standard library only; docs/numerics.md derives them. Array implementations (torch in
`verif`, numpy in `sw`) are written from the same text and compared with these.

Words: T, I, O, r and s = alpha / r as in docs/numerics.md. ``fl(x)`` is x rounded to IEEE binary32, half to even, subnormals
kept. *Accumulators* are the exact INT32 sums of INT8 products. A value that a docstring calls FP32 is a Python float
that binary32 holds exactly.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from .numerics import Q8_MAX, Requantization, chain_shift_limit
from .scheme import FQT, SchemeError

__all__ = [
    "Chain",
    "adapter_requantization",
    "block_exponent",
    "chain",
    "da_scale",
    "db_scale",
    "dequantize_value",
    "float32",
    "h_exponent",
    "h_scale",
    "power_exponent",
    "predicted_maximum",
    "quantize_power_value",
    "quantize_value",
    "remember_maximum",
    "rotation_block",
    "scale_of",
    "vanishes",
    "weight_scales",
]

SMALLEST_SCALE = 2.0**-126
"""The smallest normal binary32 number."""


# Rotation.


def rotation_block(rotation: int, length: int, *, required: bool = False) -> int:
    """The size of the blocks that a reduction of ``length`` is rotated in: the largest power of four up to ``rotation`` that divides it;
    1, not rotated, where ``rotation`` is 0 or four does not divide it.

    With ``required`` raises SchemeError where there is a rotation and four does not divide ``length``.
    """
    if not rotation:
        return 1
    if length % 4 and required:
        raise SchemeError(f"a rotation of {rotation} needs a reduction whose length 4 divides, not {length}; use rotation 0 for this layer")
    block = 1
    while 4 * block <= rotation and length % (4 * block) == 0:
        block *= 4
    return block


# Quantizers.


def float32(x: float) -> float:
    """fl(x). The quotient or product of two FP32 values, computed in float64 and passed through here, is the binary32 one:
    float64 has more than twice as many bits. Raises SchemeError where the result is not finite."""
    try:
        rounded = struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        rounded = math.inf
    if not math.isfinite(rounded):
        raise SchemeError(f"{x!r} is not a finite FP32 number")
    return rounded


def vanishes(maximum: float, qmax: int = Q8_MAX) -> bool:
    """Whether a tensor of this largest magnitude counts as zero: fl(maximum / qmax) is zero or subnormal.

    Such a tensor has scale 1 and q = 0 everywhere, whatever the rounding.
    """
    return float32(maximum / qmax) < SMALLEST_SCALE


def scale_of(maximum: float, qmax: int = Q8_MAX, power_of_two: bool = False) -> float:
    """FP32 scale of a tensor from ``maximum``, the FP32 largest magnitude of its values: fl(maximum / qmax), or with ``power_of_two``
    the smallest power of two of at least maximum / qmax, exactly (`power_exponent`); 1 where it `vanishes`.

    Raises SchemeError for a negative maximum or one that is not finite.
    """
    if not maximum >= 0.0:
        raise SchemeError(f"the largest magnitude of a tensor must be a finite number of at least 0, not {maximum!r}")
    if vanishes(maximum, qmax):
        return 1.0
    return math.ldexp(1.0, power_exponent(maximum, qmax)) if power_of_two else float32(maximum / qmax)


def weight_scales(maxima: Sequence[float], scheme: FQT) -> list[float]:
    """FP32 scales sw[o] of W's rows from the largest magnitudes of the rows.

    With L = `scale_of` (the largest of all): "tensor" gives L to every row; "channel" gives row o
    max(`scale_of`(maxima[o]) without its rule for what vanishes, fl(L / weight_scale_range), 2**-126). A row of zeros thus has a scale
    like its neighbours'. "block" gives every row the unit max(fl(L / weight_scale_range), 2**-126), see `block_exponent`. Where the
    largest vanishes, all scales are 1.
    """
    largest = max(maxima)
    qmax = scheme.weight_qmax
    top = scale_of(largest, qmax, scheme.power_of_two)
    if scheme.weight_scales == "tensor" or vanishes(largest, qmax):
        return [top] * len(maxima)
    floor = max(float32(top / scheme.weight_scale_range), SMALLEST_SCALE)
    if scheme.weight_scales == "block":
        return [floor] * len(maxima)
    if scheme.power_of_two:
        return [max(math.ldexp(1.0, power_exponent(m, qmax)) if m else 0.0, floor) for m in maxima]
    return [max(float32(m / qmax), floor) for m in maxima]


def block_exponent(maximum: float, unit: float, scheme: FQT) -> int:
    """The exponent e of one square of W with "block": its values are unit * 2**e * q, q in +-weight_qmax.

    Parameters: ``maximum``, the largest magnitude in the square; ``unit``, the row scale of `weight_scales`. The smallest e in
    0..`FQT.weight_extra_bits` with fl(maximum / unit) <= weight_qmax * 2**e; e is the largest there is for the square that holds the
    tensor's maximum.
    """
    return min(max(power_exponent(float32(maximum / unit), scheme.weight_qmax), 0), scheme.weight_extra_bits)


def _round_clip(y: float, qmax: int, h: int | None) -> int:
    q = round(y) if h is None else math.floor(y + h / 2.0**32)
    return max(-qmax, min(qmax, q))


def quantize_value(x: float, scale: float, qmax: int = Q8_MAX, h: int | None = None) -> int:
    """One FP32 value of a tensor that does not vanish, quantized with a real scale.

    y = fl(x / scale), a binary32 division. Without ``h``: y rounded to an integer, half to even. With ``h``, a 32-bit hash: the
    floor of the float64 sum y + h / 2**32 (one IEEE addition). Then clipped to +-qmax.
    """
    return _round_clip(float32(x / scale), qmax, h)


def quantize_power_value(x: float, exponent: int, qmax: int = Q8_MAX, h: int | None = None) -> int:
    """The same with the scale 2**exponent, where y = x * 2**-exponent is exact (a float64 ldexp)."""
    return _round_clip(math.ldexp(x, -exponent), qmax, h)


def power_exponent(maximum: float, qmax: int = Q8_MAX) -> int:
    """The smallest integer e with maximum <= qmax * 2**e, exactly; 0 for a maximum of 0.

    With maximum = m * 2**k, m in [0.5, 1) (frexp), and qmax = 127: e = k - 7 if m <= 127 / 128, else k - 6.
    """
    if not (maximum >= 0.0 and math.isfinite(maximum)):
        raise SchemeError(f"the largest magnitude of a tensor must be a finite number of at least 0, not {maximum!r}")
    if maximum == 0.0:
        return 0
    m, k = math.frexp(maximum)
    top, bits = math.frexp(qmax)
    return k - bits if m <= top else k - bits + 1


# H and dH.


def predicted_maximum(history: Sequence[int], scheme: FQT) -> float | None:
    """What `h_exponent` takes for this step when scales are delayed: headroom * max(history); None where a measured pass is needed.

    ``history`` holds accumulator maxima of earlier steps, newest last. None unless scales are ``"delayed"``, for an empty history, and
    for one of zeros only (B = 0 makes the first dH zero; a scale made from that would never let training start).
    """
    if scheme.adapter_scales != "delayed" or max(history, default=0) == 0:
        return None
    return scheme.headroom * max(history)


def remember_maximum(history: Sequence[int], maximum: int, scheme: FQT) -> list[int]:
    """The history after a step whose accumulators' largest magnitude was ``maximum``; the last ``scheme.history`` entries stay.

    From the statistics of an INT8 result (max |p|, p = accumulator * mantissa) the maximum is max |p| / mantissa, exactly.
    """
    return [*history, maximum][-scheme.history :]


def h_exponent(scaling: float, sa: float, maximum: float, qmax: int = Q8_MAX) -> int:
    """The exponent c of H (h = c) or dH (h' = b + c): the smallest with (s * sa) * max(maximum, 1) <= qmax * 2**c.

    Parameters: ``scaling`` s = alpha / r (float64); ``sa``, scale of A; ``maximum``, the largest magnitude of the accumulators, measured
    or predicted. Products in float64, in the order written. Both requantize with the ratio s * sa * 2**-c (docs/numerics.md).
    """
    return power_exponent((scaling * sa) * max(float(maximum), 1.0), qmax)


def adapter_requantization(scaling: float, sa: float, c: int) -> Requantization:
    """Accumulators of H or dH to INT8: `Requantization.from_ratio` of the float64 ldexp(s * sa, -c)."""
    return Requantization.from_ratio(math.ldexp(scaling * sa, -c))


# Chains.


@dataclass(frozen=True)
class Chain:
    """How the two segments of Y (or dX) share one accumulator.

    Attributes:
        base_first: True: base segment (X W^T, or dY W) first, then the adapter's (H B^T, or dH A). False: the other way round.
        shift: left shift n of the accumulators between the segments, 0..16.
        drop: d, by how many bits the adapter's right operand (B for Y, A for dX) is coarser in this chain than elsewhere; 0: the same copy.
        exponent: k: the output's scale is the base segment's scale times 2**k.
    """

    base_first: bool
    shift: int
    drop: int
    exponent: int


def chain(k_base: int, k_adapter: int, exponent: int) -> Chain:
    """Order, shift and coarsening of a chained output.

    Parameters: reduction lengths of the two segments (I and r for Y; O and r for dX), and e: the adapter segment's scale is the base
    segment's times 2**e (e = h + b for Y, h' for dX).

    - e <= 0: the base segment is the coarser one and runs first; n = min(-e, L) with L = chain_shift_limit(k_base, k_adapter), the
      largest n of at most 16 with (k_base * 2**n + k_adapter) * 2**14 <= 2**31 - 1. What is missing, d = -e - n, is taken from the
      adapter's right operand, quantized anew with a scale 2**d coarser. k = -n.
    - e > 0: the adapter segment runs first, n = e, d = 0, k = 0.

    Raises SchemeError where no accumulator fits: k_base + k_adapter above 131071, or e > chain_shift_limit(k_adapter, k_base).
    """
    if exponent <= 0:
        limit = chain_shift_limit(k_base, k_adapter)
        if limit < 0:
            raise SchemeError(f"a chain of {k_base} and {k_adapter} products may overflow 32 bits; split it into parts of at most 131071")
        n = min(-exponent, limit)
        return Chain(True, n, -exponent - n, -n)
    limit = chain_shift_limit(k_adapter, k_base)
    if exponent > limit:
        raise SchemeError(
            f"the adapter's term is 2**{exponent} coarser than the base weight's, and {k_adapter} + {k_base} products leave room for "
            f"2**{limit}; the adapter has outgrown the base weight"
        )
    return Chain(False, exponent, 0, 0)


# Scales of results, in float64; the order of operations is part of the definition.


def h_scale(sx: float, scaling: float, h: int) -> float:
    """Scale of quantized H = X A^T, without s: 2**h * sx / s."""
    return math.ldexp(sx, h) / scaling


def db_scale(g: float, sx: float, sw: float, h: int) -> float:
    """Scale of row o of the INT32 dB = dYq^T Hq, with sw = sw[o]: ((g * sx) * 2**h) / sw; s cancels."""
    return math.ldexp(g * sx, h) / sw


def da_scale(g: float, sx: float, sa: float, h_prime: int) -> float:
    """Scale of the INT32 dA = dHq^T Xq: ((g * sx) * 2**h') / sa."""
    return math.ldexp(g * sx, h_prime) / sa


def dequantize_value(acc: int, scale: float) -> float:
    """An INT32 result as FP32: fl(acc * scale), the product in float64; infinite where FP32 does not hold it.

    Scales of Y: (sx * sw[o]) * 2**k; of dX: g * 2**k.
    """
    product = float(acc) * scale
    try:
        return struct.unpack("<f", struct.pack("<f", product))[0]
    except OverflowError:
        return math.copysign(math.inf, product)
