"""The forward and the backward pass of a LoRA layer as commands: H and Y; dH and dX.

Both are the same *pass* with other operands:

    forward    left X [T, I]   base W (o by i, loaded transposed)   skinny A^T, giving H    adapter B^T   output Y [T, O]
    backward   left dY [T, O]  base W (o by i, loaded natural)      skinny B, giving dH     adapter A     output dX [T, I]

A block of left is loaded once and serves the skinny product and the output. The skinny result goes to the left scratchpad, as left
operand of the adapter's segment of the output, and to DRAM, as right operand of a gradient (`compiler/schedules/gradient.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loralith.compiler.schedules.emit import Emitter, Exponent, Int8, Segment, Stochastic
from loralith.compiler.schedules.matmul import SlotCache
from loralith.compiler.schedules.pass_plan import PassPlan, plan_pass
from loralith.compiler.storage.layout import MatrixLayout, padded, skinny_shape
from loralith.compiler.storage.regions import FULL_WINDOW, Region, Regions, Window
from loralith.spec.commands import STAT_BYTES
from loralith.spec.numerics import K_LIMIT, Requantization

__all__ = ["SKINNY_STATS_BYTES", "Pass", "PassSteps", "compile_pass", "interleave"]

SKINNY_SLOT = 0
"""The statistics slot of the skinny product's maximum and saturations."""
MEASURED_SLOT = 1
"""That of a pass before it that only measures; it follows in DRAM."""
SKINNY_STATS_BYTES = padded(STAT_BYTES, 64)


@dataclass(frozen=True)
class Pass:
    """One pass: what the commands need. Layouts have their addresses.

    Attributes:
        left: INT8 [T, K]. base: W, INT8 or INT4 (`int_layout`), [N, K] where `base_transposed` (forward), else [K, N].
        skinny_right: the skinny product's right operand, `SkinnyShape.right` of K.
        adapter: INT8 [r, N]. output: INT32 [T, N], or INT8 with `output_scale`; None: the skinny product alone.
        skinny: where the skinny result goes, `SkinnyShape.packed` of T; None: it is only measured.
        base_first, shift: the chain of the output.
        requantization, stochastic: of the skinny result; the first of a skinny product that is only measured too, for its mantissa.
        stats: DRAM address of the skinny product's statistics slot.
        zeros: DRAM address of a bus word of zeros, at least C bytes.
        exponent: bounds within which the device sets the skinny result's scale and the chain's shift, of which `shift` is the largest; from
            the maximum in `MEASURED_SLOT`, which a pass before it in the list measured with the same mantissa. Both slots go to `stats`.
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
    exponent: Exponent | None = None

    @property
    def output_bytes(self) -> int:
        """Bytes of one element of the output."""
        return 4 if self.output_scale is None else 1


class PassSteps:
    """Emits a pass block by block, into its part of the memories."""

    def __init__(self, emitter: Emitter, work: Pass, rank: int, window: Window = FULL_WINDOW, plan: PassPlan | None = None) -> None:
        config = emitter.config
        for name, k in (("K", work.left.cols), ("T", work.left.rows)):
            if k > K_LIMIT:
                raise ValueError(f"{name} of a LoRA layer must be at most {K_LIMIT}, not {k}")
        self.emitter, self.work, self.rank, self.config = emitter, work, rank, config
        self.T, self.K = work.left.rows, work.left.cols
        self.N = work.base.rows if work.base_transposed else work.base.cols
        self.skinny = skinny_shape(rank, config)
        weight_bits = 4 if work.base.packed4 else 8
        self.plan = plan = plan or plan_pass(self.T, self.K, self.N, rank, config, work.output_bytes, window, weight_bits)
        self.token_blocks, self.column_blocks, self.depth_blocks = -(-self.T // plan.m), -(-self.N // plan.n), -(-self.K // plan.k)
        regions = Regions(config, window)

        def slot_cache(memory: str, lanes: int, seq: int, count: int) -> SlotCache:
            return SlotCache(regions.slots(memory, lanes, seq, count))

        buffers = 2 if self.token_blocks > 1 else 1
        lanes = config.cols if self.skinny.fold > 1 else plan.r
        self.left = slot_cache("left", plan.m, plan.k, plan.left_slots)
        self.result = slot_cache("left", plan.m, self.skinny.width, buffers)
        self.base = slot_cache("right", plan.n, plan.k, plan.base_slots)
        self.adapter = slot_cache("right", plan.n, self.skinny.width, 2)
        skinny_cache = slot_cache("right", lanes, -(-plan.k // self.skinny.fold), plan.skinny_slots)
        self.skinny_right = skinny_cache if plan.skinny_slots else self.base
        self.zero = slot_cache("right", config.cols, 1, 1)
        self.out = slot_cache("out", plan.m, work.output_bytes * plan.n, 2)
        self.skinny_out = slot_cache("out", plan.m, self.skinny.width, buffers)
        self.acc = regions.take("acc", plan.m, max(plan.n, plan.r)) if self.depth_blocks > 1 else None

    @property
    def measures_for_device(self) -> bool:
        """Whether this pass only measures, for one behind it in the list whose scales the device sets."""
        return self.work.skinny is None and self.work.requantization is not None

    def tokens(self, i: int) -> tuple[int, int]:
        return i * self.plan.m, min(self.plan.m, self.T - i * self.plan.m)

    def depth(self, b: int) -> tuple[int, int]:
        return b * self.plan.k, min(self.plan.k, self.K - b * self.plan.k)

    def left_block(self, i: int, b: int):
        (t0, t), (k0, k) = self.tokens(i), self.depth(b)
        return self.left.get(
            (i, b), lambda to: self.emitter.load(self.work.left.block(t0, t, k0, k), to, transpose=True, note=f"left {i},{b}")
        )

    def skinny_block(self, part: int, b: int):
        (k0, k), (n0, n) = self.depth(b), self.part(part)
        fold, layout = self.skinny.fold, self.work.skinny_right
        lanes = layout.cols if fold > 1 else min(n, layout.cols - n0)
        block = layout.block(k0 // fold, -(-k // fold), n0, lanes)
        # Keys before those of the base, whose regions it may share.
        return self.skinny_right.get((-1 - part, b), lambda to: self.emitter.load(block, to, note=f"skinny right {part},{b}"))

    def base_block(self, j: int, b: int):
        (n0, n), (k0, k) = self.columns(j), self.depth(b)
        transposed = self.work.base_transposed
        block = self.work.base.block(n0, n, k0, k) if transposed else self.work.base.block(k0, k, n0, n)
        return self.base.get((j, b), lambda to: self.emitter.load(block, to, transpose=transposed, note=f"base {j},{b}"))

    def part(self, part: int) -> tuple[int, int]:
        """First column of the skinny product's part, and how many it has."""
        return part * self.plan.r, min(self.plan.r, self.rank - part * self.plan.r)

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
        out = left_result = None
        if not measure:
            out, left_result = self.skinny_out.replace((i, 0)), self.result.replace((i, 0))
        # Back and forth, as the output's columns.
        parts = range(self.plan.skinny_parts(skinny))
        for n, part in enumerate(parts if i % 2 == 0 else reversed(parts)):
            n0, columns = self.part(part)
            int8 = None
            if work.requantization is not None:
                stochastic = work.stochastic if not measure else None
                rounding = Stochastic(stochastic, t0 * self.rank + n0, self.rank, 1) if stochastic else None
                int8 = Int8(work.requantization, rounding=rounding)
            for b in range(self.depth_blocks):
                last = b == self.depth_blocks - 1
                self.emitter.compute(
                    t,
                    columns,
                    (Segment(self.left_block(i, b), self.skinny_block(part, b), self.depth(b)[1]),),
                    fold=skinny.fold,
                    out=self._from_column(out, n0) if out and last else None,
                    left_result=self._from_column(left_result, n0) if left_result and last else None,
                    int8=int8 if last else None,
                    acc=self.acc,
                    acc_read=b > 0,
                    acc_write=not last,
                    stat_slot=(MEASURED_SLOT if self.measures_for_device else SKINNY_SLOT) if last else None,
                    stat_clear=i == 0 and n == 0,
                    exponent=work.exponent if last and not measure else None,
                    note=f"skinny {i},{part},{b}",
                )
        if not measure:
            assert work.skinny is not None
            assert out is not None
            self.emitter.store(work.skinny.block(t0, t, 0, work.skinny.cols), out, note=f"skinny {i}")
        return left_result

    def _from_column(self, region: Region, n: int) -> Region:
        """A result's region from its column n on, the first one of a row of banks."""
        return Region(region.memory, region.base + n // self.config.banks, region.rows, region.stride)

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
        for b in range(self.depth_blocks):
            last = b == self.depth_blocks - 1
            base = Segment(self.left_block(i, b), self.base_block(j, b), self.depth(b)[1])
            segments: tuple[Segment, ...]
            if work.base_first and last:
                segments = (base, adapter)
            elif work.base_first and (work.shift or work.exponent):
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
                exponent=work.exponent if len(segments) > 1 else None,
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
        return self.token_blocks * (1 + (self.column_blocks if self.work.output is not None else 0))

    @property
    def prologue_units(self) -> int:
        """How often `prologue` yields."""
        left, skinny = min(self.depth_blocks, self.plan.left_slots), self.plan.skinny_slots or self.plan.base_slots
        base = self.work.output is not None and self.plan.skinny_slots
        return left + min(left, skinny) + (min(self.depth_blocks, self.plan.base_slots) if base else 0)

    def prologue(self) -> Iterator[None]:
        """Loads what the pass needs first, one block per step; the schedule before it can interleave them."""
        for b in range(min(self.depth_blocks, self.plan.left_slots)):
            self.left_block(0, b)
            yield
            if b < (self.plan.skinny_slots or self.plan.base_slots):
                self.skinny_block(0, b)
                yield
        if self.work.output is not None and self.plan.skinny_slots:
            for b in range(min(self.depth_blocks, self.plan.base_slots)):
                self.base_block(0, b)
                yield

    def prefetch(self, i: int, share: range) -> None:
        """Loads blocks of the tokens after block i into regions that no block of i needs."""
        if i + 1 < self.token_blocks:
            for b in share:
                if b < self.plan.left_slots - self.depth_blocks:
                    self.left_block(i + 1, b)

    def steps(self) -> Iterator[None]:
        """Emits the pass; yields after each block, where other work may come in between."""
        for i in range(self.token_blocks):
            skinny_left = self.skinny_product(i)
            if i == self.token_blocks - 1:
                if not self.measures_for_device:  # whose slot is stored with that of the pass that it is for
                    self.emitter.store_stats(self.work.stats, SKINNY_SLOT, 2 if self.work.exponent else 1, note="skinny statistics")
            yield
            if self.work.output is not None:
                # Back and forth, so that the base block of the last column serves the next tokens too.
                order = range(self.column_blocks) if i % 2 == 0 else reversed(range(self.column_blocks))
                for n, j in enumerate(order):
                    self.prefetch(i, range(self.depth_blocks * n // self.column_blocks, self.depth_blocks * (n + 1) // self.column_blocks))
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
