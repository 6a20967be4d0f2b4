"""LOAD, COMPUTE and STORE of the reference device against plain formulas on the operands themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from loralith.compiler.proof.checker import check
from loralith.compiler.schedules.emit import Emitter, Int8, Segment, Stochastic
from loralith.compiler.storage.layout import MatrixLayout, fold_right, padded, row_major
from loralith.compiler.storage.regions import Region, Regions
from loralith.device import open_device
from loralith.device.arithmetic import requantize_array
from loralith.spec.commands import STAT_BYTES
from loralith.spec.config import PRESETS, Config
from loralith.spec.numerics import Requantization, hash32, hash_key, requantize

CONFIGS = ["tiny", "ecp5", "base"]
SCALE = Requantization(40_000, 24)


@dataclass
class Bench:
    """A device, and the list that is being built for it."""

    config: Config

    def __post_init__(self) -> None:
        self.device = open_device("reference", self.config)
        self.emitter, self.regions = Emitter(self.config), Regions(self.config)

    def place(self, values: np.ndarray) -> MatrixLayout:
        """Put a matrix into device memory, rows padded to bus words with bytes that must never count."""
        rows, cols = values.shape
        layout = row_major(rows, cols, self.config, values.dtype.itemsize)
        image = np.full((layout.rows, layout.stride), 0x5A, np.uint8)
        image[:, : layout.row_bytes] = np.ascontiguousarray(values).view(np.uint8)
        layout = layout.at(self.device.alloc(layout.nbytes))
        self.device.write(layout.address, image)
        return layout

    def left(self, values: np.ndarray, *, natural: bool = False) -> Region:
        """Load a left operand [M, K]; `natural`: from a copy that lies [K, M] in DRAM."""
        M, K = values.shape
        region = self.regions.take("left", padded(M, self.config.rows), padded(K, self.config.banks))
        pad = -K % self.config.max_fold if natural else 0
        self.emitter.load(self.place(values.T if natural else values), region, transpose=not natural, pad_rows=pad)
        return region

    def right(self, values: np.ndarray, fold: int = 1) -> Region:
        """Load a right operand [K, N]."""
        image = fold_right(values, fold, self.config)
        region = self.regions.take("right", image.shape[1], image.shape[0])
        self.emitter.load(self.place(image), region)
        return region

    def out(self, M: int, N: int, itemsize: int = 1) -> Region:
        return self.regions.take("out", M, N * itemsize)

    def result(self, region: Region, M: int, N: int, dtype: type = np.int8, *, transpose: bool = False) -> np.ndarray:
        """Store an out region, run the list and read what it wrote."""
        rows, cols = (N, M) if transpose else (M, N)
        layout = row_major(rows, cols, self.config, np.dtype(dtype).itemsize)
        layout = layout.at(self.device.alloc(layout.nbytes))
        self.device.write(layout.address, np.full(layout.nbytes, 0x77, np.uint8))
        self.emitter.store(layout, region, transpose=transpose)
        self.run()
        image = self.device.read(layout.address, layout.nbytes)
        unused = image.reshape(rows, layout.stride)[:, layout.row_bytes :]
        assert (unused == 0x77).all(), "a store wrote past its rows"
        return layout.unpack(image, dtype)

    def run(self) -> None:
        commands = self.emitter.finish()
        check(commands, self.config, self.device.window)
        self.device.run(commands)


@pytest.fixture(params=CONFIGS)
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(PRESETS[request.param])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def int8(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-128, 128, shape).astype(np.int8)


def product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x.astype(np.int64) @ y.astype(np.int64)


def requantized(sums: np.ndarray, scale: Requantization) -> np.ndarray:
    return np.vectorize(lambda v: requantize(int(v), scale)[0])(sums).astype(np.int8)


@pytest.mark.parametrize("natural", [False, True])
@pytest.mark.parametrize(("name", "fold"), [(name, fold) for name in CONFIGS for fold in PRESETS[name].folds])
def test_fold_sums_every_slice_of_k(rng: np.random.Generator, name: str, fold: int, natural: bool) -> None:
    bench, config = Bench(PRESETS[name]), PRESETS[name]
    M, N, K = config.rows + 1, config.cols // fold + 1, 3 * config.banks + 1
    x, y = int8(rng, M, K), int8(rng, K, N)
    left, right, out = bench.left(x, natural=natural), bench.right(y, fold), bench.out(M, N, 4)
    bench.emitter.compute(M, N, (Segment(left, right, K),), fold=fold, out=out)
    assert (bench.result(out, M, N, np.int32) == product(x, y)).all()
    steps = 2 * -(-N // (config.cols // fold)) * -(-K // fold)
    assert bench.device.last_counters.busy == steps
    assert bench.device.last_counters.macs == M * N * K


@pytest.mark.parametrize("shift", [0, 5, 16])
def test_chain_shifts_the_first_segment(bench: Bench, rng: np.random.Generator, shift: int) -> None:
    M, N, K0, K1 = 2, 3, 1, 9
    x0, y0, x1, y1 = int8(rng, M, K0), int8(rng, K0, N), int8(rng, M, K1), int8(rng, K1, N)
    segments = Segment(bench.left(x0), bench.right(y0), K0), Segment(bench.left(x1), bench.right(y1), K1)
    out = bench.out(M, N, 4)
    bench.emitter.compute(M, N, segments, shift=shift, out=out)
    assert (bench.result(out, M, N, np.int32) == (product(x0, y0) << shift) + product(x1, y1)).all()


def test_sums_beyond_float32s_integers_are_exact() -> None:
    bench, K = Bench(PRESETS["base"]), 1501
    x, y, out = np.full((1, K), 127, np.int8), np.full((K, 1), 127, np.int8), bench.out(1, 1, 4)
    bench.emitter.compute(1, 1, (Segment(bench.left(x), bench.right(y), K),), out=out)
    assert bench.result(out, 1, 1, np.int32)[0, 0] == K * 127**2  # odd, and over 2**24


def test_accumulate_buffer_sums_over_commands(bench: Bench, rng: np.random.Generator) -> None:
    M, N, K = bench.config.rows + 2, 3, 5
    acc, out = bench.regions.take("acc", M, N), bench.out(M, N, 4)
    total = np.zeros((M, N), np.int64)
    for i in range(3):
        x, y = int8(rng, M, K), int8(rng, K, N)
        total += product(x, y)
        operands = (Segment(bench.left(x), bench.right(y), K),)
        bench.emitter.compute(M, N, operands, acc=acc, acc_read=i > 0, acc_write=i < 2, out=out if i == 2 else None)
    assert (bench.result(out, M, N, np.int32) == total).all()


def test_int8_rounds_half_to_even_and_counts_saturations(bench: Bench) -> None:
    # x = 1: the sum is y itself, times 2**15 / 2**16: half of it. The last column goes far over 127.
    y = np.array([[1, 3, -1, -3, 5, 127]], np.int8)
    x, K, N = np.full((1, 1), 1, np.int8), 1, y.shape[1]
    out = bench.out(1, N)
    halved = Int8(Requantization(32768, 16))
    bench.emitter.compute(1, N, (Segment(bench.left(x), bench.right(y), K),), int8=halved, out=out)
    assert bench.result(out, 1, N).tolist() == [[0, 2, 0, -2, 2, 64]]
    assert bench.device.last_counters.saturations == 0
    doubled = Int8(Requantization(32768, 14))
    again = Bench(bench.config)
    out = again.out(1, N)
    again.emitter.compute(1, N, (Segment(again.left(x), again.right(y), K),), int8=doubled, out=out)
    assert again.result(out, 1, N).tolist() == [[2, 6, -2, -6, 10, 127]]
    assert again.device.last_counters.saturations == 1


@pytest.mark.parametrize("per_row", [True, False])
def test_scale_vectors(bench: Bench, rng: np.random.Generator, per_row: bool) -> None:
    M, N, K = bench.config.rows + 1, bench.config.cols + 2, 20
    x, y = int8(rng, M, K), int8(rng, K, N)
    count = M if per_row else N
    scales = [Requantization(int(m), int(n)) for m, n in zip(rng.integers(32768, 65536, count), rng.integers(22, 28, count), strict=True)]
    entries = bench.place(np.array([[s.mantissa | s.shift << 16 for s in scales]], "<u4"))
    vector = bench.regions.take("scale", count, 1)
    bench.emitter.load_scales(entries.address, count, vector)
    out = bench.out(M, N)
    bench.emitter.compute(M, N, (Segment(bench.left(x), bench.right(y), K),), int8=Int8(vector, per_row=per_row), out=out)
    sums = product(x, y)
    expected = [[requantize(int(sums[m, n]), scales[m if per_row else n])[0] for n in range(N)] for m in range(M)]
    assert bench.result(out, M, N).tolist() == expected


@pytest.mark.parametrize("transpose", [False, True])
def test_stochastic_rounding_goes_by_the_logical_index(bench: Bench, rng: np.random.Generator, transpose: bool) -> None:
    M, N, K = bench.config.rows + 1, 5, 30
    x, y = int8(rng, M, K), int8(rng, K, N)
    key, base = hash_key(3, 1, 4), 2**32 - 7  # the index wraps
    strides = (1, M) if transpose else (N, 1)
    out = bench.out(M, N)
    rounding = Stochastic(key, base, *strides)
    bench.emitter.compute(M, N, (Segment(bench.left(x), bench.right(y), K),), int8=Int8(SCALE, rounding=rounding), out=out)
    sums = product(x, y)
    expected = [
        [requantize(int(sums[m, n]), SCALE, hash32(key, (base + m * strides[0] + n * strides[1]) % 2**32))[0] for n in range(N)]
        for m in range(M)
    ]
    assert bench.result(out, M, N).tolist() == expected
    assert expected != requantized(sums, SCALE).tolist()


def test_result_in_left_scratchpad_is_the_next_left_operand(bench: Bench, rng: np.random.Generator) -> None:
    M, N, K, P = bench.config.rows + 1, 4, 12, 3
    x, y, z = int8(rng, M, K), int8(rng, K, N), int8(rng, N, P)
    h, out = bench.regions.take("left", M, N), bench.out(M, P, 4)
    bench.emitter.compute(M, N, (Segment(bench.left(x), bench.right(y), K),), int8=Int8(SCALE), left_result=h)
    bench.emitter.compute(M, P, (Segment(h, bench.right(z), N),), out=out)
    assert (bench.result(out, M, P, np.int32) == product(requantized(product(x, y), SCALE), z)).all()


def test_transposed_store(bench: Bench, rng: np.random.Generator) -> None:
    M, N, K = 2 * bench.config.rows + 1, 7, 9
    x, y = int8(rng, M, K), int8(rng, K, N)
    out = bench.out(M, N)
    bench.emitter.compute(M, N, (Segment(bench.left(x), bench.right(y), K),), int8=Int8(SCALE), out=out)
    assert (bench.result(out, M, N, transpose=True) == requantized(product(x, y), SCALE).T).all()


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("transpose", [False, True])
def test_packed_store(bench: Bench, rng: np.random.Generator, width: int, transpose: bool) -> None:
    long, K = 2 * bench.config.rows + 3, 6
    M, N = (width, long) if transpose else (long, width)
    x, y = int8(rng, M, K), int8(rng, K, N)
    out = bench.out(M, N)
    bench.emitter.compute(M, N, (Segment(bench.left(x), bench.right(y), K),), int8=Int8(SCALE), out=out)
    address = bench.device.alloc(long * width + 1)
    bench.device.write(address, np.full(long * width + 1, 0x77, np.uint8))
    bench.emitter.store(MatrixLayout(address, long, width, width), out, transpose=transpose)
    bench.run()
    expected = requantized(product(x, y), SCALE)
    stored = bench.device.read(address, long * width + 1)
    assert (stored[:-1].view(np.int8).reshape(long, width) == (expected.T if transpose else expected)).all()
    assert stored[-1] == 0x77


def test_statistics_merge_until_cleared(bench: Bench, rng: np.random.Generator) -> None:
    def command(clear: bool) -> tuple[int, int]:
        x, y = int8(rng, 3, 8), int8(rng, 8, 4)
        operands = (Segment(bench.left(x), bench.right(y), 8),)
        bench.emitter.compute(3, 4, operands, int8=Int8(coarse), stat_slot=5, stat_clear=clear)
        sums = product(x, y)
        results = [requantize(int(v), coarse) for v in sums.flat]
        return max(r[1] for r in results), sum(r[2] for r in results)

    coarse = Requantization(32768, 20)
    command(True)
    (max_a, sat_a), (max_b, sat_b) = command(True), command(False)
    assert sat_a + sat_b > 0
    address = bench.device.alloc(3 * STAT_BYTES)
    bench.emitter.store_stats(address, 4, 3)
    bench.run()
    stored = bench.device.read(address, 3 * STAT_BYTES).view("<u8").reshape(3, 2)
    assert stored[1].tolist() == [max(max_a, max_b), sat_a + sat_b]
    assert not stored[[0, 2]].any()


def test_natural_load_fills_and_keeps_lanes_as_documented(bench: Bench) -> None:
    config = bench.config
    lanes, unit = config.cols, min(config.banks, config.cols)
    plane = bench.device.memories.right
    plane.cells[:] = 0x33
    region = bench.regions.take("right", lanes, 3)
    bench.emitter.load(bench.place(np.ones((2, 1), np.int8)), region, pad_rows=1)
    bench.run()
    block = plane.cells[:4]
    assert block[:3, 0].tolist() == [1, 1, 0]
    assert not block[:3, 1:unit].any()
    assert (block[:3, unit:] == 0x33).all()
    assert (block[3] == 0x33).all()


def test_transposed_load_fills_seq_and_keeps_lanes(bench: Bench) -> None:
    config = bench.config
    plane = bench.device.memories.left
    plane.cells[:] = 0x33
    region = bench.regions.take("left", 1, 2 * config.banks)
    bench.emitter.load(bench.place(np.ones((1, config.banks + 1), np.int8)), region, transpose=True)
    bench.run()
    assert plane.cells[: 2 * config.banks, 0].tolist() == [1] * (config.banks + 1) + [0] * (config.banks - 1)
    assert (plane.cells[:, 1:] == 0x33).all()


def test_requantize_array_is_the_definition(rng: np.random.Generator) -> None:
    shape = (64, 50)
    acc = rng.integers(-(2**31), 2**31, shape) >> rng.integers(0, 31, shape)
    mantissa, shift, h = rng.integers(32768, 65536, shape), rng.integers(0, 48, shape), rng.integers(0, 2**32, shape)
    for hashes in (None, h.astype(np.uint64)):
        q, p, saturated = requantize_array(acc, mantissa, shift, hashes)
        for i in np.ndindex(shape):
            scale = Requantization(int(mantissa[i]), int(shift[i]))
            expected = requantize(int(acc[i]), scale, None if hashes is None else int(h[i]))
            assert (int(q[i]), abs(int(p[i]))) == expected[:2]
            saturated -= expected[2]
        assert saturated == 0
