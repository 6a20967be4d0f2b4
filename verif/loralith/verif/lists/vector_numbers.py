"""The vector unit's numbers in double precision, written from docs/vector_unit.md: each operation is exact or rounded once to 17 bits.

A word is the float64 of its value, which holds it exactly; arrays of any shape. Only the lines of the functions come from `loralith.spec`.
Beside each result stands where it left the range: 2^128 or more, or an argument that the function has no value for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from loralith.spec.vector.program import Function
from loralith.spec.vector.tables import EXP2_TABLE, PHI_TABLE, RECIP_TABLE, RSQRT_TABLE, Segment

__all__ = ["FUNCTIONS", "Ranged", "exponent_field", "low_bytes", "quantized", "rounded", "terms", "words_of"]

Ranged = tuple[np.ndarray, np.ndarray]
"""Values, and where they are out of range (bool); a value out of range means nothing."""

SIGNIFICANT = 17
BRAIN = 8


def _table(table: tuple[Segment, ...]) -> tuple[np.ndarray, np.ndarray]:
    values, slopes = zip(*table, strict=True)
    return np.array(values, np.float64), np.array(slopes, np.float64)


_EXP2, _RECIP, _RSQRT, _PHI = map(_table, (EXP2_TABLE, RECIP_TABLE, RSQRT_TABLE, PHI_TABLE))


def rounded(x: np.ndarray, bits: int = SIGNIFICANT) -> Ranged:
    """The nearest number of ``bits`` significant bits, half to even; below 2^-126 it is zero."""
    significand, power = np.frexp(x)
    y = np.ldexp(np.rint(np.ldexp(significand, bits)), power - bits)
    size = np.abs(y)
    wide = size >= 2.0**128
    return np.where((size < 2.0**-126) | wide, 0.0, y), wide


def exponent_field(x: np.ndarray | float) -> np.ndarray:
    """The biased exponent of words: 0 of a zero."""
    return np.where(np.asarray(x) == 0, 0, np.frexp(x)[1] + 126)


def words_of(bits: np.ndarray) -> Ranged:
    """Words of FP32 numbers (uint32): the fraction is cut to 16 bits, what is below 2^-126 is zero, infinity and NaN are out of range."""
    special = bits >> 23 & 255 == 255
    x = np.where(special, 0, bits & np.uint32(0xFFFF_FF80)).astype(np.uint32).view(np.float32).astype(np.float64)
    return np.where(np.abs(x) < 2.0**-126, 0.0, x), special


def low_bytes(x: np.ndarray) -> np.ndarray:
    """The low byte of each word, uint8: the lower half of its fraction."""
    return (x.astype(np.float32).view(np.uint32) >> 7 & 255).astype(np.uint8)


def _split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(fraction of 16 bits, exponent) of the magnitude of words; zeros give anything."""
    significand, power = np.frexp(np.abs(x))
    return ((2 * significand - 1) * 65536).astype(np.int64) & 0xFFFF, power - 1


def _exp2(x: np.ndarray) -> Ranged:
    cut = np.floor(np.clip(x, -300, 126) * 2.0**21)
    integer = np.floor(cut * 2.0**-21)
    u = (cut - integer * 2.0**21).astype(np.int64)
    values, slopes = _EXP2
    y = 1 + values[u >> 13] * 2.0**-20 + slopes[u >> 13] * (u & 8191) * 2.0**-33
    y, wide = rounded(np.ldexp(y, integer.astype(np.int32)))
    return np.where(x >= 126, 2.0**126, y), wide & (x < 126)


def _falling(table: tuple[np.ndarray, np.ndarray], segment: np.ndarray, part: np.ndarray) -> np.ndarray:
    values, slopes = table
    return 1 + (values[segment] - slopes[segment] * part) * 2.0**-20


def _reciprocal(x: np.ndarray) -> Ranged:
    fraction, power = _split(x)
    line = _falling(_RECIP, fraction >> 8, (fraction & 255) / 256)
    y = np.where(fraction == 0, np.ldexp(1.0, -power), np.ldexp(line, -power - 1))
    y, wide = rounded(np.copysign(y, x))
    return y, wide | (x == 0)


def _rsqrt(x: np.ndarray) -> Ranged:
    fraction, power = _split(x)
    odd = power & 1
    line = _falling(_RSQRT, 128 * odd + (fraction >> 9), (fraction & 511) / 512)
    half = (power - odd) // 2
    y = np.where((fraction == 0) & (odd == 0), np.ldexp(1.0, -half), np.ldexp(line, -half - 1))
    y, wide = rounded(y)
    return y, wide | (x <= 0)


def _phi(x: np.ndarray) -> Ranged:
    place = np.minimum(np.floor(np.abs(x) * 2.0**18), 2.0**21 - 1).astype(np.int64)
    values, slopes = _PHI
    line = values[place >> 13] * 8192 + slopes[place >> 13] * (place & 8191)
    line = np.where(x < 0, 2.0**33 - 1 - line, line)
    y, wide = rounded(np.floor(line * 2.0**-12) * 2.0**-21)
    return np.where(np.abs(x) >= 8, np.where(x < 0, 0.0, 1.0), y), wide


def _scale(x: np.ndarray) -> Ranged:
    size = np.abs(x)
    k = np.maximum(np.where(size > 0, np.frexp(size)[1] - 7, -126), -126)
    k = k + (size > np.ldexp(127.0, k))
    return np.ldexp(1.0, k), np.zeros(x.shape, bool)


FUNCTIONS: dict[int, Callable[[np.ndarray], Ranged]] = {
    Function.EXP2: _exp2,
    Function.RECIPROCAL: _reciprocal,
    Function.RSQRT: _rsqrt,
    Function.PHI: _phi,
    Function.SCALE: _scale,
}
"""All but PASS."""


def quantized(x: np.ndarray, k: int, random: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """q (int64) for a scale of 2^k and whether it was clipped; ``random``: a byte for each, None to round half to even."""
    scaled = np.ldexp(x, -k)
    q = np.rint(scaled) if random is None else np.floor((np.floor(scaled * 512) + 2 * random + 1) / 512)
    clipped = np.clip(q, -127, 127)
    return clipped.astype(np.int64), clipped != q


def terms(x: np.ndarray, k: int) -> Ranged:
    """Terms of a sum (int64), in units of 2^(k - 32), and where they are 2^k or more."""
    wide = np.abs(x) >= np.ldexp(1.0, k)
    return np.floor(np.ldexp(np.where(wide, 0.0, x), 32 - k)).astype(np.int64), wide
