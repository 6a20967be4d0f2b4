"""Matrices in DRAM: where an element lies, and how the host packs and unpacks it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from loralith.spec.config import Config

__all__ = [
    "Int4Layout",
    "MatrixLayout",
    "SkinnyShape",
    "fold_right",
    "folded_shape",
    "int_layout",
    "operand_bytes",
    "padded",
    "row_major",
    "skinny_packed",
    "skinny_shape",
]


def padded(n: int, multiple: int) -> int:
    """`n` rounded up to a multiple."""
    return -(-n // multiple) * multiple


@dataclass(frozen=True)
class MatrixLayout:
    """A matrix of `rows` x `cols` elements of `itemsize` bytes: row i lies at `address + i * stride`, its elements one after the other.

    What a row does not use of its stride is padding: written as zeros by `pack`, never read by `unpack`.
    """

    address: int
    rows: int
    cols: int
    stride: int
    itemsize: int = 1

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in DRAM without its padding."""
        return self.cols * self.itemsize

    @property
    def loaded_bytes(self) -> int:
        """Bytes of a row on chip."""
        return self.cols * self.itemsize

    @property
    def packed4(self) -> bool:
        """Whether a byte holds two elements."""
        return False

    @property
    def nbytes(self) -> int:
        """Bytes from the first row to the end of the last one's stride."""
        return self.rows * self.stride

    def at(self, address: int) -> MatrixLayout:
        """The same layout elsewhere."""
        return replace(self, address=address)

    def block(self, row: int, rows: int, col: int, cols: int) -> MatrixLayout:
        """A part of the matrix, in place. Raises ValueError outside of it."""
        if row < 0 or col < 0 or row + rows > self.rows or col + cols > self.cols:
            raise ValueError(f"rows {row}..{row + rows - 1}, columns {col}..{col + cols - 1} are not in {self.rows} x {self.cols}")
        return replace(self, address=self.address + row * self.stride + self._offset(col), rows=rows, cols=cols)

    def _offset(self, col: int) -> int:
        """Where a column begins, in bytes from the row's start."""
        return col * self.itemsize

    def pack(self, values: np.ndarray) -> np.ndarray:
        """uint8 [nbytes] of `values` [rows, cols], whose elements have `itemsize` bytes. Raises ValueError for another shape or size."""
        if values.shape != (self.rows, self.cols) or values.dtype.itemsize != self.itemsize:
            raise ValueError(f"expected {self.rows} x {self.cols} elements of {self.itemsize} bytes, not {values.shape} of {values.dtype}")
        image = np.zeros((self.rows, self.stride), np.uint8)
        image[:, : self.row_bytes] = np.ascontiguousarray(values).view(np.uint8).reshape(self.rows, self.row_bytes)
        return image.reshape(-1)

    def unpack(self, data: np.ndarray, dtype: np.typing.DTypeLike) -> np.ndarray:
        """The matrix [rows, cols] in uint8 [nbytes]."""
        image = data.reshape(self.rows, self.stride)[:, : self.row_bytes]
        return np.ascontiguousarray(image).view(dtype)


@dataclass(frozen=True)
class Int4Layout(MatrixLayout):
    """A matrix of INT4, which loads turn into INT8: byte j of a row has element 2j in its low nibble and 2j + 1 in its high one.

    Two's complement, -8..7; a last element without a partner has a nibble of zeros above it. `word`: bytes of a bus word, at which every
    block must begin, so that its first column is a multiple of 2 * `word`.
    """

    word: int = 1

    @property
    def row_bytes(self) -> int:
        return -(-self.cols // 2)

    @property
    def packed4(self) -> bool:
        return True

    def _offset(self, col: int) -> int:
        if col % (2 * self.word):
            raise ValueError(f"a block of INT4 must begin at a bus word, every {2 * self.word} columns, not at column {col}")
        return col // 2

    def pack(self, values: np.ndarray) -> np.ndarray:
        """uint8 [nbytes] of int8 [rows, cols] in -8..7. Raises ValueError for another shape, and for a value that INT4 does not hold."""
        if values.shape != (self.rows, self.cols) or values.dtype != np.int8:
            raise ValueError(f"expected {self.rows} x {self.cols} elements of int8, not {values.shape} of {values.dtype}")
        outside = (values < -8) | (values > 7)
        if outside.any():
            row, col = (int(i) for i in np.argwhere(outside)[0])
            raise ValueError(f"element ({row}, {col}) is {values[row, col]}, which INT4 (-8..7) does not hold")
        nibbles = np.zeros((self.rows, 2 * self.row_bytes), np.uint8)
        nibbles[:, : self.cols] = values.view(np.uint8) & 0xF
        image = np.zeros((self.rows, self.stride), np.uint8)
        image[:, : self.row_bytes] = nibbles[:, 0::2] | nibbles[:, 1::2] << 4
        return image.reshape(-1)

    def unpack(self, data: np.ndarray, dtype: np.typing.DTypeLike) -> np.ndarray:
        """The matrix [rows, cols] in uint8 [nbytes], as integers of `dtype`."""
        image = data.reshape(self.rows, self.stride)[:, : self.row_bytes]
        nibbles = np.stack([image & 0xF, image >> 4], axis=-1).reshape(self.rows, -1)[:, : self.cols].astype(np.int8)
        return ((nibbles ^ 8) - 8).astype(dtype)


def int_layout(rows: int, cols: int, bits: int, config: Config) -> MatrixLayout:
    """`row_major` of INT8, or of INT4 with two elements per byte. Raises ValueError for bits other than 8 and 4."""
    if bits == 8:
        return row_major(rows, cols, config)
    if bits != 4:
        raise ValueError(f"an operand in DRAM has 8 or 4 bits, not {bits}")
    return Int4Layout(0, rows, cols, padded(-(-cols // 2), config.bus_bytes), word=config.bus_bytes)


def operand_bytes(layout: MatrixLayout, config: Config) -> int:
    """Bytes of device memory that an operand takes: those of its rows, and what a load of them may read past the last one.

    The bus reads whole words, and rows are padded to words, so a load of rows reads no more than the rows. A folded load, however, takes
    rows of fewer than C bytes that lie one after the other as rows of C bytes, one per step of the array; the last of these may go on past
    the operand. What it reads there is multiplied by the zeros that pad the other operand.
    """
    return padded(layout.nbytes, config.cols) if layout.stride < config.cols else layout.nbytes


def row_major(rows: int, cols: int, config: Config, itemsize: int = 1) -> MatrixLayout:
    """Rows padded to bus words: what natural and transposed loads and plain stores take."""
    return MatrixLayout(0, rows, cols, padded(cols * itemsize, config.bus_bytes), itemsize)


def skinny_packed(rows: int, rank: int, config: Config) -> MatrixLayout:
    """Rows of INT8 one after the other, `rank` padded with zeros to a power of two: what a packed store writes.

    Where the padded rank reaches a bus word this is `row_major`.
    """
    width = 1 << (rank - 1).bit_length()
    return MatrixLayout(0, rows, rank, width if width < config.bus_bytes else padded(width, config.bus_bytes))


def folded_shape(K: int, N: int, fold: int, config: Config) -> tuple[int, int]:
    """Rows and columns of `fold_right`'s result: steps, and tiles * C."""
    return -(-K // fold), -(-N // (config.cols // fold)) * config.cols


def fold_right(right: np.ndarray, fold: int, config: Config) -> np.ndarray:
    """A right operand [K, N] in the order of the folded array: [steps, tiles * C].

    Row t, byte tile * C + g * (C / f) + n is right[t * f + g, tile * (C / f) + n]; zeros stand past K and N.
    """
    K, N = right.shape
    steps, bytes_per_step = folded_shape(K, N, fold, config)
    width, tiles = config.cols // fold, bytes_per_step // config.cols
    image = np.zeros((steps * fold, tiles * width), right.dtype)
    image[:K, :N] = right
    return image.reshape(steps, fold, tiles, width).transpose(0, 2, 1, 3).reshape(steps, bytes_per_step)


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
