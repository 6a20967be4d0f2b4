"""INT8 operands of a step's products, by the storage that a tensor lives in.

Scales are powers of two, so that a device sets them from a maximum alone. An operand may have a *unit* beside its scale, a factor for each
row: a frozen weight's output channels, a row of softmax. Where the unit lies along a product's reduction it moves into the other operand
before that one is quantized; elsewhere it multiplies the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from loralith.spec.numerics import Q8_MAX
from loralith.spec.step import StepScheme

from .format import VectorFormat

__all__ = ["Q16_MAX", "Operands", "Quantized", "power_scale", "row_units"]

Q16_MAX = 32639
"""Largest magnitude of a value in two words, 2^8 high + low: see docs/numerics.md, section 7."""
WEIGHT_RANGE = 16.0
"""A weight row's unit is at least the largest one over this: see `FQT.weight_scale_range`."""


def power_scale(maximum: Tensor, qmax: int) -> Tensor:
    """The smallest powers of two with maximum <= qmax * scale, float64; 1 where the maximum is zero or too small for one."""
    mantissa, exponent = torch.frexp(maximum.double())
    top, bits = torch.frexp(torch.tensor(float(qmax), dtype=torch.float64))
    power = torch.where(mantissa <= top, exponent - bits, exponent - bits + 1)
    scale = torch.ldexp(torch.ones_like(mantissa), power)
    return torch.where((maximum == 0) | (scale < 2.0**-126), torch.ones_like(scale), scale)


def row_units(weight: Tensor) -> Tensor:
    """Power-of-two units of the rows of a frozen W [O, ...], float64 [O]."""
    rows = power_scale(weight.flatten(1).abs().amax(1), Q8_MAX)
    zero = weight.flatten(1).abs().amax(1) == 0
    largest = power_scale(weight.abs().amax(), Q8_MAX)
    floor = (largest / WEIGHT_RANGE).clamp(min=2.0**-126)
    return torch.where(zero, floor, torch.maximum(rows, floor))


@dataclass(frozen=True)
class Quantized:
    """q: integers as float32, in the strides of the tensor they were made of. scale: a power of two. unit: a factor for each element in
    the same strides, constant but along one dimension; None for none."""

    q: Tensor
    scale: float
    unit: Tensor | None = None

    def view(self, like: Tensor) -> Quantized:
        """The same for ``like``, a view of the quantized tensor's storage."""
        size, stride, offset = like.size(), like.stride(), like.storage_offset()
        unit = None if self.unit is None else self.unit.as_strided(size, stride, offset)
        return Quantized(self.q.as_strided(size, stride, offset), self.scale, unit)


@dataclass
class _Tensor:
    """A tensor that products may read.

    ``folded``: its quantized copies by the key of the unit that was taken in, and `_part`. ``batch``: it is made of the batch alone, by no
    product.
    """

    whole: Tensor
    gradient: bool
    batch: bool
    folded: dict[tuple[object, object], Quantized] = field(default_factory=dict)


class Operands:
    """Quantizes operands, each tensor once for each unit that it takes in, as a device would.

    Parameters: ``scheme``; ``weights``, frozen tensors [O, ...]; ``adapters``, trained A with None and trained B with the units of its
    base weight's rows.
    """

    def __init__(self, scheme: StepScheme, weights: list[Tensor], adapters: list[tuple[Tensor, Tensor | None]]) -> None:
        self.scheme, self.vector = scheme, VectorFormat(scheme.fraction_bits)
        self._fixed: dict[int, tuple[Tensor, Quantized]] = {}
        self._adapters = adapters
        for weight in weights:
            units = row_units(weight).reshape(-1, *[1] * (weight.ndim - 1))
            q = torch.round(weight.double() / units).clamp(-Q8_MAX, Q8_MAX).float()
            self._fixed[weight.untyped_storage().data_ptr()] = (weight, Quantized(q, 1.0, _spread(units, weight)))
        self._trained: dict[int, Quantized] = {}
        self._seen: dict[int, _Tensor] = {}
        self._random = torch.Generator()
        self.begin(0)

    def begin(self, step: int) -> None:
        """Start of step ``step``: what was quantized is forgotten, A and B are quantized again when they are read."""
        self._seen.clear()
        self._trained = {}
        self._random.manual_seed((self.scheme.seed * 1_000_003 + step) % (1 << 63))
        for tensor, units in self._adapters:
            value = tensor.detach().double()
            spread = None if units is None else _spread(units.reshape(-1, 1), tensor)
            value = value if spread is None else value / spread
            scale = float(power_scale(value.abs().amax(), Q8_MAX))
            q = torch.round(value / scale).float()
            self._trained[tensor.untyped_storage().data_ptr()] = Quantized(q, scale, spread)

    def made(self, tensor: Tensor, gradient: bool, batch: bool = False) -> None:
        """``tensor`` was computed; it stays alive until the next `begin`, so that no other takes its storage."""
        self._seen[tensor.untyped_storage().data_ptr()] = _Tensor(_base(tensor), gradient, batch)

    def is_batch(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` came from outside, or is made of such tensors alone."""
        key = tensor.untyped_storage().data_ptr()
        seen = self._seen.get(key)
        return seen.batch if seen else key not in self._fixed and key not in self._trained

    def made_rows(self, tensor: Tensor, q: Tensor, unit: Tensor) -> None:
        """``tensor`` = q * unit is a softmax, whose integers are there already."""
        self.made(tensor, False)
        self._seen[tensor.untyped_storage().data_ptr()].folded["rows", None] = Quantized(q, 1.0, _spread(unit, tensor))

    def units(self, tensor: Tensor, dim: int) -> tuple[Tensor | None, object]:
        """The unit of ``tensor`` along ``dim``, which is a product's reduction, with size 1 in the last other one; a key for it."""
        known = self._known(tensor)
        if known is None or known.unit is None:
            return None, None
        unit = known.view(tensor).unit
        assert unit is not None
        other = -2 if dim in (-1, tensor.ndim - 1) else -1
        line = unit.narrow(other, 0, 1)
        if bool((line == line.narrow(dim, 0, 1)).all()):
            return None, None  # constant along the reduction: it belongs to the result
        return line, tensor.untyped_storage().data_ptr()

    def _known(self, tensor: Tensor) -> Quantized | None:
        key = tensor.untyped_storage().data_ptr()
        if key in self._fixed:
            return self._fixed[key][1]
        if key in self._trained:
            return self._trained[key]
        seen = self._seen.get(key)
        return next((q for (key, _), q in seen.folded.items() if key == "rows"), None) if seen else None

    def quantized(self, tensor: Tensor, fold: Tensor | None, key: object, qmax: int = Q8_MAX) -> Quantized:
        """``tensor`` times ``fold`` (broadcast; ``key`` tells folds apart) in +-``qmax``; without a fold, what is known of it."""
        known = self._known(tensor)
        if known is not None and fold is None:
            return known.view(tensor)
        storage = tensor.untyped_storage().data_ptr()
        seen = self._seen.get(storage)
        if seen is None:  # it came from outside: a batch, a text state
            self.made(tensor, False, True)
            seen = self._seen[storage]
        part = _part(tensor)
        mine = [quantized for (_, its), quantized in seen.folded.items() if its == part]
        if fold is None and seen.gradient and len(mine) == 1:
            return mine[0].view(tensor)  # a gradient is quantized once: its unit goes to the result
        if (key, part) not in seen.folded:
            seen.folded[key, part] = self._quantize(seen, tensor, fold, qmax)
        done = seen.folded[key, part].view(tensor)
        return Quantized(done.q, done.scale) if fold is not None else done

    def _quantize(self, seen: _Tensor, tensor: Tensor, fold: Tensor | None, qmax: int) -> Quantized:
        # A view of a part of its storage (one half of a concatenation's gradient) is quantized by its own maximum.
        factor = torch.zeros_like(seen.whole)
        own = factor.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
        own.copy_(torch.ones(()) if fold is None else fold.expand(tensor.shape))
        value = self.vector.mul(seen.whole, factor.double())
        unit = None if fold is None else 1.0 / factor.double()
        scale = float(power_scale(value.abs().amax(), qmax))
        y = value.double() / scale
        if seen.gradient and self.scheme.stochastic:
            y = torch.floor(y + torch.rand(y.shape, generator=self._random, dtype=torch.float64))
        else:
            y = torch.round(y)
        return Quantized(_like(y.clamp(-qmax, qmax).float(), value), scale, unit)


def _part(tensor: Tensor) -> tuple[int, int, int]:
    """Which part of its storage a view covers: first and last element, and how many. Transposed and merged dimensions change nothing."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.size(), tensor.stride(), strict=True))
    first = int(tensor.storage_offset())
    return first, first + last, tensor.numel()


def _base(tensor: Tensor) -> Tensor:
    """The whole storage of ``tensor`` as a flat tensor."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.detach().as_strided((count,), (1,), 0)


def _spread(units: Tensor, like: Tensor) -> Tensor:
    """``units`` broadcast over ``like``, float64, in its strides."""
    spread = torch.empty_strided(like.size(), like.stride(), dtype=torch.float64)
    return spread.copy_(units.expand(like.shape))


def _like(values: Tensor, like: Tensor) -> Tensor:
    result = torch.empty_strided(like.size(), like.stride(), dtype=values.dtype)
    return result.copy_(values)
