"""A small list that uses every kind of command and most of their fields: what self-tests run, and what tests break on purpose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.schedules.emit import Emitter, Int8, Segment, Stochastic
from loralith.compiler.storage.layout import MatrixLayout, fold_right, int_layout, row_major
from loralith.compiler.storage.regions import Regions
from loralith.spec.commands import STAT_BYTES
from loralith.spec.config import Config
from loralith.spec.numerics import Requantization

__all__ = ["Example", "example"]

PAGE = 4096


@dataclass(frozen=True)
class Example:
    """`commands` work on `image` (uint8 [bytes]), which the host writes to `address`; results go to `results`, (first byte, bytes)."""

    commands: CommandList
    address: int
    image: np.ndarray
    results: tuple[int, int]


def example(config: Config, address: int, seed: int = 1) -> Example:
    """A chained, folded product with per-column scales, stochastic rounding and statistics, its INT8 result kept as left operand of
    others, which add to the accumulate buffer and whose right operand DRAM holds as INT4; where the array is wide enough a matrix loaded
    into both scratchpads and squared; stores straight, transposed and of statistics. Its results do not depend on what earlier lists left
    on chip.

    `address` is a multiple of 4096. The operands follow from `seed`.
    """
    return _Builder(config, address, seed).build()


class _Builder:
    def __init__(self, config: Config, address: int, seed: int) -> None:
        self.config, self.address = config, address
        self.rng = np.random.default_rng(seed)
        self.emitter, self.regions = Emitter(config), Regions(config)
        self.image: list[np.ndarray] = []
        self.size = 0

    def place(self, layout: MatrixLayout, values: np.ndarray | None = None) -> MatrixLayout:
        self.image.append(np.zeros(layout.nbytes, np.uint8) if values is None else layout.pack(values))
        placed = layout.at(self.address + self.size)
        self.size += layout.nbytes
        return placed

    def int8(self, rows: int, columns: int) -> np.ndarray:
        return self.rng.integers(-128, 128, (rows, columns), dtype=np.int8)

    def operands(self, M: int, N: int, K: int, fold: int, *, transposed: bool) -> Segment:
        """Left [M, K] loaded transposed, or natural from [K, M]; right folded, or with fold 1 transposed from [N, K]."""
        config = self.config
        left = self.regions.take("left", M, K)
        values = self.int8(M, K) if transposed else self.int8(K, M)
        pad_rows = 0 if transposed else -K % fold
        self.emitter.load(
            self.place(row_major(values.shape[0], values.shape[1], config), values), left, transpose=transposed, pad_rows=pad_rows
        )
        right = fold_right(self.int8(K, N), fold, config) if fold > 1 else self.int8(N, K)
        lanes, seq = right.shape[::-1] if fold > 1 else right.shape
        region = self.regions.take("right", lanes, seq)
        self.emitter.load(self.place(row_major(right.shape[0], right.shape[1], config), right), region, transpose=fold == 1)
        return Segment(left, region, K)

    def build(self) -> Example:
        config, emitter = self.config, self.emitter
        fold = 2
        M, N, K0, K1 = config.rows + 1, config.cols // 2 + 1, config.banks + 3, 3
        segments = self.operands(M, N, K0, fold, transposed=True), self.operands(M, N, K1, fold, transposed=False)
        mantissas = self.rng.integers(32768, 65536, N)
        scales = self.place(row_major(1, N, config, 4), (mantissas | 26 << 16).astype(np.uint32)[None, :])
        scale = self.regions.take("scale", N, 1)
        emitter.load_scales(scales.address, N, scale)
        result = self.regions.take("left", M, N)
        out = self.regions.take("out", M, N)
        rounding = Stochastic((0x1234_5678, 0x9ABC_DEF0), 1000, N, 1)
        int8 = Int8(scale, rounding=rounding)
        emitter.compute(
            M, N, segments, fold=fold, shift=3, out=out, left_result=result, int8=int8, stat_slot=1, stat_clear=True, note="chained"
        )
        right = self.rng.integers(-8, 8, (N, N), dtype=np.int8)
        region = self.regions.take("right", N, N)
        emitter.load(self.place(int_layout(N, N, 4, config), right), region, note="INT4")
        segment = Segment(result, region, N)
        other = self.regions.take("left", M, N)
        acc = self.regions.take("acc", M, N)
        int32_out = self.regions.take("out", M, 4 * N)
        emitter.compute(M, N, (segment,), acc=acc, acc_write=True, note="first sum")
        emitter.compute(M, N, (segment,), out=int32_out, acc=acc, acc_read=True, note="second sum")
        emitter.compute(
            M, N, (segment,), int8=Int8(Requantization(40000, 23)), left_result=other, stat_slot=2, stat_clear=True, note="on chip only"
        )
        square = None
        if config.cols >= config.bus_bytes:
            n = min(config.cols, config.banks) + 1
            values, left, beside = self.int8(n, n), self.regions.take("left", n, n), self.regions.take("right", n, n)
            emitter.load_both(self.place(row_major(n, n, config), values), left, beside)
            square = self.regions.take("out", n, 4 * n)
            emitter.compute(n, n, (Segment(left, beside, n),), out=square, note="square")
        first = self.size
        if square:
            emitter.store(self.place(row_major(n, n, config, 4)), square, note="square")
        emitter.store(self.place(row_major(M, N, config)), out, note="straight")
        emitter.store(self.place(row_major(N, M, config)), out, transpose=True, note="transposed")
        emitter.store(self.place(row_major(M, N, config, 4)), int32_out, note="INT32")
        emitter.store_stats(self.place(row_major(1, 2 * STAT_BYTES, config)).address, 1, 2)
        return Example(emitter.finish(), self.address, np.concatenate(self.image), (self.address + first, self.size - first))
