"""Random small products, many per list, each compared with numpy: what `products.ProductSoak` runs.

Every product draws its shape, fold, operand orders, chain and shift, whether it adds to the accumulate buffer, and its kind of result:
INT32, INT8 rounded half even or stochastically, with one scale, one per row or column, or one that the device sets from a measured maximum,
as it may set the chain's shift; stored straight or transposed. Operands hold every int8, -128 included, or every INT4, two to a byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loralith.compiler.schedules.emit import Emitter, Exponent, Int8, Segment, Stochastic
from loralith.compiler.storage.layout import MatrixLayout, fold_right, int_layout, row_major
from loralith.compiler.storage.regions import Region, rows_needed
from loralith.device.device import Device
from loralith.spec.numerics import MANTISSA_MAX, MANTISSA_MIN, Q8_MAX, SHIFT_MAX, Requantization, hash32

__all__ = ["BATCH", "Mismatch", "Soak"]

BATCH = 200
"""Products of a list."""
LONGEST_K = 40
LARGEST_SHIFT = 6


@dataclass(frozen=True)
class Mismatch:
    """A product that came out wrong: its number in the soak, what it was, and the first wrong element."""

    product: int
    what: str
    row: int
    column: int
    expected: int
    found: int


@dataclass(frozen=True)
class _Expected:
    what: str
    layout: MatrixLayout
    values: np.ndarray  # as stored: [N, M] where the store transposed it


class Soak:
    """Runs batches of random products on a device. The same seed gives the same products on every device.

    Attributes: `done` products so far; `lists` run so far.
    """

    def __init__(self, device: Device, seed: int) -> None:
        self.device, self.rng = device, np.random.default_rng(seed)
        self.done = self.lists = 0
        self._next: dict[str, int] = dict.fromkeys(("left", "right", "out", "acc", "scale"), 0)

    def batch(self, count: int, timeout: float = 60.0) -> Mismatch | None:
        """Run `count` products as one list; the first wrong one, or None. Raises what `Device.run` raises."""
        self._emitter = Emitter(self.device.config)
        self._image: list[np.ndarray] = []
        self._size = 0
        with self.device.arena():
            self._base = self.device.alloc(count * self._most_bytes(), 4096)
            expected = [self._product() for _ in range(count)]
            self.device.write(self._base, np.concatenate(self._image))
            self.device.run(self._emitter.finish(), timeout)
            memory = self.device.read(self._base, self._size)
        self.lists += 1
        for item in expected:
            start = item.layout.address - self._base
            found = item.layout.unpack(memory[start : start + item.layout.nbytes], item.values.dtype)
            if not np.array_equal(found, item.values):
                row, column = map(int, np.argwhere(found != item.values)[0])
                return Mismatch(self.done, item.what, row, column, int(item.values[row, column]), int(found[row, column]))
            self.done += 1
        return None

    def _most_bytes(self) -> int:
        config = self.device.config
        W = config.bus_bytes
        M, N = 3 * config.rows, 3 * config.cols
        return 3 * (LONGEST_K + W) * (M + N + 2 * W) + M * (4 * N + W) + N * (M + W) + 4 * max(M, N) + W

    def _product(self) -> _Expected:
        rng, config = self.rng, self.device.config
        fold = int(rng.choice(config.folds))
        M = int(rng.integers(1, 3 * config.rows))
        N = int(rng.integers(1, 3 * (config.cols // fold) + 1))
        chained = bool(rng.random() < 0.3)
        segments, sums = [], []
        for _ in range(1 + chained):
            segment, exact = self._segment(M, N, fold)
            segments.append(segment)
            sums.append(exact)
        shift = int(rng.integers(0, LARGEST_SHIFT)) if chained else 0
        exponent, exact_scale, left_shift = None, None, shift
        if rng.random() < 0.3:
            exponent, mantissa, t = self._measured(M, N, segments[0], sums[0], fold, most=shift if chained else SHIFT_MAX)
            if chained:
                left_shift = shift - (exponent.high - t if exponent.up else t - exponent.low)
            else:
                exact_scale = Requantization(mantissa, t)
        total = sums[0] if not chained else (sums[0] << left_shift) + sums[1]
        acc = None
        if rng.random() < 0.2:
            acc = self._region("acc", M, N)
            earlier, exact = self._segment(M, N, fold)
            self._emitter.compute(M, N, (earlier,), fold=fold, acc=acc, acc_write=True)
            total = total + exact
        kind = ("INT32", "INT8", "stochastic")[rng.integers(1 if exact_scale else 0, 3)]
        transposed = kind != "INT32" and bool(rng.random() < 0.5)
        values = total.astype(np.int32)
        int8 = None
        if kind != "INT32":
            int8, values = self._requantized(total, kind == "stochastic", exact_scale)
        values = np.ascontiguousarray(values.T if transposed else values)
        out = self._region("out", M, values.itemsize * N)
        lengths = ",".join(str(s.k) for s in segments)
        what = f"{M} x {N} x {lengths}, fold {fold}, shift {shift}, {kind}"
        if int8 is not None and isinstance(int8.scale, Region):
            what += f" per {'row' if int8.per_row else 'column'}"
        what += ", added" * (acc is not None) + ", transposed" * transposed + ", shift set by the device" * (exponent is not None)
        options = {"fold": fold, "shift": shift, "out": out, "int8": int8, "exponent": exponent}
        self._emitter.compute(M, N, tuple(segments), **options, acc=acc, acc_read=acc is not None)
        layout = self._place(row_major(values.shape[0], values.shape[1], config, values.itemsize), None)
        self._emitter.store(layout, out, transpose=transposed)
        return _Expected(what, layout, values)

    def _measured(self, M: int, N: int, segment: Segment, exact: np.ndarray, fold: int, most: int) -> tuple[Exponent, int, int]:
        """A product that is only measured; bounds near what it gives, at most ``most`` apart, its mantissa, and the t that it gives."""
        rng = self.rng
        mantissa = int(rng.integers(MANTISSA_MIN, MANTISSA_MAX + 1))
        slot = int(rng.integers(self.device.config.stat_slots))
        int8 = Int8(Requantization(mantissa, 0))
        self._emitter.compute(M, N, (segment,), fold=fold, int8=int8, stat_slot=slot, stat_clear=True)
        largest, t = int(np.abs(exact).max()) * mantissa, 0
        while largest > Q8_MAX * 2**t:
            t += 1
        low = int(np.clip(t + rng.integers(-5, 3), 0, SHIFT_MAX))
        high = int(min(low + rng.integers(0, most + 1), SHIFT_MAX))
        return Exponent(slot, low, high, up=bool(rng.random() < 0.5)), mantissa, min(max(t, low), high)

    def _segment(self, M: int, N: int, fold: int) -> tuple[Segment, np.ndarray]:
        """Random operands, loaded, and their exact product (int64)."""
        rng, config = self.rng, self.device.config
        K = int(rng.integers(1, LONGEST_K + 1))
        left_bits, right_bits = (int(rng.choice([8, 8, 4])) for _ in range(2))
        left, right = self._integers(left_bits, M, K), self._integers(right_bits, K, N)
        region = self._region("left", M, K)
        if rng.random() < 0.5:
            self._emitter.load(self._place(int_layout(M, K, left_bits, config), left), region, transpose=True)
        else:
            # Past K the array may meet anything on this side: the right operand holds zeros there.
            self._emitter.load(self._place(int_layout(K, M, left_bits, config), np.ascontiguousarray(left.T)), region)
        if fold == 1 and rng.random() < 0.5:
            packed, transposed = np.ascontiguousarray(right.T), True
        else:
            packed, transposed = fold_right(right, fold, config) if fold > 1 else right, False
        lanes, seq = packed.shape if transposed else packed.shape[::-1]
        other = self._region("right", lanes, seq)
        layout = int_layout(packed.shape[0], packed.shape[1], right_bits, config)
        self._emitter.load(self._place(layout, packed), other, transpose=transposed)
        return Segment(region, other, K), left.astype(np.int64) @ right.astype(np.int64)

    def _integers(self, bits: int, *shape: int) -> np.ndarray:
        """Any int8 of so many bits."""
        end = 1 << (bits - 1)
        return self.rng.integers(-end, end, shape, dtype=np.int8)

    def _requantized(self, total: np.ndarray, stochastic: bool, exact: Requantization | None = None) -> tuple[Int8, np.ndarray]:
        """An INT8 result and its values; with ``exact`` the device finds that scale by itself, and is given another shift."""
        rng = self.rng
        M, N = total.shape
        most = max(1, int(np.abs(total).max()))
        entries = int(rng.choice([1, 1, M, N]))
        per_row = entries == M > 1
        drawn = [Requantization.from_ratio(Q8_MAX / most * float(rng.uniform(0.5, 1.5))) for _ in range(entries)]
        if rng.random() < 0.25:  # a power of two at which some sum is a tie
            drawn = [Requantization(MANTISSA_MIN, _tie(total) or scale.shift) for scale in drawn]
        if exact:
            drawn, entries, per_row = [exact], 1, False
        shape = (M, 1) if per_row else (1, -1)
        m = np.array([scale.mantissa for scale in drawn], np.int64).reshape(shape)
        n = np.array([scale.shift for scale in drawn], np.int64).reshape(shape)
        scale = drawn[0] if entries == 1 else self._scales(drawn)
        if exact:
            scale = Requantization(exact.mantissa, int(rng.integers(SHIFT_MAX + 1)))
        p = total * m
        if not stochastic:
            half = np.where(n > 0, (1 << np.maximum(n - 1, 0)) - 1 + (p >> n & 1), 0)
            return Int8(scale, per_row), np.clip((p + half) >> n, -Q8_MAX, Q8_MAX).astype(np.int8)
        key0, key1, base, row_stride, col_stride = (int(v) for v in rng.integers(0, 1 << 32, 5))
        rows, columns = np.indices(total.shape).astype(np.uint64)
        index = (base + rows * np.uint64(row_stride) + columns * np.uint64(col_stride)) & np.uint64(0xFFFF_FFFF)
        draws = hash32((key0, key1), index).astype(np.int64)
        u = np.where(n <= 32, draws >> np.maximum(32 - n, 0), draws << np.maximum(n - 32, 0))
        rounding = Stochastic((key0, key1), base, row_stride, col_stride)
        return Int8(scale, per_row, rounding), np.clip((p + u) >> n, -Q8_MAX, Q8_MAX).astype(np.int8)

    def _scales(self, scales: list[Requantization]) -> Region:
        """A vector of scales, loaded."""
        values = np.array([scale.mantissa | scale.shift << 16 for scale in scales], np.uint32)
        region = self._region("scale", len(scales), 1)
        placed = self._place(row_major(1, len(scales), self.device.config, 4), values[None, :])
        self._emitter.load_scales(placed.address, len(scales), region)
        return region

    def _region(self, memory: str, lanes: int, seq: int) -> Region:
        """The next free rows, round and round: tokens order what comes back to the same rows."""
        rows, stride = rows_needed(memory, lanes, seq, self.device.config)
        if self._next[memory] + rows > self.device.config.depth(memory):
            self._next[memory] = 0
        base = self._next[memory]
        self._next[memory] += rows
        return Region(memory, base, rows, stride)

    def _place(self, layout: MatrixLayout, values: np.ndarray | None) -> MatrixLayout:
        """The layout at the next free address, with its values in the image (None: a result, filled with a pattern)."""
        self._image.append(np.full(layout.nbytes, 0xC3, np.uint8) if values is None else layout.pack(values))
        placed = layout.at(self._base + self._size)
        self._size += layout.nbytes
        return placed


def _tie(total: np.ndarray) -> int:
    """The shift, of mantissa 2**15, at which a sum lies halfway between two results that do not saturate; 0 where there is none."""
    sums = total[total != 0].astype(np.int64)
    halves = np.log2(sums & -sums).astype(np.int64) + 1
    fits = np.abs(sums) >> halves < Q8_MAX
    return 15 + int(halves[fits].max()) if fits.any() else 0
