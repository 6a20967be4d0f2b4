"""Each kind of command at the bus pins, in every form that it has: what it leaves in memory is what the reference device leaves."""

from collections.abc import Callable

import numpy as np
import pytest

from loralith.compiler.schedules.emit import Emitter, Int8, Segment, Stochastic
from loralith.compiler.storage.layout import MatrixLayout, fold_right, int_layout, row_major
from loralith.compiler.storage.regions import Region, Regions
from loralith.device.reference import ReferenceDevice
from loralith.spec.commands import STAT_BYTES
from loralith.spec.config import load_config
from loralith.spec.numerics import Requantization

pytestmark = pytest.mark.timeout(900)

CONFIG = load_config("tiny")
SCALE = Requantization(40_000, 21)
BYTES = 1 << 15


class Work:
    """A list in the making and its operands in a reference device's memory, after two pages for the list."""

    def __init__(self, base: int) -> None:
        self.device = ReferenceDevice(CONFIG, BYTES, base)
        self.device.alloc(8192, 4096)
        self.emitter, self.regions = Emitter(CONFIG), Regions(CONFIG)
        self.rng = np.random.default_rng(1)

    def draw(self, *shape: int) -> np.ndarray:
        return self.rng.integers(-128, 128, shape, np.int8)

    def place(self, values: np.ndarray, layout: MatrixLayout | None = None) -> MatrixLayout:
        layout = layout or row_major(values.shape[0], values.shape[1], CONFIG, values.dtype.itemsize)
        layout = layout.at(self.device.alloc(layout.nbytes + CONFIG.bus_bytes))
        self.device.write(layout.address, layout.pack(values))
        return layout

    def left(self, M: int, K: int, *, natural: bool = False) -> Region:
        region = self.regions.take("left", M, K)
        pad = -K % CONFIG.max_fold if natural else 0
        self.emitter.load(self.place(self.draw(K, M) if natural else self.draw(M, K)), region, transpose=not natural, pad_rows=pad)
        return region

    def right(self, K: int, N: int, fold: int = 1, *, transposed: bool = False) -> Region:
        values = self.draw(N, K) if transposed else fold_right(self.draw(K, N), fold, CONFIG)
        lanes, seq = values.shape if transposed else values.shape[::-1]
        region = self.regions.take("right", lanes, seq)
        self.emitter.load(self.place(values), region, transpose=transposed)
        return region

    def segment(self, M: int, N: int, K: int, fold: int = 1, *, natural: bool = False, transposed: bool = False) -> Segment:
        return Segment(self.left(M, K, natural=natural), self.right(K, N, fold, transposed=transposed), K)

    def scales(self, entries: int) -> Region:
        values = (self.rng.integers(32768, 65536, entries) | self.rng.integers(18, 23, entries) << 16).astype(np.uint32)
        region = self.regions.take("scale", entries, 1)
        self.emitter.load_scales(self.place(values[None, :]).address, entries, region)
        return region

    def out(self, M: int, N: int, itemsize: int = 1) -> Region:
        return self.regions.take("out", M, N * itemsize)

    def keep(self, M: int, N: int, region: Region, itemsize: int = 1, *, transposed: bool = False) -> None:
        """Store a result where a pattern of bytes shows every byte that is written."""
        rows, cols = (N, M) if transposed else (M, N)
        layout = row_major(rows, cols, CONFIG, itemsize)
        layout = layout.at(self.device.alloc(layout.nbytes))
        self.device.write(layout.address, np.full(layout.nbytes, 0xC3, np.uint8))
        self.emitter.store(layout, region, transpose=transposed)

    def product(self, M: int, N: int, segments: tuple[Segment, ...], *, int8: Int8 | None = None, transposed: bool = False, **how) -> None:
        itemsize = 1 if int8 else 4
        out = self.out(M, N, itemsize)
        self.emitter.compute(M, N, segments, out=out, int8=int8, **how)
        self.keep(M, N, out, itemsize, transposed=transposed)


def loads_natural(it: Work) -> None:
    for M, N, K in ((1, 1, 1), (4, 4, 8), (7, 9, 11)):
        it.product(M, N, (it.segment(M, N, K, natural=True),))


def loads_transposed(it: Work) -> None:
    for M, N, K in ((1, 1, 1), (4, 4, 8), (7, 9, 11)):
        it.product(M, N, (it.segment(M, N, K, transposed=True),))


def loads_packed(it: Work) -> None:
    for M, N, K in ((1, 1, 1), (4, 4, 16), (7, 17, 21)):
        left, right = it.regions.take("left", M, K), it.regions.take("right", N, K)
        turned = it.place(it.rng.integers(-8, 8, (M, K), np.int8), int_layout(M, K, 4, CONFIG))
        natural = it.place(it.rng.integers(-8, 8, (K, N), np.int8), int_layout(K, N, 4, CONFIG))
        it.emitter.load(turned, left, transpose=True)
        it.emitter.load(natural, right)
        it.product(M, N, (Segment(left, right, K),))


def loads_with_rows_of_zeros(it: Work) -> None:
    for fold in CONFIG.folds:
        it.product(5, 3, (it.segment(5, 3, 9, fold, natural=True),), fold=fold)


def loads_scales(it: Work) -> None:
    for per_row, M, N in ((True, 9, 3), (False, 3, 9)):
        it.product(M, N, (it.segment(M, N, 6),), int8=Int8(it.scales(M if per_row else N), per_row))


def computes_int32(it: Work) -> None:
    for M, N, K in ((1, 1, 1), (9, 6, 17), (2, 13, 40)):
        it.product(M, N, (it.segment(M, N, K),))


def computes_int8(it: Work) -> None:
    it.product(9, 6, (it.segment(9, 6, 17),), int8=Int8(SCALE))


def computes_with_stochastic_rounding(it: Work) -> None:
    it.product(9, 6, (it.segment(9, 6, 17),), int8=Int8(SCALE, rounding=Stochastic((0x1234_5678, 0x9ABC_DEF0), 0xFFFF_FFF0, 6, 1)))


def computes_folded(it: Work) -> None:
    for fold in CONFIG.folds:
        for N in (1, 3, 5):
            it.product(6, N, (it.segment(6, N, 13, fold),), fold=fold)


def computes_chained(it: Work) -> None:
    for shift in (0, 1, 7, 16):
        it.product(5, 6, (it.segment(5, 6, 1), it.segment(5, 6, 9)), shift=shift)


def computes_sums_over_blocks(it: Work) -> None:
    M, N = 6, 5
    acc = it.regions.take("acc", M, N)
    for i in range(3):
        it.emitter.compute(M, N, (it.segment(M, N, 7),), acc=acc, acc_read=i > 0, acc_write=True)
    it.product(M, N, (it.segment(M, N, 7),), acc=acc, acc_read=True)
    it.product(M, N, (it.segment(M, N, 7),), acc=acc, acc_read=True, int8=Int8(SCALE))


def computes_left_operands(it: Work) -> None:
    M, N = 6, 5
    result = it.regions.take("left", M, N)
    it.emitter.compute(M, N, (it.segment(M, N, 9),), left_result=result, int8=Int8(SCALE))
    it.product(M, 7, (Segment(result, it.right(N, 7), N),))


def computes_statistics(it: Work) -> None:
    for slot, clear in ((0, True), (1, True), (0, False)):
        it.product(5, 6, (it.segment(5, 6, 12),), int8=Int8(Requantization(65535, 20)), stat_slot=slot, stat_clear=clear)
    at = it.device.alloc(2 * STAT_BYTES)
    it.emitter.store_stats(at, 0, 2)


def stores_straight(it: Work) -> None:
    for M, N in ((1, 1), (4, 8), (9, 11)):
        it.product(M, N, (it.segment(M, N, 3),), int8=Int8(SCALE))


def stores_transposed(it: Work) -> None:
    for M, N in ((1, 1), (8, 4), (11, 9)):
        it.product(M, N, (it.segment(M, N, 3),), int8=Int8(SCALE), transposed=True)


def stores_packed(it: Work) -> None:
    width = 1
    while width < CONFIG.bus_bytes:
        out = it.out(9, width)
        it.emitter.compute(9, width, (it.segment(9, width, 5),), out=out, int8=Int8(SCALE))
        it.emitter.store(it.place(it.draw(9, width), MatrixLayout(0, 9, width, width)), out)
        width *= 2


def stores_statistics(it: Work) -> None:
    it.emitter.compute(1, 1, (it.segment(1, 1, 5),), int8=Int8(SCALE), stat_slot=3, stat_clear=True)
    at = it.device.alloc(4 * STAT_BYTES)
    it.device.write(at, np.full(4 * STAT_BYTES, 0xC3, np.uint8))
    it.emitter.store_stats(at, 3, 1)


KINDS: tuple[Callable[[Work], None], ...] = (
    *(loads_natural, loads_transposed, loads_packed, loads_with_rows_of_zeros, loads_scales),
    *(computes_int32, computes_int8, computes_with_stochastic_rounding, computes_folded, computes_chained),
    *(computes_sums_over_blocks, computes_left_operands, computes_statistics),
    *(stores_straight, stores_transposed, stores_packed, stores_statistics),
)


def test_every_kind_of_command(run_cases, save, to_program) -> None:
    programs = []
    for kind in KINDS:
        it = Work(1 << 32)
        kind(it)
        programs.append(save(to_program(it.device, it.emitter.finish(), BYTES), kind.__name__))
    run_cases("cases_lists", programs=programs)
