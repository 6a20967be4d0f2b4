"""Scales of H and dH that the device sets: what the host decides before it has seen a maximum, and what is left to the device.

docs/numerics.md, section 4, derives it; standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .numerics import SHIFT_MAX, Requantization, chain_shift_limit, least_shift
from .scales import Chain
from .scheme import SchemeError

__all__ = ["MARGIN", "DeviceShift", "device_shift", "expected_maximum"]


@dataclass(frozen=True)
class DeviceShift:
    """What the device may decide by itself of a skinny product's scale and of the chain that follows: `device_shift` makes it.

    The skinny product's p has the mantissa ``mantissa``; from max \\|p\\| of a pass that only measures comes t = `numerics.least_shift` in
    ``low``..``high``, the right shift of its scale. Its exponent c (h or h' - b) is t - ``unit``.

    Attributes:
        base_first: order of the chain. shift: its left shift at t = low (base first) or at t = high (adapter first); it is smaller by
            one for each step of t away from there.
        drop: by how many bits the adapter's right operand is coarser in the chain.
    """

    mantissa: int
    unit: int
    low: int
    high: int
    base_first: bool
    shift: int
    drop: int

    @property
    def extreme(self) -> int:
        """The t with the largest left shift."""
        return self.low if self.base_first else self.high

    def exponent(self, t: int) -> int:
        """c."""
        return t - self.unit

    def requantization(self, t: int) -> Requantization:
        """Of the skinny product's accumulators."""
        return Requantization(self.mantissa, t)

    def chain(self, t: int) -> Chain:
        """How the output's segments share the accumulator."""
        n = self.shift - (t - self.low if self.base_first else self.high - t)
        return Chain(self.base_first, n, self.drop, -n if self.base_first else 0)


MARGIN = 2
"""Bits by which a maximum may grow against the expected one before a chain's bounds change it."""


def expected_maximum(history: Sequence[int], k: int) -> int:
    """What `device_shift` expects of the accumulators over ``k`` products: the largest of earlier maxima; where there is none but zeros,
    4096 * isqrt(k), four standard deviations of uniform INT8 values."""
    return max(history, default=0) or 4096 * math.isqrt(k)


def device_shift(scaling: float, sa: float, expected: int, k_base: int, k_adapter: int, b: int | None) -> DeviceShift:
    """The bounds within which the device sets the scale of H or dH, before it has seen this pass's maximum.

    Parameters: ``scaling`` s = alpha / r; ``sa``, scale of A; ``expected``, see `expected_maximum`; the lengths of the two reductions,
    (I, r) for H and Y, (O, r) for dH and dX; ``b``, exponent of B's scale, None where every Bq is zero: then the chain adds nothing, and
    its scale may be what suits H.

    With (mantissa, unit) = s * sa as mantissa * 2**-unit, the adapter's segment has 2**e times the base segment's scale, e = t - unit + b.
    Where the expected e is at most -`MARGIN`, the base segment runs first and e may be -L..0, L = chain_shift_limit(k_base, k_adapter);
    an expected e less than min(`MARGIN`, L // 2) above -L is brought there by ``drop``. Elsewhere the adapter runs first and e may be
    0..chain_shift_limit(k_adapter, k_base). A maximum that asks for another t is taken to the nearest bound: below, bits of the
    skinny result are lost; above, it saturates, which is counted.

    Raises SchemeError where no accumulator fits, where the adapter has outgrown the base weight, and where no t is in 0..47.
    """
    fraction, power = math.frexp(scaling * sa)
    mantissa = round(fraction * 65536.0)
    if mantissa == 65536:
        mantissa, power = 32768, power + 1
    unit = 16 - power
    t = least_shift(expected * mantissa, 0, 1 << 16)
    if b is None:
        b = unit - t - MARGIN
    e = t - unit + b
    limit, other = chain_shift_limit(k_base, k_adapter), chain_shift_limit(k_adapter, k_base)
    if limit < 0:
        raise SchemeError(f"a chain of {k_base} and {k_adapter} products may overflow 32 bits; split it into parts of at most 131071")
    base_first = e <= -MARGIN
    if base_first:
        drop = max(0, min(MARGIN, limit // 2) - limit - e)
        first, last = unit - b - drop - limit, unit - b - drop
    else:
        if e > other:
            raise SchemeError(
                f"the adapter's term is 2**{e} coarser than the base weight's, and {k_adapter} + {k_base} products leave room for "
                f"2**{other}; the adapter has outgrown the base weight"
            )
        drop, first, last = 0, unit - b, unit - b + other
    low, high = max(first, 0), min(last, SHIFT_MAX)
    if low > high:
        raise SchemeError(f"the adapter's scale needs a right shift of {first}..{last}, and the machine has 0..{SHIFT_MAX}")
    shift = last - low if base_first else high - first
    return DeviceShift(mantissa, unit, low, high, base_first, shift, drop)
