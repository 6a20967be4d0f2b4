"""Quantizers on torch tensors: the array form of `loralith.spec.numerics` and `loralith.spec.scheme`, bit for bit.

Quantized tensors are ``int8``, accumulators ``int32``, scales Python floats (FP32 or float64 values as their docstring
says) or ``float32`` tensors. Nothing here depends on the number of threads or on the order of a sum: integer products are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from loralith.spec import numerics
from loralith.spec.numerics import Q8_MAX, Requantization
from loralith.spec.scheme import FQT, SchemeError, power_exponent, scale_of, vanishes, weight_scales

__all__ = [
    "QuantizedWeight",
    "Stream",
    "as_float32",
    "largest",
    "matmul",
    "quantize",
    "quantize_power",
    "quantize_weight",
    "requantize",
]


@dataclass(frozen=True)
class Stream:
    """The random numbers of one tensor at one step: ``seed`` (64 bit), ``step`` and ``tensor`` (32 bit)."""

    seed: int
    step: int
    tensor: int

    def hashes(self, shape: torch.Size) -> Tensor:
        """int64 hashes in 0..2**32-1 of the indices row * columns + column of a row-major tensor of ``shape``."""
        index = torch.arange(math.prod(shape), dtype=torch.int64).reshape(shape) & numerics.MASK32
        return numerics.hash32(numerics.hash_key(self.seed, self.step, self.tensor), index)


@dataclass(frozen=True)
class QuantizedWeight:
    """A frozen base weight: ``q`` int8 [O, I], ``scale`` float32 [O] (one value throughout for a scale per tensor)."""

    q: Tensor
    scale: Tensor


def as_float32(x: Tensor, name: str) -> Tensor:
    """``x`` as float32 on the CPU, exactly.

    Raises SchemeError for another type than float32, float16 and bfloat16, for an empty tensor and for a value that is not finite,
    with its index.
    """
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise SchemeError(f"{name} must be float32, float16 or bfloat16, not {x.dtype}")
    if x.numel() == 0:
        raise SchemeError(f"{name} must not be empty; its shape is {tuple(x.shape)}")
    x = x.detach().to("cpu", torch.float32)
    bad = ~torch.isfinite(x)
    if bad.any():
        index = tuple(bad.nonzero()[0].tolist())
        raise SchemeError(f"{name} must be finite, but its element {index} is {x[index].item()}")
    return x


def largest(x: Tensor) -> float:
    """The largest magnitude, exactly."""
    return x.abs().amax().item()


def _round_clip(y: Tensor, qmax: int, stream: Stream | None) -> tuple[Tensor, int]:
    """``y`` rounded and clipped to +-qmax, int8, and how many values were clipped."""
    q = torch.round(y) if stream is None else torch.floor(y.double() + stream.hashes(y.shape).double() / 2.0**32)
    clipped = int((q.abs() > qmax).sum())
    return q.clamp(-qmax, qmax).to(torch.int8), clipped


def quantize(x: Tensor, qmax: int = Q8_MAX, stream: Stream | None = None) -> tuple[Tensor, float, int]:
    """A tensor with a scale of its own: `scheme.scale_of` of its largest magnitude, `scheme.quantize_value` of each value.

    Parameters: ``x`` float32, finite; ``stream`` for stochastic rounding, None for nearest-even.
    Returns: (q int8, scale FP32, number of values clipped: those that stochastic rounding sends past qmax).
    """
    maximum = largest(x)
    scale = scale_of(maximum, qmax)
    if vanishes(maximum, qmax):
        return torch.zeros_like(x, dtype=torch.int8), scale, 0
    q, clipped = _round_clip(x / torch.tensor(scale, dtype=torch.float32), qmax, stream)
    return q, scale, clipped


def quantize_power(v: Tensor, exponent: int | None = None, stream: Stream | None = None) -> tuple[Tensor, int, int]:
    """A tensor with the scale 2**exponent: by default `scheme.power_exponent` of its largest magnitude (0 where it vanishes).

    Parameters: ``v`` float32, finite. Returns: (q int8, exponent, number of values clipped).
    """
    maximum = largest(v)
    gone = vanishes(maximum)
    if exponent is None:
        exponent = 0 if gone else power_exponent(maximum)
    if gone:
        return torch.zeros_like(v, dtype=torch.int8), exponent, 0
    q, clipped = _round_clip(v.double() * 2.0**-exponent, Q8_MAX, stream)
    return q, exponent, clipped


def quantize_weight(weight: Tensor, scheme: FQT) -> QuantizedWeight:
    """A frozen base weight [O, I] under ``scheme``: `scheme.weight_scales`, values rounded half to even."""
    weight = as_float32(weight, "W")
    scales = torch.tensor(weight_scales(weight.abs().amax(dim=1).tolist(), scheme), dtype=torch.float32)
    if vanishes(largest(weight), scheme.weight_qmax):
        return QuantizedWeight(torch.zeros_like(weight, dtype=torch.int8), scales)
    q, _ = _round_clip(weight / scales[:, None], scheme.weight_qmax, None)
    return QuantizedWeight(q, scales)


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """The exact product of two int8 matrices as int64: float64 holds every partial sum below 2**53, in any order."""
    return (left.double() @ right.double()).to(torch.int64)


def requantize(
    acc: Tensor, scale: Requantization | tuple[Tensor, Tensor], stream: Stream | None = None
) -> tuple[Tensor, int | Tensor, int]:
    """The accelerator's requantization of accumulators to INT8.

    Parameters: ``acc`` integers in the INT32 range, in the logical shape; ``scale``, one for the tensor, or int64 tensors
    (mantissa, shift) that broadcast to ``acc``; ``stream`` for stochastic rounding, None for half to even.
    Returns: (q int8, largest \\|acc * mantissa\\| before the shift, number of saturated values).
    """
    if isinstance(scale, Requantization):
        scale = (torch.tensor(scale.mantissa), torch.tensor(scale.shift))
    mantissa, n = (part.to(torch.int64).expand(acc.shape) for part in scale)
    p = acc.to(torch.int64) * mantissa
    one = torch.ones_like(p)
    if stream is not None:
        h = stream.hashes(acc.shape)
        addend = torch.where(n <= 32, h >> (32 - n).clamp(min=0), h << (n - 32).clamp(min=0))
    else:
        half = (one << (n - 1).clamp(min=0)) - 1 + ((p >> n) & 1)
        addend = torch.where(n == 0, torch.zeros_like(p), half)
    q = (p + addend) >> n
    saturated = int((q.abs() > Q8_MAX).sum())
    return q.clamp(-Q8_MAX, Q8_MAX).to(torch.int8), int(p.abs().max()), saturated
