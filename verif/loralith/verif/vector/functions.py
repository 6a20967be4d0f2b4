"""The vector unit's functions on float32 tensors whose values are words: lines over segments, as docs/vector_unit.md has them.

Each returns float64 values before their one rounding, exactly; `VectorFormat` rounds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loralith.spec.scheme import SchemeError
from loralith.spec.vector.numbers import EXP2_LIMIT, FRACTION_BITS
from loralith.spec.vector.tables import EXP2_TABLE, PHI_TABLE, RECIP_TABLE, RSQRT_TABLE, VALUE_BITS, Segment

__all__ = ["exp2", "phi", "reciprocal", "rsqrt"]


def _columns(table: tuple[Segment, ...]) -> tuple[Tensor, Tensor]:
    values, slopes = zip(*table, strict=True)
    return torch.tensor(values), torch.tensor(slopes)


_EXP2, _RECIP, _RSQRT, _PHI = map(_columns, (EXP2_TABLE, RECIP_TABLE, RSQRT_TABLE, PHI_TABLE))


def _line(table: tuple[Tensor, Tensor], segment: Tensor, position: Tensor, bits: int, sign: int = 1) -> Tensor:
    """int64, units of 2^-(20 + bits)."""
    values, slopes = table
    return (values[segment] << bits) + sign * slopes[segment] * position


def exp2(x: Tensor) -> Tensor:
    """2^x, x [...] float32; 2^126 from 126 on."""
    fixed = torch.floor(x.double().clamp(-512, EXP2_LIMIT) * 2.0**21).long()
    u = fixed & (1 << 21) - 1
    line = (1 << 33) + _line(_EXP2, u >> 13, u & 0x1FFF, 13)
    return torch.ldexp(line.double(), (fixed >> 21) - 33)


def _significand(x: Tensor) -> tuple[Tensor, Tensor]:
    """(fraction, 16 bits; exponent) of float32 words other than zero, int64."""
    bits = x.view(torch.int32).long()
    return bits >> 23 - FRACTION_BITS & (1 << FRACTION_BITS) - 1, (bits >> 23 & 0xFF) - 127


def reciprocal(x: Tensor) -> Tensor:
    """1 / x. Raises SchemeError for a zero."""
    if bool((x == 0).any()):
        raise SchemeError("the vector unit would divide by zero")
    x = x.contiguous()
    fraction, power = _significand(x)
    line = (1 << VALUE_BITS + 8) + _line(_RECIP, fraction >> 8, fraction & 0xFF, 8, -1)
    y = torch.ldexp(line.double(), -power - 1 - VALUE_BITS - 8).copysign(x.double())
    return torch.where(fraction == 0, 1.0 / x.double(), y)


def rsqrt(x: Tensor) -> Tensor:
    """1 / sqrt(x). Raises SchemeError for zero and below."""
    if bool((x <= 0).any()):
        raise SchemeError("the vector unit would take the root of a number that is not above zero")
    fraction, power = _significand(x.contiguous())
    odd = power & 1
    line = (1 << VALUE_BITS + 9) + _line(_RSQRT, odd << 7 | fraction >> 9, fraction & 0x1FF, 9, -1)
    y = torch.ldexp(line.double(), -((power - odd) >> 1) - 1 - VALUE_BITS - 9)
    return torch.where((fraction == 0) & (odd == 0), torch.ldexp(torch.ones_like(y), -(power >> 1)), y)


def phi(x: Tensor) -> Tensor:
    """The normal distribution's cumulative function."""
    fixed = torch.floor(x.double().abs().clamp(max=8.0) * 2.0**18).long().clamp(max=(8 << 18) - 1)
    line = _line(_PHI, fixed >> 13, fixed & 0x1FFF, 13)
    cut = torch.where(x < 0, (1 << 33) - 1 - line, line) >> 12
    return torch.where(x.abs() >= 8, (x > 0).double(), cut.double() * 2.0**-21)
