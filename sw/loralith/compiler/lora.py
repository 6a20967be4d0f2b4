"""A LoRA layer's training step as command lists: H and Y forward; dH, dX, dB and dA backward.

Forward and backward are the same *pass* with other operands (words of docs/theory.md):

    forward    left X [T, I]   base W (o by i, loaded transposed)   skinny A^T, giving H    adapter B^T   output Y [T, O]
    backward   left dY [T, O]  base W (o by i, loaded natural)      skinny B, giving dH     adapter A     output dX [T, I]

A block of left is loaded once and serves the skinny product and the output. The skinny result goes to the left scratchpad, as left
operand of the adapter's segment of the output, and to DRAM, as right operand of a gradient. Gradients dB = dY^T H and dA^T = X^T dH
load dY and X natural, so that tokens lie along k.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from loralith.compiler.emit import Emitter, Int8, Segment, Stochastic
from loralith.compiler.layout import MatrixLayout, fold_right, padded, row_major
from loralith.compiler.matmul import Turns, block_sizes, tile_cycles
from loralith.compiler.regions import MEMORIES, WHOLE, DoesNotFit, Region, Regions, Window, rows_needed
from loralith.spec.commands import STAT_BYTES
from loralith.spec.config import PRESETS, Config
from loralith.spec.numerics import K_LIMIT, Requantization

__all__ = [
    "Gradient",
    "GradientSteps",
    "Pass",
    "PassPlan",
    "PassSteps",
    "SkinnyShape",
    "compile_gradient",
    "compile_pass",
    "gradient_traffic",
    "interleave",
    "pass_traffic",
    "plan_gradient",
    "plan_pass",
    "plan_passes",
    "skinny_shape",
]

SKINNY_SLOT = 0
"""The statistics slot of the skinny product's maximum and saturations."""
LOAD_CYCLES, COMPUTE_CYCLES = 34, 28
"""Cycles that checking a command takes: shorter ones follow each other no faster."""
READ_LATENCY = 200
"""Cycles from a load's token to its first word, with other loads in between, that a schedule leaves room for."""
BURST_WORDS = 4
"""Words that the bus could move per burst, with as many bursts in flight as the read master keeps and answers after 100 cycles."""
SKINNY_STATS_BYTES = padded(STAT_BYTES, 64)


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
    # A folded word must be whole bus words, or rows of a packed store would not be rows of a load.
    fold = config.cols // width if width < config.cols and config.cols % config.bus_bytes == 0 else 1
    return SkinnyShape(rank, width, fold)


@dataclass(frozen=True)
class Pass:
    """One pass: what the commands need. Layouts have their addresses.

    Attributes:
        left: INT8 [T, K]. base: W, INT8, [N, K] where `base_transposed` (forward), else [K, N].
        skinny_right: the skinny product's right operand, `SkinnyShape.right` of K.
        adapter: INT8 [r, N]. output: INT32 [T, N], or INT8 with `output_scale`; None: the skinny product alone.
        skinny: where the skinny result goes, `SkinnyShape.packed` of T; None: it is only measured.
        base_first, shift: the chain of the output.
        requantization, stochastic: of the skinny result.
        stats: DRAM address of the skinny product's statistics slot.
        zeros: DRAM address of a bus word of zeros, at least C bytes.
    """

    left: MatrixLayout
    base: MatrixLayout
    base_transposed: bool
    skinny_right: MatrixLayout
    adapter: MatrixLayout | None
    output: MatrixLayout | None
    skinny: MatrixLayout | None
    base_first: bool
    shift: int
    requantization: Requantization | None
    stochastic: tuple[int, int] | None
    stats: int
    zeros: int
    output_scale: Requantization | None = None

    @property
    def output_bytes(self) -> int:
        """Bytes of one element of the output."""
        return 4 if self.output_scale is None else 1


@dataclass(frozen=True)
class PassPlan:
    """Block sizes of a pass: m tokens, n output columns, k of the reduction; how many blocks of each operand stay on chip."""

    m: int
    n: int
    k: int
    left_slots: int
    base_slots: int
    skinny_slots: int


def _pass_rows(plan: PassPlan, T: int, K: int, N: int, skinny: SkinnyShape, config: Config, size: int) -> dict[str, int]:
    """Rows that a pass's blocks take of each memory."""
    tb, kb = -(-T // plan.m), -(-K // plan.k)
    lanes = config.cols if skinny.fold > 1 else skinny.width
    skinny_turns = 2 if tb > 1 else 1
    tall = {memory: rows_needed(memory, plan.m, skinny.width, config)[0] for memory in ("left", "out")}
    return {
        "left": plan.left_slots * rows_needed("left", plan.m, plan.k, config)[0] + skinny_turns * tall["left"],
        "right": plan.base_slots * rows_needed("right", plan.n, plan.k, config)[0]
        + 2 * rows_needed("right", plan.n, skinny.width, config)[0]
        + plan.skinny_slots * rows_needed("right", lanes, -(-plan.k // skinny.fold), config)[0]
        + rows_needed("right", config.cols, 1, config)[0],
        "out": 2 * rows_needed("out", plan.m, size * plan.n, config)[0] + skinny_turns * tall["out"],
        "acc": rows_needed("acc", plan.m, max(plan.n, skinny.width), config)[0] if kb > 1 else 0,
    }


@lru_cache(maxsize=4096)
def plan_passes(
    T: int, K: int, N: int, rank: int, config: Config, size: int = 4, window: Window = WHOLE, count: int = 1
) -> tuple[PassPlan, ...]:
    """The `count` cheapest block sizes by a plain count of bus words, array cycles and commands; an output element has `size` bytes.

    Raises DoesNotFit, with a preset that takes the pass, if any.
    """
    plans = _fitting_plans(T, K, N, rank, config, size, window)
    if not plans:
        what = f"no block of a LoRA pass with T={T}, K={K}, N={N}, r={rank} fits the scratchpads of {config.name!r}"
        raise DoesNotFit(f"{what}; {presets_that(lambda other: bool(_fitting_plans(T, K, N, rank, other, size, window)))}")
    # Among equals, blocks of the base that stay longer: they leave other loads room.
    return tuple(plan for _, plan in sorted(plans, key=lambda entry: (entry[0], -entry[1].base_slots))[:count])


def presets_that(take: Callable[[Config], bool]) -> str:
    """Words for an error: the presets that would do."""
    found = [preset.name for preset in PRESETS.values() if take(preset)]
    return f"these presets take it: {', '.join(found)}" if found else "no preset takes it; a smaller rank or fewer columns need less"


def _fitting_plans(T: int, K: int, N: int, rank: int, config: Config, size: int, window: Window) -> list[tuple[float, PassPlan]]:
    """(cost, block sizes) of everything that fits."""
    skinny = skinny_shape(rank, config)
    W, step = config.bus_bytes, max(config.cols, config.bus_bytes)
    limits = {memory: window.size(config.depth(memory)) for memory in MEMORIES}
    plans: list[tuple[float, PassPlan]] = []
    for k in block_sizes(K, W):
        kb = -(-K // k)
        if kb > 64:
            continue
        for n, m in itertools.product(block_sizes(N, step), block_sizes(T, max(config.rows, W))):
            nb, tb = -(-N // n), -(-T // m)
            for left_slots, base_slots in itertools.product({1, 2, kb, 2 * kb, tb * kb}, {1, 2, 4, 8, nb * kb}):
                # Blocks that all stay, or at least two that take turns.
                if not min(2, tb * kb) <= left_slots <= tb * kb or not min(2, nb * kb) <= base_slots <= nb * kb:
                    continue
                for skinny_slots in dict.fromkeys((kb, min(kb, 4))):
                    plan = PassPlan(min(m, T), min(n, N), min(k, K), left_slots, base_slots, skinny_slots)
                    rows = _pass_rows(plan, T, K, N, skinny, config, size)
                    if all(rows[memory] <= limits[memory] for memory in rows):
                        break
                else:
                    continue
                plans.append((_pass_cost(plan, T, K, N, skinny, config, size), plan))
    return plans


def plan_pass(T: int, K: int, N: int, rank: int, config: Config, size: int = 4, window: Window = WHOLE) -> PassPlan:
    """The first of `plan_passes`."""
    return plan_passes(T, K, N, rank, config, size, window)[0]


def _load_cycles(rows: int, row_bytes: int, config: Config) -> int:
    """Bus cycles of a load. A burst of few words costs as much as one of BURST_WORDS: only so many are in flight."""
    return max(rows * max(-(-row_bytes // config.bus_bytes), BURST_WORDS), LOAD_CYCLES)


def _pass_cost(plan: PassPlan, T: int, K: int, N: int, skinny: SkinnyShape, config: Config, size: int) -> float:
    """Cycles by a plain count: the longer of bus and array, and a part of the first load and the last store."""
    W = config.bus_bytes
    m, n, k = plan.m, plan.n, plan.k
    tb, nb, kb = -(-T // m), -(-N // n), -(-K // k)
    left_loads = tb * kb * (1 if plan.left_slots >= kb else nb + 1)
    base_loads = nb * kb * (1 if plan.base_slots >= nb * kb else tb)
    reads = left_loads * _load_cycles(m, k, config)
    # Forward, W is read with rows along k, backward with rows along n: charge the dearer.
    reads += base_loads * max(_load_cycles(n, k, config), _load_cycles(k, n, config))
    out = T * padded(size * N, W) // W
    column = max(k + skinny.width // kb, config.cols)
    blocks = tb * nb * kb
    array = max(-(-m // config.rows) * -(-n // config.cols) * column, COMPUTE_CYCLES) * blocks
    skinny_array = kb * max(-(-m // config.rows) * tile_cycles(k, skinny.width, skinny.fold, config), COMPUTE_CYCLES)
    array += tb * skinny_array
    # The skinny product runs through a block of left as fast as it comes, unless that was loaded under the outputs of the block before.
    early = min(1.0, max(0, plan.left_slots - kb) / kb)
    exposed = tb * (1 - early) * max(0, kb * _load_cycles(m, k, config) - skinny_array)
    # A block's load must be through while the blocks before it are computed.
    block = max(-(-m // config.rows) * -(-n // config.cols) * column, COMPUTE_CYCLES)
    if plan.base_slots < nb * kb:
        wait = READ_LATENCY + max(_load_cycles(n, k, config), _load_cycles(k, n, config)) - (plan.base_slots - 1) * block
        exposed += blocks * max(0, wait)
    # The first block's load and the last one's store have little to hide behind.
    ends = kb * _load_cycles(m, k, config) + _load_cycles(n, k, config) + size * m * n // W
    return max(reads, array + exposed, out) + 0.1 * min(reads, array) + 0.5 * ends


def pass_traffic(T: int, K: int, N: int, rank: int, config: Config, *, output: bool = True, measured: bool = True) -> tuple[int, int]:
    """About how many bytes of operands a pass of its own list reads, and how many it writes; commands are not counted.

    ``output`` False: the skinny product alone. ``measured``: a list that measures it runs before.
    """
    skinny, plan = skinny_shape(rank, config), plan_pass(T, K, N, rank, config)
    tb, nb, kb = -(-T // plan.m), -(-N // plan.n), -(-K // plan.k)
    left, right = row_major(T, K, config).nbytes, skinny.right(K, config).nbytes * (1 if plan.skinny_slots >= kb else tb)
    read, written = left + right, skinny.packed(T, config).nbytes
    if measured:
        read += left + right
    if output:
        read += 0 if plan.left_slots >= kb else left * nb
        read += row_major(K, N, config).nbytes * (1 if plan.base_slots >= nb * kb else tb)
        read += row_major(rank, N, config).nbytes * (1 if nb <= 2 else tb)
        written += row_major(T, N, config, 4).nbytes
    return read, written


class PassSteps:
    """Emits a pass block by block, into its part of the memories."""

    def __init__(self, emitter: Emitter, work: Pass, rank: int, window: Window = WHOLE, plan: PassPlan | None = None) -> None:
        config = emitter.config
        for name, k in (("K", work.left.cols), ("T", work.left.rows)):
            if k > K_LIMIT:
                raise ValueError(f"{name} of a LoRA layer must be at most {K_LIMIT}, not {k}")
        self.emitter, self.work, self.rank, self.config = emitter, work, rank, config
        self.T, self.K = work.left.rows, work.left.cols
        self.N = work.base.rows if work.base_transposed else work.base.cols
        self.skinny = skinny_shape(rank, config)
        self.plan = plan = plan or plan_pass(self.T, self.K, self.N, rank, config, work.output_bytes, window)
        self.tb, self.nb, self.kb = -(-self.T // plan.m), -(-self.N // plan.n), -(-self.K // plan.k)
        regions = Regions(config, window)

        def turns(memory: str, lanes: int, seq: int, count: int) -> Turns:
            return Turns(regions.slots(memory, lanes, seq, count))

        several = 2 if self.tb > 1 else 1
        lanes = config.cols if self.skinny.fold > 1 else self.skinny.width
        self.left = turns("left", plan.m, plan.k, plan.left_slots)
        self.result = turns("left", plan.m, self.skinny.width, several)
        self.base = turns("right", plan.n, plan.k, plan.base_slots)
        self.adapter = turns("right", plan.n, self.skinny.width, 2)
        self.skinny_right = turns("right", lanes, -(-plan.k // self.skinny.fold), plan.skinny_slots)
        self.zero = turns("right", config.cols, 1, 1)
        self.out = turns("out", plan.m, work.output_bytes * plan.n, 2)
        self.skinny_out = turns("out", plan.m, self.skinny.width, several)
        self.acc = regions.take("acc", plan.m, max(plan.n, self.skinny.width)) if self.kb > 1 else None

    def tokens(self, i: int) -> tuple[int, int]:
        return i * self.plan.m, min(self.plan.m, self.T - i * self.plan.m)

    def depth(self, b: int) -> tuple[int, int]:
        return b * self.plan.k, min(self.plan.k, self.K - b * self.plan.k)

    def left_block(self, i: int, b: int):
        (t0, t), (k0, k) = self.tokens(i), self.depth(b)
        return self.left.get(
            (i, b), lambda to: self.emitter.load(self.work.left.block(t0, t, k0, k), to, transpose=True, note=f"left {i},{b}")
        )

    def skinny_block(self, b: int):
        k0, k = self.depth(b)
        fold, layout = self.skinny.fold, self.work.skinny_right
        block = layout.block(k0 // fold, -(-k // fold), 0, layout.cols)
        return self.skinny_right.get((0, b), lambda to: self.emitter.load(block, to, note=f"skinny right {b}"))

    def base_block(self, j: int, b: int):
        (n0, n), (k0, k) = self.columns(j), self.depth(b)
        transposed = self.work.base_transposed
        block = self.work.base.block(n0, n, k0, k) if transposed else self.work.base.block(k0, k, n0, n)
        return self.base.get((j, b), lambda to: self.emitter.load(block, to, transpose=transposed, note=f"base {j},{b}"))

    def columns(self, j: int) -> tuple[int, int]:
        return j * self.plan.n, min(self.plan.n, self.N - j * self.plan.n)

    def zero_block(self):
        zeros = MatrixLayout(self.work.zeros, 1, self.config.cols, self.config.bus_bytes)
        return self.zero.get((0, 0), lambda to: self.emitter.load(zeros, to, note="zeros"))

    def skinny_product(self, i: int):
        """H or dH of one token block; returns its region in the left scratchpad, None when it is only measured."""
        work, skinny = self.work, self.skinny
        t0, t = self.tokens(i)
        measure = work.skinny is None
        out = left_result = int8 = None
        if not measure:
            out, left_result = self.skinny_out.replace((i, 0)), self.result.replace((i, 0))
            assert work.requantization is not None
            rounding = Stochastic(work.stochastic, t0 * self.rank, self.rank, 1) if work.stochastic else None
            int8 = Int8(work.requantization, rounding=rounding)
        for b in range(self.kb):
            last = b == self.kb - 1
            self.emitter.compute(
                t,
                self.rank,
                (Segment(self.left_block(i, b), self.skinny_block(b), self.depth(b)[1]),),
                fold=skinny.fold,
                out=out if last else None,
                left_result=left_result if last else None,
                int8=int8 if last else None,
                acc=self.acc,
                acc_read=b > 0,
                acc_write=not last,
                stat_slot=SKINNY_SLOT if last else None,
                stat_clear=i == 0,
                note=f"skinny {i},{b}",
            )
        if not measure:
            assert work.skinny is not None
            assert out is not None
            self.emitter.store(work.skinny.block(t0, t, 0, work.skinny.cols), out, note=f"skinny {i}")
        return left_result

    def output(self, i: int, j: int, skinny_left) -> None:
        """One block of Y or dX: base segment over k, adapter segment, chained."""
        work = self.work
        factors = work.adapter
        assert factors is not None
        assert work.output is not None
        (t0, t), (n0, n) = self.tokens(i), self.columns(j)
        out = self.out.replace((i, j))
        adapter_right = self.adapter.get((0, j), lambda to: self.emitter.load(factors.block(0, self.rank, n0, n), to, note=f"adapter {j}"))
        adapter = Segment(skinny_left, adapter_right, self.rank)
        for b in range(self.kb):
            last = b == self.kb - 1
            base = Segment(self.left_block(i, b), self.base_block(j, b), self.depth(b)[1])
            segments: tuple[Segment, ...]
            if work.base_first and last:
                segments = (base, adapter)
            elif work.base_first and work.shift:
                # Each part must be shifted; a second segment of zeros brings the shift.
                zero = self.zero_block()
                segments = (base, Segment(base.left, type(zero)(zero.memory, zero.base, zero.rows, 0), 1))
            elif not work.base_first and b == 0:
                segments = (adapter, base)
            else:
                segments = (base,)
            self.emitter.compute(
                t,
                n,
                segments,
                shift=work.shift if len(segments) > 1 else 0,
                out=out if last else None,
                int8=Int8(work.output_scale) if last and work.output_scale else None,
                acc=self.acc,
                acc_read=b > 0,
                acc_write=not last,
                note=f"output {i},{j},{b}",
            )
        self.emitter.store(work.output.block(t0, t, n0, n), out, note=f"output {i},{j}")

    @property
    def units(self) -> int:
        """How often `steps` yields."""
        return self.tb * (1 + (self.nb if self.work.output is not None else 0))

    @property
    def prologue_units(self) -> int:
        """How often `prologue` yields."""
        left = min(self.kb, self.plan.left_slots)
        return left + min(left, self.plan.skinny_slots) + (min(self.kb, self.plan.base_slots) if self.work.output is not None else 0)

    def prologue(self) -> Iterator[None]:
        """Loads what the pass needs first, one block per step; the schedule before it can make room for them."""
        for b in range(min(self.kb, self.plan.left_slots)):
            self.left_block(0, b)
            yield
            if b < self.plan.skinny_slots:
                self.skinny_block(b)
                yield
        if self.work.output is not None:
            for b in range(min(self.kb, self.plan.base_slots)):
                self.base_block(0, b)
                yield

    def prefetch(self, i: int, share: range) -> None:
        """Loads blocks of the tokens after block i into regions that no block of i needs."""
        if i + 1 < self.tb:
            for b in share:
                if b < self.plan.left_slots - self.kb:
                    self.left_block(i + 1, b)

    def steps(self) -> Iterator[None]:
        """Emits the pass; yields after each block, where other work may come in between."""
        for i in range(self.tb):
            skinny_left = self.skinny_product(i)
            if i == self.tb - 1:
                self.emitter.store_stats(self.work.stats, SKINNY_SLOT, 1, note="skinny statistics")
            yield
            if self.work.output is not None:
                # Back and forth, so that the base block of the last column serves the next tokens too.
                order = range(self.nb) if i % 2 == 0 else reversed(range(self.nb))
                for n, j in enumerate(order):
                    self.prefetch(i, range(self.kb * n // self.nb, self.kb * (n + 1) // self.nb))
                    self.output(i, j, skinny_left)
                    yield


def compile_pass(emitter: Emitter, work: Pass, rank: int) -> None:
    """Adds a pass to a list. Raises DoesNotFit where no block fits, ValueError for a reduction over 131071."""
    for _ in PassSteps(emitter, work, rank).steps():
        pass


def interleave(main: PassSteps, *others: tuple[int, Iterator[None]]) -> None:
    """Emits a pass, and (units, steps) of other work spread between its blocks, whose bus it can use.

    The others must not depend on the pass, and have other parts of the memories.
    """
    done = [0] * len(others)
    for unit, _ in enumerate(main.steps(), start=1):
        for at, (units, steps) in enumerate(others):
            while done[at] * main.units < unit * units:
                next(steps, None)
                done[at] += 1


@dataclass(frozen=True)
class Gradient:
    """dB or dA^T: out [M, r] = left^T right, INT32, over T tokens.

    Attributes: left: INT8 [T, M] (dY or X). right: the skinny tensor (H or dH), `SkinnyShape.right` of T. out: INT32 [M, r].
    """

    left: MatrixLayout
    right: MatrixLayout
    out: MatrixLayout


@dataclass(frozen=True)
class GradientPlan:
    """Block sizes: m rows of the result, k tokens, and n columns that leave at a time."""

    m: int
    k: int
    n: int


def _gradient_rows(plan: GradientPlan, T: int, M: int, skinny: SkinnyShape, config: Config) -> dict[str, int]:
    mb, kb = -(-M // plan.m), -(-T // plan.k)
    lanes = config.cols if skinny.fold > 1 else skinny.width
    return {
        "left": (2 if mb * kb > 1 else 1) * rows_needed("left", plan.m, padded(plan.k, config.banks), config)[0],
        "right": (2 if kb > 1 else 1) * rows_needed("right", lanes, -(-plan.k // skinny.fold), config)[0],
        "out": (2 if mb > 1 or plan.n < skinny.rank else 1)
        * rows_needed("out", plan.m, 4 * min(padded(plan.n, config.cols), skinny.width), config)[0],
        "acc": rows_needed("acc", plan.m, skinny.width, config)[0] if kb > 1 else 0,
    }


@lru_cache(maxsize=4096)
def plan_gradient(T: int, M: int, rank: int, config: Config, window: Window = WHOLE) -> GradientPlan:
    """The cheapest block sizes of a gradient. Raises DoesNotFit."""
    skinny, W = skinny_shape(rank, config), config.bus_bytes
    best: tuple[int, GradientPlan] | None = None
    columns = [rank] if skinny.fold > 1 else [min(n, rank) for n in block_sizes(rank, max(config.cols, W // 4))]
    for k, n in itertools.product(block_sizes(T, W), columns):
        kb = -(-T // k)
        for m in block_sizes(M, max(config.rows, W)):
            plan, mb = GradientPlan(min(m, M), min(k, T), n), -(-M // m)
            need = _gradient_rows(plan, T, M, skinny, config)
            if any(rows > window.size(config.depth(memory)) for memory, rows in need.items()):
                continue
            left = _load_cycles(plan.k, plan.m, config)
            right = max(padded(k * skinny.width, W) // W, LOAD_CYCLES) * (1 if kb == 1 else mb)
            tiles = max(-(-m // config.rows) * tile_cycles(k, skinny.width, skinny.fold, config), COMPUTE_CYCLES)
            tiles += COMPUTE_CYCLES * (-(-rank // n) - 1)
            reads, array = (mb * left + right) * kb, mb * kb * tiles
            # Two blocks take turns: one's load must be through while the other is computed.
            exposed = mb * kb * max(0, READ_LATENCY + left + (right if mb > 1 and kb > 1 else 0) - tiles)
            cost = max(reads, array + exposed) + min(reads, array) + m * k // W
            if best is None or cost < best[0]:
                best = cost, plan
    if best is None:
        raise DoesNotFit(f"no block of a gradient with T={T}, M={M}, r={rank} fits the scratchpads of {config.name!r}")
    return best[1]


def gradient_traffic(T: int, M: int, rank: int, config: Config) -> tuple[int, int]:
    """Bytes of operands that a gradient reads, and bytes that it writes."""
    plan = plan_gradient(T, M, rank, config)
    mb, kb = -(-M // plan.m), -(-T // plan.k)
    right = skinny_shape(rank, config).right(T, config).nbytes * (1 if kb <= 2 else mb)
    return row_major(T, M, config).nbytes + right, row_major(M, rank, config, 4).nbytes


class GradientSteps:
    """Emits a gradient block by block."""

    def __init__(self, emitter: Emitter, work: Gradient, rank: int, name: str, window: Window = WHOLE) -> None:
        config = emitter.config
        self.emitter, self.config, self.work, self.rank, self.name = emitter, config, work, rank, name
        self.T, self.M = work.left.rows, work.left.cols
        self.skinny = skinny = skinny_shape(rank, config)
        self.plan = plan = plan_gradient(self.T, self.M, rank, config, window)
        self.mb, self.kb = mb, kb = -(-self.M // plan.m), -(-self.T // plan.k)
        regions = Regions(config, window)
        lanes = config.cols if skinny.fold > 1 else skinny.width
        self.left = Turns(regions.slots("left", plan.m, padded(plan.k, config.banks), 2 if mb * kb > 1 else 1))
        self.right = Turns(regions.slots("right", lanes, -(-plan.k // skinny.fold), 2 if kb > 1 else 1))
        several = 2 if mb > 1 or plan.n < rank else 1
        self.out = Turns(regions.slots("out", plan.m, 4 * min(padded(plan.n, config.cols), skinny.width), several))
        # A region of sums per part of the columns.
        parts = -(-rank // plan.n)
        self.acc = [regions.take("acc", plan.m, min(plan.n, skinny.width)) for _ in range(parts)] if kb > 1 else [None] * parts

    @property
    def units(self) -> int:
        """How often `steps` yields."""
        return self.mb * self.kb

    def steps(self) -> Iterator[None]:
        """Emits one block per step. After it come the loads of the next one, which else would stand behind those of the work in between."""
        blocks = list(itertools.product(range(self.mb), range(self.kb)))
        for (i, b), following in itertools.zip_longest(blocks, blocks[1:]):
            self._block(i, b)
            if following:
                self._operands(*following)
            yield

    def _operands(self, i: int, b: int) -> tuple[Region, Region]:
        work, plan, fold, emitter = self.work, self.plan, self.skinny.fold, self.emitter
        m0, m = i * plan.m, min(plan.m, self.M - i * plan.m)
        k0, k = b * plan.k, min(plan.k, self.T - b * plan.k)
        pad, steps = padded(k, fold) - k, -(-k // fold)
        left = self.left.get(
            (i, b),
            lambda to: emitter.load(work.left.block(k0, k, m0, m), to, pad_rows=pad, note=f"{self.name} left {i},{b}"),
        )
        right = self.right.get(
            (0, b),
            lambda to: emitter.load(work.right.block(k0 // fold, steps, 0, work.right.cols), to, note=f"{self.name} right {b}"),
        )
        return left, right

    def _block(self, i: int, b: int) -> None:
        work, plan, fold, emitter = self.work, self.plan, self.skinny.fold, self.emitter
        m0, m = i * plan.m, min(plan.m, self.M - i * plan.m)
        k = min(plan.k, self.T - b * plan.k)
        last = b == self.kb - 1
        left, right = self._operands(i, b)
        for part, n0 in enumerate(range(0, self.rank, plan.n)):
            n = min(plan.n, self.rank - n0)
            result = self.out.replace((i, part)) if last else None
            tile = Region("right", right.base + n0 // self.config.cols * right.stride, right.rows, right.stride)
            emitter.compute(
                m,
                n,
                (Segment(left, tile, k),),
                fold=fold,
                out=result,
                acc=self.acc[part],
                acc_read=b > 0,
                acc_write=not last,
                note=f"{self.name} {i},{b},{part}",
            )
            if result:
                emitter.store(work.out.block(m0, m, n0, n), result, note=f"{self.name} {i},{part}")


def compile_gradient(emitter: Emitter, work: Gradient, rank: int, name: str, window: Window = WHOLE) -> None:
    """Adds dB or dA^T to a list."""
    for _ in GradientSteps(emitter, work, rank, name, window).steps():
        pass
