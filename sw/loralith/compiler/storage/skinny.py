"""How tensors with as many columns as the rank lie: H, dH, A, B."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loralith.compiler.storage.layout import MatrixLayout, fold_right, row_major
from loralith.spec.config import Config

__all__ = ["SkinnyShape", "skinny_shape"]


@dataclass(frozen=True)
class SkinnyShape:
    """How tensors with `rank` columns lie: padded to `width` columns, which take the array `fold` times where they are right operand."""

    rank: int
    width: int
    fold: int

    def packed(self, rows: int, config: Config) -> MatrixLayout:
        """INT8 [rows, width] as a skinny result is stored and a folded right operand is read: rows one after the other."""
        if self.width < config.bus_bytes <= config.cols:
            return MatrixLayout(0, rows, self.width, self.width)
        return row_major(rows, self.width, config)

    def right_image(self, values: np.ndarray, config: Config) -> np.ndarray:
        """INT8 [k, rank] as the bytes of `right`, zeros where the rank is padded."""
        image = np.zeros((len(values), self.width), np.int8)
        image[:, : self.rank] = values
        return fold_right(image, self.fold, config) if self.fold > 1 else image

    def right(self, k: int, config: Config) -> MatrixLayout:
        """The same bytes as right operand of a reduction over `k`: one row per step of the array."""
        if self.fold == 1:
            return row_major(k, self.width, config)
        return row_major(-(-k // self.fold), config.cols, config)


def skinny_shape(rank: int, config: Config) -> SkinnyShape:
    """The narrowest layout of rank-`rank` tensors that packed stores write and folded loads read. Raises ValueError for a rank below 1."""
    if rank < 1:
        raise ValueError(f"the rank must be at least 1, not {rank}")
    width = max(1 << (rank - 1).bit_length(), config.cols // config.max_fold)
    # A folded word must be a multiple of the bus word, or rows of a packed store would not be rows of a load.
    fold = config.cols // width if width < config.cols and config.cols % config.bus_bytes == 0 else 1
    return SkinnyShape(rank, width, fold)
