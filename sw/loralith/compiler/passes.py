"""The forward and the backward pass of a LoRA layer as commands: H and Y; dH and dX.

Both are the same *pass* with other operands:

    forward    left X [T, I]   base W (o by i, loaded transposed)   skinny A^T, giving H    adapter B^T   output Y [T, O]
    backward   left dY [T, O]  base W (o by i, loaded natural)      skinny B, giving dH     adapter A     output dX [T, I]

A block of left is loaded once and serves the skinny product and the output. The skinny result goes to the left scratchpad, as left
operand of the adapter's segment of the output, and to DRAM, as right operand of a gradient (`compiler/gradient.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from loralith.compiler.costs import COMPUTE_CYCLES, READ_LATENCY, load_cycles
from loralith.compiler.emit import Emitter, Exponent, Int8, Segment, Stochastic
from loralith.compiler.layout import MatrixLayout, int_layout, padded, row_major
from loralith.compiler.matmul import Turns, block_sizes, tile_cycles
from loralith.compiler.regions import MEMORIES, WHOLE, DoesNotFit, Regions, Window, rows_needed
from loralith.compiler.skinny import SkinnyShape, skinny_shape
from loralith.spec.commands import STAT_BYTES
from loralith.spec.config import PRESETS, Config
from loralith.spec.numerics import K_LIMIT, Requantization

__all__ = [
    "SKINNY_STATS_BYTES",
    "Pass",
    "PassPlan",
    "PassSteps",
    "compile_pass",
    "interleave",
    "pass_traffic",
    "plan_pass",
    "plan_passes",
]

SKINNY_SLOT = 0
"""The statistics slot of the skinny product's maximum and saturations."""
MEASURED_SLOT = 1
"""That of a pass before it that only measures; it follows in DRAM."""
SKINNY_STATS_BYTES = padded(STAT_BYTES, 64)


def presets_that(take: Callable[[Config], bool]) -> str:
    """Words for an error: the presets that would do."""
    found = [preset.name for preset in PRESETS.values() if take(preset)]
    return f"these presets take it: {', '.join(found)}" if found else "no preset takes it; a smaller rank or fewer columns need less"


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
    T: int, K: int, N: int, rank: int, config: Config, size: int = 4, window: Window = WHOLE, count: int = 1, weight_bits: int = 8
) -> tuple[PassPlan, ...]:
    """The `count` cheapest block sizes by a plain count of bus words, array cycles and commands; an output element has `size` bytes.

    With ``weight_bits`` 4 a bus word holds twice as many elements of W, and its blocks begin at bus words.

    Raises DoesNotFit, with a preset that takes the pass, if any.
    """
    plans = _fitting_plans(T, K, N, rank, config, size, window, weight_bits)
    if not plans:
        what = f"no block of a LoRA pass with T={T}, K={K}, N={N}, r={rank} fits the scratchpads of {config.name!r}"
        raise DoesNotFit(f"{what}; {presets_that(lambda other: bool(_fitting_plans(T, K, N, rank, other, size, window, weight_bits)))}")
    # Among equals, blocks of the base that stay longer: they leave other loads room.
    return tuple(plan for _, plan in sorted(plans, key=lambda entry: (entry[0], -entry[1].base_slots))[:count])


def _fitting_plans(
    T: int, K: int, N: int, rank: int, config: Config, size: int, window: Window, weight_bits: int
) -> list[tuple[float, PassPlan]]:
    """(cost, block sizes) of everything that fits."""
    skinny = skinny_shape(rank, config)
    # Elements of W in a bus word: along k forward, along n backward.
    W = config.bus_bytes * 8 // weight_bits
    step = max(config.cols, W)
    limits = {memory: window.size(config.depth(memory)) for memory in MEMORIES}
    plans: list[tuple[float, PassPlan]] = []
    for k in block_sizes(K, W):
        kb = -(-K // k)
        if kb > 64:
            continue
        for n, m in itertools.product(block_sizes(N, step), block_sizes(T, max(config.rows, config.bus_bytes))):
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


def plan_pass(T: int, K: int, N: int, rank: int, config: Config, size: int = 4, window: Window = WHOLE, weight_bits: int = 8) -> PassPlan:
    """The first of `plan_passes`."""
    return plan_passes(T, K, N, rank, config, size, window, weight_bits=weight_bits)[0]


def _pass_cost(plan: PassPlan, T: int, K: int, N: int, skinny: SkinnyShape, config: Config, size: int) -> float:
    """Cycles by a plain count: the longer of bus and array, and a part of the first load and the last store."""
    W = config.bus_bytes
    m, n, k = plan.m, plan.n, plan.k
    tb, nb, kb = -(-T // m), -(-N // n), -(-K // k)
    left_loads = tb * kb * (1 if plan.left_slots >= kb else nb + 1)
    base_loads = nb * kb * (1 if plan.base_slots >= nb * kb else tb)
    reads = left_loads * load_cycles(m, k, config)
    # Forward, W is read with rows along k, backward with rows along n: charge the dearer.
    reads += base_loads * max(load_cycles(n, k, config), load_cycles(k, n, config))
    out = T * padded(size * N, W) // W
    column = max(k + skinny.width // kb, config.cols)
    blocks = tb * nb * kb
    array = max(-(-m // config.rows) * -(-n // config.cols) * column, COMPUTE_CYCLES) * blocks
    skinny_array = kb * max(-(-m // config.rows) * tile_cycles(k, skinny.width, skinny.fold, config), COMPUTE_CYCLES)
    array += tb * skinny_array
    # The skinny product runs through a block of left as fast as it comes, unless that was loaded under the outputs of the block before.
    early = min(1.0, max(0, plan.left_slots - kb) / kb)
    exposed = tb * (1 - early) * max(0, kb * load_cycles(m, k, config) - skinny_array)
    # A block's load must be through while the blocks before it are computed.
    block = max(-(-m // config.rows) * -(-n // config.cols) * column, COMPUTE_CYCLES)
    if plan.base_slots < nb * kb:
        wait = READ_LATENCY + max(load_cycles(n, k, config), load_cycles(k, n, config)) - (plan.base_slots - 1) * block
        exposed += blocks * max(0, wait)
    # The first block's load and the last one's store have little to hide behind.
    ends = kb * load_cycles(m, k, config) + load_cycles(n, k, config) + size * m * n // W
    return max(reads, array + exposed, out) + 0.1 * min(reads, array) + 0.5 * ends


def pass_traffic(
    T: int,
    K: int,
    N: int,
    rank: int,
    config: Config,
    *,
    output: bool = True,
    measured: bool = True,
    weight_bits: int = 8,
) -> tuple[int, int]:
    """About how many bytes of operands a pass of its own list reads, and how many it writes; commands are not counted.

    ``output`` False: the skinny product alone. ``measured``: a list that measures it runs before.
    """
    skinny, plan = skinny_shape(rank, config), plan_pass(T, K, N, rank, config, weight_bits=weight_bits)
    tb, nb, kb = -(-T // plan.m), -(-N // plan.n), -(-K // plan.k)
    left, right = row_major(T, K, config).nbytes, skinny.right(K, config).nbytes * (1 if plan.skinny_slots >= kb else tb)
    read, written = left + right, skinny.packed(T, config).nbytes
    if measured:
        read += left + right
    if output:
        read += 0 if plan.left_slots >= kb else left * nb
        read += int_layout(K, N, weight_bits, config).nbytes * (1 if plan.base_slots >= nb * kb else tb)
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
        weight_bits = 4 if work.base.packed4 else 8
        self.plan = plan = plan or plan_pass(self.T, self.K, self.N, rank, config, work.output_bytes, window, weight_bits)
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
        if self.measures_for_device:
            assert work.requantization is not None
            int8 = Int8(work.requantization)
        elif not measure:
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
                stat_slot=(MEASURED_SLOT if self.measures_for_device else SKINNY_SLOT) if last else None,
                stat_clear=i == 0,
                exponent=work.exponent if last and not measure else None,
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
                if not self.measures_for_device:  # whose slot is stored with that of the pass that it is for
                    self.emitter.store_stats(self.work.stats, SKINNY_SLOT, 2 if self.work.exponent else 1, note="skinny statistics")
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
