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
from loralith.spec.scales import block_exponent, power_exponent, rotation_block, scale_of, vanishes, weight_scales
from loralith.spec.scheme import FQT, SchemeError

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
    "rotated",
    "rotate_blocks",
    "rotate_channel_blocks",
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
    """A frozen base weight: ``q`` int8 [O, I], ``scale`` float32 [O] (one value throughout for a scale per tensor).

    ``exponents`` int64 [O / block, I / block], rounded up, where W has squares of ``block`` rows and columns: W = scale * 2**exponent * q.
    """

    q: Tensor
    scale: Tensor
    exponents: Tensor | None = None
    block: int = 0

    def integers(self) -> Tensor:
        """What is multiplied, int64 [O, I]: W = scale * integers."""
        q = self.q.to(torch.int64)
        return q if self.exponents is None else q << _spread(self.exponents, self.block, q.shape)


def _spread(squares: Tensor, block: int, shape: torch.Size) -> Tensor:
    """The value of its square for each element of ``shape``."""
    return squares.repeat_interleave(block, 0).repeat_interleave(block, 1)[: shape[0], : shape[1]]


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
    if not math.isfinite(largest(x)):
        index = tuple((~torch.isfinite(x)).nonzero()[0].tolist())
        raise SchemeError(f"{name} must be finite, but its element {index} is {x[index].item()}")
    return x


def largest(x: Tensor) -> float:
    """The largest magnitude, exactly; not finite where a value is not."""
    return x.abs().amax().item()


def _round_clip(y: Tensor, qmax: int, stream: Stream | None) -> tuple[Tensor, int]:
    """``y`` rounded and clipped to +-qmax, int8, and how many values were clipped."""
    q = torch.round(y) if stream is None else torch.floor(y.double() + stream.hashes(y.shape).double() * 2.0**-32)
    return _clip(q, qmax)


def _clip(q: Tensor, qmax: int) -> tuple[Tensor, int]:
    """``q`` clipped to +-qmax, int8, and how many values were clipped."""
    inside = q.clamp(-qmax, qmax)
    return inside.to(torch.int8), int(torch.count_nonzero(inside != q))


def quantize(x: Tensor, qmax: int = Q8_MAX, stream: Stream | None = None, power_of_two: bool = False) -> tuple[Tensor, float, int]:
    """A tensor with a scale of its own: `scales.scale_of` of its largest magnitude, `scales.quantize_value` of each value.

    Parameters: ``x`` float32, finite; ``stream`` for stochastic rounding, None for nearest-even.
    Returns: (q int8, scale FP32, number of values clipped: those that stochastic rounding sends past qmax).
    """
    maximum = largest(x)
    scale = scale_of(maximum, qmax, power_of_two)
    if vanishes(maximum, qmax):
        return torch.zeros_like(x, dtype=torch.int8), scale, 0
    q, clipped = _round_clip(x / torch.tensor(scale, dtype=torch.float32), qmax, stream)
    return q, scale, clipped


def quantize_power(v: Tensor, exponent: int | None = None, stream: Stream | None = None, qmax: int = Q8_MAX) -> tuple[Tensor, int, int]:
    """A tensor with the scale 2**exponent: by default `scales.power_exponent` of its largest magnitude (0 where it vanishes).

    Parameters: ``v`` float32, finite. Returns: (q int8, exponent, number of values clipped).
    """
    maximum = largest(v)
    gone = vanishes(maximum, qmax)
    if exponent is None:
        exponent = 0 if gone else power_exponent(maximum, qmax)
    if gone:
        return torch.zeros_like(v, dtype=torch.int8), exponent, 0
    q, clipped = _round_clip(v.double() * 2.0**-exponent, qmax, stream)
    return q, exponent, clipped


def rotate_blocks(x: Tensor, block: int) -> Tensor:
    """``x`` [..., n] times R, float32, stage by stage as docs/numerics.md has it; what FP32 does not hold is not finite."""
    distance, halvings = 1, 0
    while distance < block:
        a, b, c, d = x.reshape(*x.shape[:-1], -1, 4, distance).unbind(-2)
        four = ((a + b) + (c - d), (a + b) - (c - d), (a - b) + (c + d), (c + d) - (a - b))
        x = torch.stack(four, dim=-2).reshape(x.shape)
        distance, halvings = 4 * distance, halvings + 1
    return x * 2.0**-halvings if halvings else x


def rotated(x: Tensor, block: int, name: str) -> Tensor:
    """``x`` [..., n] times R. Raises SchemeError, with ``name``, where a value is not finite, or is so no longer."""
    x = as_float32(x, name)
    return as_float32(rotate_blocks(x, block), f"{name} after its rotation") if block > 1 else x


def rotate_channel_blocks(x: Tensor, block: int) -> Tensor:
    """``x`` [N, C, ...] times R along C."""
    return rotate_blocks(x.movedim(1, -1), block).movedim(-1, 1).contiguous()


def quantize_weight(weight: Tensor, scheme: FQT, kernel: int = 1) -> QuantizedWeight:
    """A frozen base weight [O, I] under ``scheme``: rotated, `scales.weight_scales`, values rounded half to even. ``kernel``: elements of a
    convolution's window, I / C."""
    weight = as_float32(weight, "W")
    columns = weight.reshape(len(weight), -1, kernel)
    block = rotation_block(scheme.rotation, columns.shape[1])
    weight = as_float32(rotate_channel_blocks(columns, block), "W after its rotation").reshape(weight.shape)
    scales = torch.tensor(weight_scales(weight.abs().amax(dim=1).tolist(), scheme), dtype=torch.float32)
    if vanishes(largest(weight), scheme.weight_qmax):
        return QuantizedWeight(torch.zeros_like(weight, dtype=torch.int8), scales)
    units = weight / scales[:, None]
    if scheme.weight_scales != "block":
        return QuantizedWeight(_round_clip(units, scheme.weight_qmax, None)[0], scales)
    block, unit = scheme.weight_block, scales[0].item()
    exponents = torch.tensor(
        [[block_exponent(largest(square), unit, scheme) for square in rows.split(block, 1)] for rows in weight.split(block, 0)]
    )
    units = units.double() * 2.0 ** -_spread(exponents, block, weight.shape)
    return QuantizedWeight(_round_clip(units, scheme.weight_qmax, None)[0], scales, exponents, block)


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """The exact product of two integer matrices as int64: float64 holds every partial sum below 2**53, in any order."""
    return (left.double() @ right.double()).to(torch.int64)


def requantize(
    acc: Tensor, scale: Requantization | tuple[Tensor, Tensor], stream: Stream | None = None, qmax: int = Q8_MAX
) -> tuple[Tensor, int, int]:
    """The accelerator's requantization of accumulators to INT8, or to 4 bits with ``qmax`` 7.

    Parameters: ``acc`` integers in the INT32 range, in the logical shape; ``scale``, one for the tensor, or int64 tensors
    (mantissa, shift) that broadcast to ``acc``; ``stream`` for stochastic rounding, None for half to even.
    Returns: (q int8, largest \\|acc * mantissa\\| before the shift, number of saturated values).
    """
    if isinstance(scale, Requantization):
        p, addend, n = _one_scale(acc, scale, stream)
    else:
        p, addend, n = _scales(acc, *scale, stream)
    q, saturated = _clip((p + addend) >> n, qmax)
    return q, int(p.abs().max()), saturated


def _one_scale(acc: Tensor, scale: Requantization, stream: Stream | None) -> tuple[Tensor, Tensor | int, int]:
    """(acc * mantissa, what is added before the shift, the shift)."""
    n = scale.shift
    p = acc.to(torch.int64) * scale.mantissa
    if n == 0:
        return p, 0, n
    if stream is None:
        return p, (1 << (n - 1)) - 1 + ((p >> n) & 1), n
    h = stream.hashes(acc.shape)
    return p, h >> (32 - n) if n <= 32 else h << (n - 32), n


def _scales(acc: Tensor, mantissa: Tensor, shift: Tensor, stream: Stream | None) -> tuple[Tensor, Tensor, Tensor]:
    """The same with a scale for each element."""
    mantissa, n = (part.to(torch.int64).expand(acc.shape) for part in (mantissa, shift))
    p = acc.to(torch.int64) * mantissa
    one = torch.ones_like(p)
    if stream is not None:
        h = stream.hashes(acc.shape)
        return p, torch.where(n <= 32, h >> (32 - n).clamp(min=0), h << (n - 32).clamp(min=0)), n
    half = (one << (n - 1).clamp(min=0)) - 1 + ((p >> n) & 1)
    return p, torch.where(n == 0, torch.zeros_like(p), half), n
