"""Where convolutions look: the columns of their windows, and the sums of what comes back from them. Numpy only; runs on a board."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as places_of

import numpy as np
from numpy.typing import NDArray

__all__ = ["Window"]


@dataclass(frozen=True)
class Window:
    """Where a convolution looks: a number for each dimension of the image, one, two or three of them. Zeros surround the image.

    ``groups``: parts of the channels with outputs of their own.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    def __post_init__(self) -> None:
        for name, usual in (("stride", 1), ("padding", 0), ("dilation", 1)):
            if not getattr(self, name):
                object.__setattr__(self, name, (usual,) * len(self.kernel))

    def output(self, *sizes: int) -> tuple[int, ...]:
        """The result's size in each dimension."""
        numbers = zip(sizes, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in numbers)

    def _places(self, padded: NDArray, result: Sequence[int]) -> list[NDArray]:
        """Views [N, C, *result] of a padded image, one for each element of the kernel, row by row."""
        found = []
        for element in places_of(*(range(k) for k in self.kernel)):
            cuts = [
                slice(i * d, i * d + s * (n - 1) + 1, s) for i, d, s, n in zip(element, self.dilation, self.stride, result, strict=True)
            ]
            found.append(padded[(slice(None), slice(None), *cuts)])
        return found

    def _inside(self, sizes: Sequence[int]) -> tuple[slice, ...]:
        """Where the image lies in a padded one."""
        return tuple(slice(p, p + n) for p, n in zip(self.padding, sizes, strict=True))

    def _padded(self, sizes: Sequence[int]) -> list[int]:
        return [n + 2 * p for p, n in zip(self.padding, sizes, strict=True)]

    def columns(self, x: NDArray) -> NDArray:
        """[N, C, ...] to [N * places, C * kernel]: a row for each place of the window, in the order of a flattened weight."""
        N, C, *sizes = x.shape
        result = self.output(*sizes)
        padded = np.zeros((N, C, *self._padded(sizes)), x.dtype)
        padded[(slice(None), slice(None), *self._inside(sizes))] = x
        columns = np.stack(self._places(padded, result), axis=-1)  # [N, C, ..., kernel]
        return np.ascontiguousarray(np.moveaxis(columns, 1, -2)).reshape(N * math.prod(result), -1)

    def channel_runs(self, x: NDArray) -> NDArray:
        """`columns` in another order, [N * places, kernel * C]: channels lie side by side, so that runs of them are copied."""
        N, C, *sizes = x.shape
        result = self.output(*sizes)
        padded = np.zeros((N, *self._padded(sizes), C), x.dtype)
        padded[(slice(None), *self._inside(sizes))] = np.moveaxis(x, 1, -1)
        runs = np.empty((N, *result, math.prod(self.kernel), C), x.dtype)
        for number, place in enumerate(self._places(np.moveaxis(padded, -1, 1), result)):
            runs[..., number, :] = np.moveaxis(place, 1, -1)
        return runs.reshape(N * math.prod(result), -1)

    def image(self, columns: NDArray, shape: tuple[int, ...], *, runs: bool = False) -> NDArray:
        """The transpose of `columns`, or of `channel_runs`: each value added to where it came from, int64 of ``shape`` [N, C, ...]."""
        N, C, *sizes = shape
        result = self.output(*sizes)
        padded = np.moveaxis(np.zeros((N, *self._padded(sizes), C), np.int64), -1, 1)
        parts = columns.reshape(N, *result, *((-1, C) if runs else (C, -1)))
        parts = np.moveaxis(parts, (-2, -1), (0, 2) if runs else (2, 0))  # [kernel, N, C, ...]
        for place, part in zip(self._places(padded, result), parts, strict=True):
            place += part
        return padded[(slice(None), slice(None), *self._inside(sizes))]

    # Groups: a batch of products, one for each.

    def split(self, rows: NDArray, *, runs: bool = False) -> NDArray:
        """Columns [M, K] as [groups, M, K / groups], the order of each group's weight."""
        if self.groups == 1:
            return rows[None]
        elements = math.prod(self.kernel)
        if runs:
            parts = rows.reshape(len(rows), elements, self.groups, -1).transpose(2, 0, 1, 3)
        else:
            parts = rows.reshape(len(rows), self.groups, -1).transpose(1, 0, 2)
        return np.ascontiguousarray(parts).reshape(self.groups, len(rows), -1)

    def joined(self, parts: NDArray, *, runs: bool = False) -> NDArray:
        """The inverse of `split`."""
        if self.groups == 1:
            return parts[0]
        M = parts.shape[1]
        elements = math.prod(self.kernel)
        rows = parts.reshape(self.groups, M, elements, -1).transpose(1, 2, 0, 3) if runs else parts.transpose(1, 0, 2)
        return np.ascontiguousarray(rows).reshape(M, -1)

    def split_outputs(self, rows: NDArray) -> NDArray:
        """Outputs [M, O] as [groups, M, O / groups]."""
        return np.ascontiguousarray(rows.reshape(len(rows), self.groups, -1).transpose(1, 0, 2)) if self.groups > 1 else rows[None]

    def joined_outputs(self, parts: NDArray) -> NDArray:
        """The inverse of `split_outputs`."""
        return np.ascontiguousarray(parts.transpose(1, 0, 2)).reshape(parts.shape[1], -1) if self.groups > 1 else parts[0]

    def split_weight(self, weight: NDArray) -> NDArray:
        """W [O, K] as [groups, O / groups, K]."""
        return weight.reshape(self.groups, -1, weight.shape[1])

    def rows_of(self, image: NDArray) -> NDArray:
        """An output [N, O, ...] as [N * places, O]."""
        return np.ascontiguousarray(np.moveaxis(image, 1, -1)).reshape(-1, image.shape[1])

    def shaped(self, rows: NDArray, shape: Sequence[int]) -> NDArray:
        """Rows [N * places, O] as the output [N, O, ...] of an input of ``shape``."""
        return np.ascontiguousarray(np.moveaxis(rows.reshape(shape[0], *self.output(*shape[2:]), -1), -1, 1))
