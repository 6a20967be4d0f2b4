"""Tables of the vector unit's functions: a value and a slope for each segment, from exact arithmetic alone.

A segment's line runs between the function's values at its ends and is moved by half of its error in the middle, so that the error is
spread evenly to both sides. ``decimal`` computes the values, so that the tables do not depend on a machine's libm.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import cache

__all__ = ["EXP2_TABLE", "PHI_TABLE", "RECIP_TABLE", "RSQRT_TABLE", "SEGMENT_BITS", "SLOPE_BITS", "VALUE_BITS", "Segment"]

VALUE_BITS = 20
"""Bits of a segment's value: a fraction, in units of 2^-20. What is added to it is each function's own."""
SLOPE_BITS = 14
"""Bits of a segment's slope: the change over the whole segment in units of 2^-20, as a magnitude."""

SEGMENT_BITS = 8
"""Each function has 2^8 segments, so that the four tables fill 1,024 words of block RAM."""

Segment = tuple[int, int]
"""(value, slope)."""


def _phi(x: Decimal) -> Decimal:
    """The normal distribution's cumulative function, by its power series: 1/2 + sum of (-1)^k x^(2k+1) / ((2k+1) 2^k k!) / sqrt(2 pi)."""
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")
    term, total, k = x, x, 0
    while term and abs(term) > Decimal("1e-40"):
        k += 1
        term = -term * x * x / (2 * k)
        total += term / (2 * k + 1)
    return Decimal("0.5") + total / (2 * pi).sqrt()


def _segments(f: Callable[[Decimal], Decimal], low: int, step: Decimal, count: int, offset: int) -> tuple[Segment, ...]:
    """``count`` segments of ``f`` from ``low``, each ``step`` wide; ``offset`` is what the value stands for above its fraction."""
    with localcontext(Context(prec=80)):
        unit = Decimal(1 << VALUE_BITS)
        found: list[Segment] = []
        for i in range(count):
            x0 = low + i * step
            first, middle, last = f(x0), f(x0 + step / 2), f(x0 + step)
            error = (first + last) / 2 - middle
            value = int(((first - error / 2 - offset) * unit).to_integral_value(ROUND_HALF_EVEN))
            slope = int((abs(last - first) * unit).to_integral_value(ROUND_HALF_EVEN))
            value = min(max(value, 0), (1 << VALUE_BITS) - 1)
            assert slope < 1 << SLOPE_BITS, "a slope that does not fit the table"
            found.append((value, slope))
    return tuple(found)


@cache
def _tables() -> tuple[tuple[Segment, ...], ...]:
    two = Decimal(2)
    full = 1 << SEGMENT_BITS
    return (
        _segments(lambda u: two**u, 0, 1 / Decimal(full), full, 1),
        _segments(lambda m: 2 / m, 1, 1 / Decimal(full), full, 1),
        _segments(lambda m: 2 / m.sqrt(), 1, 2 / Decimal(full), full // 2, 1)
        + _segments(lambda m: 2 / m.sqrt(), 2, 4 / Decimal(full), full // 2, 1),
        _segments(_phi, 0, 8 / Decimal(full), full, 0),
    )


EXP2_TABLE, RECIP_TABLE, RSQRT_TABLE, PHI_TABLE = _tables()
"""2^u - 1 over u in [0, 1); 2/m - 1 over m in [1, 2), falling; 2/sqrt(m) - 1 over [1, 2) then [2, 4), half of the segments each, falling;
the normal distribution's cumulative function over [0, 8)."""
