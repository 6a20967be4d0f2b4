"""The vector unit's numbers, as exact definitions on Python integers. docs/vector_unit.md says why.

A *word* is 25 bits: sign (bit 24), biased exponent E (bits 23..16), fraction F (bits 15..0). E = 0 is zero, whatever the other bits say;
the unit writes it as word 0. E = 1..254 is (-1)^sign (1 + F / 2^16) 2^(E - 127). E = 255 is never written. There is no infinity, no
NaN and no negative zero: a result of 2^128 or more raises `RangeError`, and a magnitude below 2^-126 after rounding becomes zero.
"""

from __future__ import annotations

from .tables import EXP2_TABLE, PHI_TABLE, RECIP_TABLE, RSQRT_TABLE, VALUE_BITS, Segment

__all__ = [
    "BIAS",
    "BRAIN_BITS",
    "EXP2_LIMIT",
    "EXPONENT_BITS",
    "FRACTION_BITS",
    "RangeError",
    "SUM_BITS",
    "SUM_FRACTION_BITS",
    "WORD_BITS",
    "add",
    "exp2",
    "from_float",
    "from_integer",
    "multiply",
    "negate",
    "phi",
    "quantize",
    "quantize_shift",
    "reciprocal",
    "round_brain",
    "rsqrt",
    "sum_term",
    "to_float",
]

FRACTION_BITS = 16
EXPONENT_BITS = 8
BRAIN_BITS = 7
"""Fraction bits of a bfloat16."""
WORD_BITS = 1 + EXPONENT_BITS + FRACTION_BITS
BIAS = 127
ONE = BIAS << FRACTION_BITS
SUM_BITS = 56
"""Bits of a sum, in two's complement: 2^23 terms fit whatever they are."""
SUM_FRACTION_BITS = 32
"""A term of a sum is an integer below 2^32 in magnitude, in units of 2^(k - 32), for the k that `sum_term` takes."""
EXP2_LIMIT = 126
"""exp2 of an argument of at least this much is 2^126."""

_LEADING = 1 << FRACTION_BITS


class RangeError(ArithmeticError):
    """A result of 2^128 or more, or a function's argument outside of its domain: on the device it ends the list."""


def _parts(word: int) -> tuple[int, int, int]:
    """(sign, significand with its leading one, exponent of the significand's last bit); significand 0 of zero."""
    exponent = word >> FRACTION_BITS & 0xFF
    if not exponent:
        return 0, 0, 0
    return word >> WORD_BITS - 1, _LEADING | word & _LEADING - 1, exponent - BIAS - FRACTION_BITS


def _shift_half_even(value: int, count: int) -> int:
    """``value`` >= 0 divided by 2^count, rounded half to even."""
    if count <= 0:
        return value << -count
    return (value + (1 << count - 1) - 1 + (value >> count & 1)) >> count


def _round(sign: int, magnitude: int, exponent: int) -> int:
    """The word nearest to magnitude * 2^exponent, half to even."""
    if not magnitude:
        return 0
    excess = magnitude.bit_length() - 1 - FRACTION_BITS
    significand, exponent = _shift_half_even(magnitude, excess), exponent + excess
    if significand >> FRACTION_BITS + 1:
        significand, exponent = significand >> 1, exponent + 1
    biased = exponent + FRACTION_BITS + BIAS
    if biased < 1:
        return 0
    if biased > 254:
        raise RangeError(f"a result of 2^{biased - BIAS} or more; the vector unit holds less than 2^128")
    return sign << WORD_BITS - 1 | biased << FRACTION_BITS | significand & _LEADING - 1


def to_float(word: int) -> float:
    """The value of ``word``, exactly."""
    sign, significand, exponent = _parts(word)
    return (-1) ** sign * significand * 2.0**exponent


def from_float(value: float) -> int:
    """The word nearest to a finite ``value``, half to even. Raises RangeError from 2^128 on, and for what is not finite."""
    if value - value != 0:
        raise RangeError(f"{value} is no number of the vector unit, which has finite values below 2^128")
    numerator, denominator = abs(value).as_integer_ratio()
    return _round(int(value < 0), numerator, 1 - denominator.bit_length())


def from_integer(value: int, exponent: int = 0) -> int:
    """The word nearest to ``value`` * 2^exponent, half to even: an INT32 sum, an INT8 operand or a sum of terms with its scale."""
    return _round(int(value < 0), abs(value), exponent)


def negate(word: int) -> int:
    return word ^ 1 << WORD_BITS - 1 if word >> FRACTION_BITS & 0xFF else 0


def add(x: int, y: int) -> int:
    """x + y, rounded half to even."""
    (sx, mx, ex), (sy, my, ey) = _parts(x), _parts(y)
    if not mx or not my:
        return negate(negate(x if mx else y))
    low = min(ex, ey)
    total = (-mx if sx else mx) * (1 << ex - low) + (-my if sy else my) * (1 << ey - low)
    return _round(int(total < 0), abs(total), low)


def multiply(x: int, y: int) -> int:
    """x y, rounded half to even."""
    (sx, mx, ex), (sy, my, ey) = _parts(x), _parts(y)
    return _round(sx ^ sy, mx * my, ex + ey)


def _line(segment: Segment, position: int, bits: int, falling: bool = False) -> int:
    """A segment's line at ``position`` of 2^bits, in units of 2^-(20 + bits)."""
    value, slope = segment
    return (value << bits) + (-slope if falling else slope) * position


def exp2(word: int) -> int:
    """2^x. x is cut to a multiple of 2^-21 towards minus infinity; from 126 on the result is 2^126."""
    sign, significand, exponent = _parts(word)
    if significand and exponent + FRACTION_BITS >= 7:  # 128 and more
        return 0 if sign else (EXP2_LIMIT + BIAS) << FRACTION_BITS
    signed = -significand if sign else significand
    fixed = signed << exponent + 21 if exponent >= -21 else signed >> -21 - exponent
    integer, u = fixed >> 21, fixed & (1 << 21) - 1
    if integer >= EXP2_LIMIT:
        return (EXP2_LIMIT + BIAS) << FRACTION_BITS
    return _round(0, (1 << 33) + _line(EXP2_TABLE[u >> 13], u & 0x1FFF, 13), integer - 33)


def reciprocal(word: int) -> int:
    """1 / x; exact where x is a power of two. Raises RangeError for zero."""
    sign, significand, exponent = _parts(word)
    if not significand:
        raise RangeError("1 / 0")
    fraction, power = significand & _LEADING - 1, exponent + FRACTION_BITS
    if not fraction:
        return _round(sign, 1, -power)
    line = (1 << VALUE_BITS + 8) + _line(RECIP_TABLE[fraction >> 8], fraction & 0xFF, 8, falling=True)
    return _round(sign, line, -power - 1 - VALUE_BITS - 8)


def rsqrt(word: int) -> int:
    """1 / sqrt(x); exact where x is a power of four. Raises RangeError for zero and below."""
    sign, significand, exponent = _parts(word)
    if not significand or sign:
        raise RangeError(f"1 / sqrt({to_float(word)})")
    fraction, power = significand & _LEADING - 1, exponent + FRACTION_BITS
    odd = power & 1
    if not fraction and not odd:
        return _round(0, 1, -(power // 2))
    line = (1 << VALUE_BITS + 9) + _line(RSQRT_TABLE[odd << 7 | fraction >> 9], fraction & 0x1FF, 9, falling=True)
    return _round(0, line, -((power - odd) // 2) - 1 - VALUE_BITS - 9)


def phi(word: int) -> int:
    """The normal distribution's cumulative function. |x| is cut to a multiple of 2^-18 towards zero, the result to one of 2^-21 towards
    minus infinity, then rounded. 1 from 8 on, 0 from -8 on."""
    sign, significand, exponent = _parts(word)
    if significand and exponent + FRACTION_BITS >= 3:
        return 0 if sign else ONE
    fixed = significand << exponent + 18 if exponent >= -18 else significand >> -18 - exponent
    line = _line(PHI_TABLE[fixed >> 13], fixed & 0x1FFF, 13)
    return _round(0, ((1 << 33) - 1 - line if sign else line) >> 12, -21)


def round_brain(word: int) -> int:
    """The nearest word with 7 fraction bits, half to even: bfloat16, as tensors lie in memory. Raises RangeError from 2^128 on."""
    sign, significand, exponent = _parts(word)
    if not significand:
        return 0
    return _round(sign, _shift_half_even(significand, FRACTION_BITS - BRAIN_BITS), exponent + FRACTION_BITS - BRAIN_BITS)


def quantize_shift(word: int) -> int:
    """The smallest k of at least -126 with |x| <= 127 2^k, the exponent of an INT8 tensor whose largest magnitude is |x|."""
    _, significand, exponent = _parts(word)
    if not significand:
        return -126
    power = exponent + FRACTION_BITS - 6
    return max(power + 1 if significand > 127 << FRACTION_BITS - 6 else power, -126)


def quantize(word: int, k: int, random: int | None = None) -> tuple[int, bool]:
    """(q, saturated): x / 2^k as an integer in +-127. ``random`` None: half to even. A byte: floor(x / 2^k + (2 random + 1) / 512)."""
    sign, significand, exponent = _parts(word)
    shift = exponent - k
    if random is None:
        q = _shift_half_even(significand, -shift)
        q = -q if sign else q
    else:
        signed = -significand if sign else significand
        fixed = signed << shift + 9 if shift >= -9 else signed >> -9 - shift
        q = fixed + 2 * random + 1 >> 9
    return min(max(q, -127), 127), abs(q) > 127


def sum_term(word: int, k: int) -> int:
    """x / 2^(k - SUM_FRACTION_BITS) cut towards minus infinity, a term of a sum. Raises RangeError where |x| is 2^k or more."""
    sign, significand, exponent = _parts(word)
    shift = exponent - (k - SUM_FRACTION_BITS)
    if significand and exponent + FRACTION_BITS >= k:
        raise RangeError(f"a term of {to_float(word)} in a sum of terms below 2^{k}")
    signed = -significand if sign else significand
    return signed << shift if shift >= 0 else signed >> -shift
