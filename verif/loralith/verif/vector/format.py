"""The vector unit's floating-point format and its operations, on torch tensors.

A value has a sign, 8 exponent bits and p fraction bits. +, - and x are the float64 operation rounded once, half to even: the correctly
rounded result while p <= 24, since float64 has more than twice the bits plus two. Functions are the device's lines over segments.
Results below 2^-126 become zero after rounding. A result that is not finite is an error: on a device it ends the list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from loralith.spec.scheme import SchemeError
from loralith.spec.vector.numbers import FRACTION_BITS, SUM_FRACTION_BITS

from . import functions

__all__ = ["VectorFormat", "round_to"]

SMALLEST = 2.0**-126
LARGEST_EXPONENT = 2.0**128


def round_to(x: Tensor, fraction_bits: int, smallest: float = SMALLEST) -> Tensor:
    """``x`` [...] float64, rounded half to even to ``fraction_bits`` bits after the leading one; float64. Below ``smallest``: zero."""
    drop = 52 - fraction_bits
    bits = x.contiguous().view(torch.int64)
    rounded = bits >> drop
    rounded.bitwise_and_(1).add_((1 << (drop - 1)) - 1).add_(bits).bitwise_and_(-(1 << drop))
    y = rounded.view(torch.float64)
    return y.masked_fill_(y.abs() < smallest, 0.0)


@dataclass(frozen=True)
class VectorFormat:
    """Operations on float32 tensors whose values have p = ``fraction_bits`` fraction bits; results are float32 of the same kind.

    Raises SchemeError where a result is not finite, or too large for 8 exponent bits.
    """

    fraction_bits: int

    def round(self, x: Tensor) -> Tensor:
        """A float64 tensor as the nearest values of the format, as float32."""
        y = round_to(x.double(), self.fraction_bits)
        if y.numel() and not float(y.abs().amax()) < LARGEST_EXPONENT:
            raise SchemeError("a result of the vector unit is not finite: NaN, infinity or at least 2^128")
        return y.float()

    def add(self, x: Tensor, y: Tensor | float) -> Tensor:
        return self.round(x.double() + y)

    def sub(self, x: Tensor, y: Tensor | float) -> Tensor:
        return self.round(x.double() - y)

    def mul(self, x: Tensor, y: Tensor | float) -> Tensor:
        return self.round(x.double() * y)

    @property
    def tables(self) -> bool:
        """Whether functions are the device's own; for other fraction bits they are the exact value rounded once."""
        return self.fraction_bits == FRACTION_BITS

    def sum(self, x: Tensor, dims: tuple[int, ...], bound: Tensor | float) -> Tensor:
        """The sum over ``dims``, which stay with size 1. Terms are cut down to multiples of 2^(k - 32), 2^k the next power of two
        above ``bound``, and added exactly; the total is rounded once. Raises SchemeError for a term of 2^k or more."""
        k = math.frexp(float(bound))[1] if bound else 0
        terms = torch.floor(x.double() * 2.0 ** (SUM_FRACTION_BITS - k))
        if terms.numel() and float(terms.abs().amax()) >= 2.0**SUM_FRACTION_BITS:
            raise SchemeError(f"a sum has a term of {float(x.abs().amax())}, and its bound is {float(bound)}")
        return self.round(terms.long().sum(dims, keepdim=True).double() * 2.0 ** (k - SUM_FRACTION_BITS))

    def exp2(self, x: Tensor) -> Tensor:
        return self.round(functions.exp2(x) if self.tables else torch.exp2(x.double().clamp(max=126.0)))

    def reciprocal(self, x: Tensor) -> Tensor:
        return self.round(functions.reciprocal(x) if self.tables else 1.0 / x.double())

    def rsqrt(self, x: Tensor) -> Tensor:
        return self.round(functions.rsqrt(x) if self.tables else x.double().rsqrt())

    def phi(self, x: Tensor) -> Tensor:
        """The normal distribution's cumulative function."""
        return self.round(functions.phi(x) if self.tables else torch.special.ndtr(x.double()))
