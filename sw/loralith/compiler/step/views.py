"""Tensors in device memory, and views of them: moves of a step graph are arithmetic on strides as long as nothing must be copied."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from loralith.spec.commands import FORMAT_BYTES, VectorFormat

__all__ = ["Buffer", "View", "broadcast_view", "collapse", "expand", "offsets", "permute", "reshape", "row_major", "slice_view"]


@dataclass(eq=False)
class Buffer:
    """Bytes of device memory.

    Attributes:
        name: of the node that it holds, for messages.
        format: of its elements: FP32 words, BF16 for what was rounded to bfloat16, INT8 integers.
        elements: that it has room for.
        run, pitch: valid elements of each ``pitch``; what lies between is never written. Both ``elements`` where there is no gap.
        address: first byte, a multiple of the bus's bytes; set by whoever allocates.
    """

    name: str
    format: VectorFormat
    elements: int
    run: int
    pitch: int
    address: int = -1
    users: int = field(default=0, compare=False)

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return FORMAT_BYTES[self.format]

    @property
    def nbytes(self) -> int:
        return self.elements * self.size


@dataclass(frozen=True, eq=False)
class View:
    """Elements of ``buffer`` at ``offset`` + the sum of index * stride, in elements."""

    buffer: Buffer
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def size(self) -> int:
        return self.buffer.size

    def address(self, *index: int) -> int:
        """Of the element at ``index``, which may be shorter than the shape."""
        return self.buffer.address + (self.offset + sum(i * s for i, s in zip(index, self.strides, strict=False))) * self.size


def row_major(shape: Sequence[int], pitch: int | None = None) -> tuple[int, ...]:
    """Strides of a tensor whose last dimension is contiguous and takes ``pitch`` elements, or its own size."""
    strides: list[int] = []
    step = 1
    for i, n in enumerate(reversed(shape)):
        strides.append(step)
        step *= pitch if i == 0 and pitch is not None else n
    return tuple(reversed(strides))


def permute(view: View, order: Sequence[int]) -> View:
    return View(view.buffer, tuple(view.shape[i] for i in order), tuple(view.strides[i] for i in order), view.offset)


def slice_view(view: View, dim: int, start: int, stop: int, step: int = 1) -> View:
    shape, strides = list(view.shape), list(view.strides)
    shape[dim] = len(range(start, stop, step))
    strides[dim] *= step
    return View(view.buffer, tuple(shape), tuple(strides), view.offset + start * view.strides[dim])


def expand(view: View, shape: Sequence[int]) -> View:
    """Dimensions of size 1 repeated, as numpy broadcasts."""
    more = len(shape) - len(view.shape)
    old = (1,) * more + view.shape
    strides = (0,) * more + view.strides
    kept = tuple(0 if a == 1 and b != 1 else s for a, b, s in zip(old, shape, strides, strict=True))
    return View(view.buffer, tuple(shape), kept, view.offset)


broadcast_view = expand


def offsets(sizes: Sequence[int], *strides: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The offset of each index, for each of ``strides``."""
    for index in itertools.product(*map(range, sizes)):
        yield tuple(sum(i * s for i, s in zip(index, own, strict=True)) for own in strides)


def reshape(view: View, shape: Sequence[int]) -> View | None:
    """The view with another shape, or None where its elements would have to be copied."""
    old = [(n, s) for n, s in zip(view.shape, view.strides, strict=True) if n != 1]
    strides: list[int] = []
    i = j = 0
    new = list(shape)
    if math.prod(new) != math.prod(view.shape):
        raise ValueError(f"{list(view.shape)} cannot be reshaped to {new}")
    while j < len(new):
        if new[j] == 1:
            strides.append(0)
            j += 1
            continue
        # the shortest groups of old and new dimensions with as many elements
        first_i, first_j = i, j
        a, b = old[i][0], new[j]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                a *= old[i][0]
                i += 1
            else:
                b *= new[j]
                j += 1
        group = old[first_i:i]
        for (_, outer), (n, inner) in itertools.pairwise(group):
            if outer != n * inner:
                return None
        step = group[-1][1]
        found = []
        for n in reversed(new[first_j:j]):
            found.append(step)
            step *= n
        strides += reversed(found)
    return View(view.buffer, tuple(new), tuple(strides), view.offset)


def collapse(shape: Sequence[int], *strides: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """Dimensions of size 1 left out, neighbours merged where every one of ``strides`` lets them: (sizes, strides of each)."""
    sizes: list[int] = []
    kept: list[list[int]] = [[] for _ in strides]
    for d, n in enumerate(shape):
        if n == 1:
            continue
        own = [s[d] for s in strides]
        if sizes and all(k[-1] == n * s for k, s in zip(kept, own, strict=True)):
            sizes[-1] *= n
            for k, s in zip(kept, own, strict=True):
                k[-1] = s
        else:
            sizes.append(n)
            for k, s in zip(kept, own, strict=True):
                k.append(s)
    return sizes, kept
