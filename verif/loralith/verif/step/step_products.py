"""INT8 operands of a step's products, by the storage that a tensor lives in.

Scales are powers of two, so that a device sets them from a maximum alone. An operand may have a *unit* beside its scale, a factor for each
row: a frozen weight's output channels, a row of softmax. Where the unit lies along a product's reduction it moves into the other operand
before that one is quantized; elsewhere it multiplies the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from loralith.spec.numerics import Q8_MAX, hash32, hash_key
from loralith.spec.step import StepScheme, dimension_of, row_dimension
from loralith.verif.vector.format import VectorFormat

__all__ = ["Operands", "Quantized", "power_scale", "row_units"]

WEIGHT_RANGE = 16.0
"""A weight row's unit is at least the largest one over this: see `FQT.weight_scale_range`."""


def power_scale(maximum: Tensor, qmax: int) -> Tensor:
    """The smallest powers of two with maximum <= qmax * scale, 2^-126 at least, float64."""
    mantissa, exponent = torch.frexp(maximum.double())
    top, bits = torch.frexp(torch.tensor(float(qmax), dtype=torch.float64))
    power = torch.where(mantissa <= top, exponent - bits, exponent - bits + 1)
    scale = torch.ldexp(torch.ones_like(mantissa), power)
    return torch.where(maximum == 0, 0.0, scale).clamp(min=2.0**-126)


def row_units(weight: Tensor) -> Tensor:
    """Power-of-two units of the rows of a frozen W [O, ...], float64 [O]."""
    rows = power_scale(weight.flatten(1).abs().amax(1), Q8_MAX)
    zero = weight.flatten(1).abs().amax(1) == 0
    largest = power_scale(weight.abs().amax(), Q8_MAX) if bool(weight.any()) else torch.ones((), dtype=torch.float64)
    floor = (largest / WEIGHT_RANGE).clamp(min=2.0**-126)
    return torch.where(zero, floor, torch.maximum(rows, floor))


@dataclass(frozen=True)
class Quantized:
    """q: integers as float32, flat, in the order of the storage they were made of. scale: a power of two. unit: a factor for each element,
    laid out alike, constant but along one dimension; None for none. wide: of integers of two bytes."""

    q: Tensor
    scale: float
    unit: Tensor | None = None
    wide: bool = False

    def view(self, like: Tensor) -> Quantized:
        """The same for ``like``, a view of the quantized tensor's storage."""
        return Quantized(_like(self.q, like), self.scale, None if self.unit is None else _like(self.unit, like))


@dataclass
class _Tensor:
    """A tensor that products may read.

    ``folded``: its quantized copies by the key of the unit that was taken in, and `_part`. ``batch``: it is made of the batch alone, by no
    product. ``rows``: the gradient of a softmax's argument, whose rows lie along the lanes, as the array makes S.
    """

    made: Tensor
    gradient: bool
    batch: bool
    rows: bool = False
    folded: dict[tuple[object, object], Quantized] = field(default_factory=dict)

    @property
    def flat(self) -> Tensor:
        """Its storage."""
        return _flat(self.made)


class Operands:
    """Quantizes operands, each tensor once for each unit that it takes in, as a device would.

    Parameters: ``scheme``; ``weights``, frozen tensors [O, ...]; ``adapters``, trained A with None and trained B with its base
    weight, whose units it is divided by.
    """

    def __init__(self, scheme: StepScheme, weights: list[Tensor], adapters: list[tuple[Tensor, Tensor | None]]) -> None:
        self.scheme, self.vector = scheme, VectorFormat(scheme.fraction_bits)
        self._fixed: dict[int, tuple[Tensor, Quantized]] = {}
        self._adapters = adapters
        for weight in weights:
            units = row_units(weight).reshape(-1, *[1] * (weight.ndim - 1))
            q = torch.round(weight.double() / units).clamp(-Q8_MAX, Q8_MAX).float()
            self._fixed[weight.untyped_storage().data_ptr()] = (weight, Quantized(_flat(q.contiguous()), 1.0, _spread(units, weight)))
        self._trained: dict[int, Quantized] = {}
        self._seen: dict[int, _Tensor] = {}
        self.begin(0)

    def begin(self, step: int) -> None:
        """Start of step ``step``: what was quantized is forgotten, A and B are quantized again when they are read."""
        self._seen.clear()
        self._trained = {}
        self._step, self._drawn = step, 0
        for tensor, base in self._adapters:
            value = tensor.detach().double()
            spread = None
            if base is not None:
                units = row_units(base.detach()).reshape(-1, 1)
                value, spread = value / units, _spread(units, tensor)
            scale = float(power_scale(value.abs().amax(), Q8_MAX))
            q = torch.round(value / scale).float()
            self._trained[tensor.untyped_storage().data_ptr()] = Quantized(_flat(q), scale, spread)

    def made(self, tensor: Tensor, gradient: bool, batch: bool = False) -> None:
        """``tensor`` was computed; it stays alive until the next `begin`, so that no other takes its storage."""
        self._seen[tensor.untyped_storage().data_ptr()] = _Tensor(tensor.detach(), gradient, batch)

    def made_scores(self, tensor: Tensor) -> None:
        """``tensor`` is the gradient of a softmax's argument."""
        self.made(tensor, True)
        self._seen[tensor.untyped_storage().data_ptr()].rows = True

    def is_batch(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` came from outside, or is made of such tensors alone."""
        key = tensor.untyped_storage().data_ptr()
        seen = self._seen.get(key)
        return seen.batch if seen else key not in self._fixed and key not in self._trained

    def made_rows(self, tensor: Tensor, q: Tensor, unit: Tensor) -> None:
        """``tensor`` = q * unit is a softmax, whose integers are there already."""
        self.made(tensor, False)
        self._seen[tensor.untyped_storage().data_ptr()].folded["rows", None] = Quantized(_flat(q), 1.0, _spread(unit, tensor))

    def units(self, tensor: Tensor, dim: int) -> tuple[Tensor | None, object]:
        """The unit of ``tensor`` along ``dim``, which is a product's reduction, with size 1 in the last other one; a key for it."""
        known = self._known(tensor)
        if known is None or known.unit is None:
            return None, None
        unit = known.view(tensor).unit
        assert unit is not None
        other = -2 if dim in (-1, tensor.ndim - 1) else -1
        line = unit.narrow(other, 0, 1)
        made = self._made(tensor)
        if line.shape[dim] == 1 or (made.shape[-1] > 1 and tensor.stride(dim) == made.stride(-1)):
            return None, None  # constant along the reduction: it belongs to the result
        bases = [base for own, base in self._adapters if own is made and base is not None]
        key = (bases[0] if bases else made).untyped_storage().data_ptr()
        return line, key if key in self._fixed else ("rows", key)

    def _made(self, tensor: Tensor) -> Tensor:
        """The tensor whose storage ``tensor`` is a view of; its unit differs along its first dimensions, not along the last one."""
        key = tensor.untyped_storage().data_ptr()
        if key in self._fixed:
            return self._fixed[key][0]
        adapter = [own for own, _ in self._adapters if own.untyped_storage().data_ptr() == key]
        return adapter[0] if adapter else self._seen[key].made

    def _known(self, tensor: Tensor) -> Quantized | None:
        key = tensor.untyped_storage().data_ptr()
        if key in self._fixed:
            return self._fixed[key][1]
        if key in self._trained:
            return self._trained[key]
        seen = self._seen.get(key)
        return next((q for (key, _), q in seen.folded.items() if key == "rows"), None) if seen else None

    def quantized(self, tensor: Tensor, fold: Tensor | None, key: object, qmax: int = Q8_MAX, images: bool = False) -> Quantized:
        """``tensor`` times ``fold`` (broadcast; ``key`` tells folds apart) in +-``qmax``; without a fold, what is known of it.
        ``images``: it is [N, C, H, W], with channels along the lanes where it is rounded stochastically."""
        known = self._known(tensor)
        if known is not None and fold is None:
            return known.view(tensor)
        storage = tensor.untyped_storage().data_ptr()
        seen = self._seen.get(storage)
        if seen is None:  # it came from outside: a batch, a text state
            self.made(tensor, False, True)
            seen = self._seen[storage]
        part = _part(tensor)
        mine = [quantized for (taken, its), quantized in seen.folded.items() if its == part and not isinstance(taken, tuple)]
        if fold is None and seen.gradient and len(mine) == 1:
            return mine[0].view(tensor)  # a gradient that took in a weight's unit is not quantized again: the unit goes to the result
        if (key, part) not in seen.folded:
            seen.folded[key, part] = self._quantize(seen, tensor, fold, qmax, images)
        done = seen.folded[key, part].view(tensor)
        return Quantized(done.q, done.scale) if fold is not None else done

    def rest(self, tensor: Tensor) -> Quantized | None:
        """What `quantized` has left of ``tensor``, as integers of their own; None where the scheme has one INT8 tensor for an operand, for
        what was quantized before the step, and for the batch in two words."""
        seen = self._seen.get(tensor.untyped_storage().data_ptr())
        if self.scheme.operand_words == 1 or seen is None or self._known(tensor) is not None:
            return None
        part = _part(tensor)
        first = seen.folded[None, part]
        if first.wide:
            return None
        if ("rest", part) not in seen.folded:
            logical = seen.made if part == _part(seen.made) else tensor
            left = self.vector.sub(self._words(logical), self.vector.mul(_like(first.q, logical), first.scale))
            scale = float(power_scale(left.abs().amax(), Q8_MAX))
            q = torch.zeros_like(seen.flat)
            _like(q, logical).copy_(torch.round(left.double() / scale).float())
            seen.folded["rest", part] = Quantized(q, scale)
        return seen.folded["rest", part].view(tensor)

    def _words(self, tensor: Tensor) -> Tensor:
        """As the host writes what it computes of the batch; everything else is words already."""
        return self.vector.round(tensor.double())

    def _quantize(self, seen: _Tensor, tensor: Tensor, fold: Tensor | None, qmax: int, images: bool) -> Quantized:
        # A view of a part of its storage (one half of a concatenation's gradient) is quantized by its own maximum.
        logical = seen.made if _part(tensor) == _part(seen.made) else tensor
        factor = None
        value = logical if self.scheme.operand_words == 1 else self._words(logical)
        if fold is not None:
            factor = torch.zeros_like(seen.flat)
            _like(factor, tensor).copy_(fold.expand(tensor.shape))
            value = self.vector.mul(logical, _like(factor, logical))
        scale = float(power_scale(value.abs().amax(), qmax))
        y = value.double() / scale
        if seen.gradient and self.scheme.stochastic:
            random = torch.zeros(len(seen.flat), dtype=torch.int64)
            if seen.rows:
                lanes_last = seen.made.transpose(-1, -2)
            elif images:
                lanes_last = tensor.movedim(1, -1)
            else:
                rows, lanes = row_dimension(seen.made.shape), -1
                if rows is not None:
                    lanes = dimension_of(tensor.shape, tensor.stride(), seen.made.shape[rows], seen.made.stride(rows))
                lanes_last = tensor.movedim(lanes, -1)
            _like(random, lanes_last).copy_(self._bytes(tuple(lanes_last.shape)))
            y = torch.floor(y + (2 * _like(random, logical) + 1).double() / 512)
        else:
            y = torch.round(y)
        q = torch.zeros_like(seen.flat)
        _like(q, logical).copy_(y.clamp(-qmax, qmax).float())
        return Quantized(q, scale, None if factor is None else 1.0 / factor, qmax > Q8_MAX)

    def _bytes(self, shape: tuple[int, ...]) -> Tensor:
        """Random bytes of the next tensor; lanes run along the last dimension: docs/vector_unit.md."""
        self._drawn += 1
        *rows, lanes = shape
        quads = -(-lanes // 4)
        own, step = hash_key(self.scheme.seed, 0, self._drawn), hash_key(self.scheme.seed, self._step, 0)
        key = own[0] ^ step[0], own[1] ^ step[1]
        word = hash32(key, torch.arange(math.prod(rows) * quads))
        found = (word[:, None] >> torch.tensor([0, 8, 16, 24]) & 0xFF).reshape(-1, 4 * quads)[:, :lanes]
        return found.reshape(shape)


def _part(tensor: Tensor) -> tuple[int, int, int]:
    """Which part of its storage a view covers: first and last element, and how many. Transposed and merged dimensions change nothing."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.size(), tensor.stride(), strict=True))
    first = int(tensor.storage_offset())
    return first, first + last, tensor.numel()


def _like(flat: Tensor, like: Tensor) -> Tensor:
    """The view of ``flat``, as large as ``like``'s storage, that ``like`` is of it."""
    return flat.as_strided(like.size(), like.stride(), like.storage_offset())


def _flat(tensor: Tensor) -> Tensor:
    """The whole storage of ``tensor`` as a flat tensor."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.detach().as_strided((count,), (1,), 0)


def _spread(units: Tensor, like: Tensor) -> Tensor:
    """``units`` broadcast over ``like``, float64, flat in its storage's order."""
    flat = torch.ones(like.untyped_storage().nbytes() // like.element_size(), dtype=torch.float64)
    _like(flat, like).copy_(units.expand(like.shape))
    return flat
