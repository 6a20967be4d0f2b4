"""The vector unit's numbers on numpy arrays, as docs/vector_unit.md ("Numbers") defines them.

A word is uint32, 25 bits; its value is float64, which holds a product or a sum of two words exactly enough that one rounding gives the
right word. Functions return what they compute before its rounding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loralith.spec.vector.numbers import EXP2_LIMIT, FRACTION_BITS, SUM_FRACTION_BITS, WORD_BITS
from loralith.spec.vector.tables import EXP2_TABLE, PHI_TABLE, RECIP_TABLE, RSQRT_TABLE, VALUE_BITS, Segment

__all__ = [
    "exp2",
    "floats_of",
    "phi",
    "quantize",
    "reciprocal",
    "round_to",
    "rsqrt",
    "scale_of",
    "terms",
    "values_of",
    "words_of",
]

Words = NDArray[np.uint32]
Values = NDArray[np.float64]
Integers = NDArray[np.int64]

_FLOAT32_DROP = 32 - WORD_BITS
_SMALLEST, _TOO_LARGE = 2.0**-126, 2.0**128


def floats_of(words: Words) -> NDArray[np.float32]:
    """The FP32 numbers of the same values."""
    bits = np.where(words >> FRACTION_BITS & 0xFF, words << _FLOAT32_DROP, 0).astype(np.uint32)
    return bits.view(np.float32)


def values_of(words: Words) -> Values:
    return floats_of(words).astype(np.float64)


def words_of(values: Values) -> Words:
    """Words of values that are words' already, or too large to be: those give a word that means nothing."""
    with np.errstate(over="ignore"):
        return np.right_shift(np.ascontiguousarray(values + 0.0, np.float32).view(np.uint32), np.uint32(_FLOAT32_DROP))


def round_to(values: Values, fraction_bits: int = FRACTION_BITS) -> tuple[Values, NDArray[np.bool_]]:
    """(half to even to so many fraction bits, below 2^-126 zero; where the result is 2^128 or more)."""
    drop = 52 - fraction_bits
    bits = np.ascontiguousarray(values).view(np.int64)
    rounded = ((bits + ((1 << drop - 1) - 1) + (bits >> drop & 1)) & -(1 << drop)).view(np.float64)
    rounded = np.where(np.abs(rounded) < _SMALLEST, 0.0, rounded)
    return rounded, ~(np.abs(rounded) < _TOO_LARGE)


def _line(table: tuple[Segment, ...], segment: Integers, position: Integers, bits: int, sign: int) -> Integers:
    """In units of 2^-(VALUE_BITS + bits)."""
    columns = np.array(table, np.int64)
    return (columns[segment, 0] << bits) + sign * columns[segment, 1] * position


def exp2(x: Values) -> Values:
    fixed = np.floor(np.clip(x, -512.0, EXP2_LIMIT) * 2.0**21).astype(np.int64)
    u = fixed & (1 << 21) - 1
    line = (1 << 33) + _line(EXP2_TABLE, u >> 13, u & 0x1FFF, 13, 1)
    return np.where(x >= EXP2_LIMIT, 2.0**EXP2_LIMIT, np.ldexp(line.astype(np.float64), (fixed >> 21).astype(np.int32) - 33))


def _fraction(x: Values) -> tuple[Integers, Integers]:
    """(16 fraction bits, exponent) of values other than zero."""
    mantissa, exponent = np.frexp(np.abs(x))
    return (mantissa * (2 << FRACTION_BITS)).astype(np.int64) - (1 << FRACTION_BITS), exponent.astype(np.int64) - 1


def reciprocal(x: Values) -> tuple[Values, NDArray[np.bool_]]:
    """(1 / x; where x is zero)."""
    zero = x == 0
    fraction, power = _fraction(np.where(zero, 1.0, x))
    line = (1 << VALUE_BITS + 8) + _line(RECIP_TABLE, fraction >> 8, fraction & 0xFF, 8, -1)
    y = np.ldexp(line.astype(np.float64), (-power - 1 - VALUE_BITS - 8).astype(np.int32))
    return np.copysign(np.where(fraction == 0, np.ldexp(1.0, (-power).astype(np.int32)), y), x), zero


def rsqrt(x: Values) -> tuple[Values, NDArray[np.bool_]]:
    """(1 / sqrt(x); where x is not above zero)."""
    wrong = ~(x > 0)
    fraction, power = _fraction(np.where(wrong, 1.0, x))
    odd = power & 1
    line = (1 << VALUE_BITS + 9) + _line(RSQRT_TABLE, odd << 7 | fraction >> 9, fraction & 0x1FF, 9, -1)
    half = (power - odd) // 2
    y = np.ldexp(line.astype(np.float64), (-half - 1 - VALUE_BITS - 9).astype(np.int32))
    return np.where((fraction == 0) & (odd == 0), np.ldexp(1.0, (-half).astype(np.int32)), y), wrong


def phi(x: Values) -> Values:
    """The normal distribution's cumulative function."""
    fixed = np.floor(np.minimum(np.abs(x), 8.0 - 2.0**-18) * 2.0**18).astype(np.int64)
    line = _line(PHI_TABLE, fixed >> 13, fixed & 0x1FFF, 13, 1)
    inside = (np.where(x < 0, (1 << 33) - 1 - line, line) >> 12) * 2.0**-21
    return np.where(np.abs(x) < 8, inside, np.where(x < 0, 0.0, 1.0))


def scale_of(x: Values) -> Values:
    """2^k, k the smallest of at least -126 with abs(x) <= 127 2^k."""
    mantissa, exponent = np.frexp(np.abs(x))
    k = np.where(x == 0, -126, np.maximum(exponent - 7 + (mantissa > 127 / 128), -126))
    return np.ldexp(1.0, k.astype(np.int32))


def quantize(x: Values, k: int, random: Integers | None) -> tuple[Integers, NDArray[np.bool_]]:
    """(x / 2^k as integers in +-127; where it was clipped). ``random``: bytes of stochastic rounding, or None for half to even."""
    scaled = np.clip(np.ldexp(x, -k), -1024.0, 1024.0)
    q = np.rint(scaled).astype(np.int64) if random is None else (np.floor(scaled * 512).astype(np.int64) + 2 * random + 1) >> 9
    return np.clip(q, -127, 127), np.abs(q) > 127


def terms(x: Values, k: int) -> tuple[Integers, NDArray[np.bool_]]:
    """(terms of a sum, in units of 2^(k - 32), cut towards minus infinity; where one is 2^k or more)."""
    over = np.abs(x) >= np.ldexp(1.0, k)
    return np.floor(np.ldexp(np.where(over, 0.0, x), SUM_FRACTION_BITS - k)).astype(np.int64), over
