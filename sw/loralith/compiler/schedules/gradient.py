"""dB and dA^T: the gradients of a LoRA layer, block by block.

dB = dY^T H and dA^T = X^T dH load dY and X natural, so that tokens lie along k.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from loralith.compiler.schedules.emit import Emitter, Segment
from loralith.compiler.schedules.matmul import SLOTS, SlotCache, block_sizes, tile_cycles
from loralith.compiler.schedules.pass_plan import COMPUTE_CYCLES, LOAD_CYCLES, READ_LATENCY, load_cycles
from loralith.compiler.storage.layout import MatrixLayout, SkinnyShape, padded, row_major, skinny_shape
from loralith.compiler.storage.regions import FULL_WINDOW, DoesNotFit, Region, Regions, Window, rows_needed
from loralith.spec.config import Config

__all__ = ["Gradient", "GradientPlan", "GradientSteps", "compile_gradient", "gradient_traffic", "plan_gradient"]


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
    """Block sizes: m rows of the result, k tokens, and n columns that leave at a time.

    With `reread_left` the left operand passes once for each n columns, of which alone the sums are kept.
    """

    m: int
    k: int
    n: int
    reread_left: bool = False


def _gradient_rows(plan: GradientPlan, T: int, M: int, skinny: SkinnyShape, config: Config) -> dict[str, int]:
    mb, kb = -(-M // plan.m), -(-T // plan.k)
    width = plan.n if plan.reread_left else skinny.width
    lanes = config.cols if skinny.fold > 1 else width
    return {
        "left": (2 if mb * kb > 1 else 1) * rows_needed("left", plan.m, padded(plan.k, config.banks), config)[0],
        "right": (2 if kb > 1 or plan.reread_left else 1) * rows_needed("right", lanes, -(-plan.k // skinny.fold), config)[0],
        "out": (2 if mb > 1 or plan.n < skinny.rank else 1)
        * rows_needed("out", plan.m, 4 * min(padded(plan.n, config.cols), skinny.width), config)[0],
        "acc": rows_needed("acc", plan.m, width, config)[0] if kb > 1 else 0,
    }


@lru_cache(maxsize=4096)
def plan_gradient(T: int, M: int, rank: int, config: Config, window: Window = FULL_WINDOW) -> GradientPlan:
    """The cheapest block sizes of a gradient. Raises DoesNotFit."""
    skinny, W = skinny_shape(rank, config), config.bus_bytes
    best: dict[bool, tuple[int, int, GradientPlan]] = {}  # by `reread_left`: cost, words read, plan
    columns = [rank] if skinny.fold > 1 else [min(n, rank) for n in block_sizes(rank, max(config.cols, W // 4))]
    for k, n in itertools.product(block_sizes(T, W), columns):
        # A part of the right operand's columns begins at a bus word.
        orders = (False, True) if n < rank and n % W == 0 else (False,)
        for m, reread_left in itertools.product(block_sizes(M, max(config.rows, W)), orders):
            plan = GradientPlan(min(m, M), min(k, T), n, reread_left)
            need = _gradient_rows(plan, T, M, skinny, config)
            if any(rows > window.size(config.depth(memory)) for memory, rows in need.items()):
                continue
            cost, reads = _gradient_cost(plan, T, M, skinny, config)
            if reread_left not in best or cost < best[reread_left][0]:
                best[reread_left] = cost, reads, plan
    if not best:
        raise DoesNotFit(f"no block of a gradient with T={T}, M={M}, r={rank} fits the scratchpads of {config.name!r}")
    # A gradient stands among loads of a pass: of the two orders the one that needs the bus less.
    return min(best.values(), key=lambda entry: entry[1])[2]


def _gradient_cost(plan: GradientPlan, T: int, M: int, skinny: SkinnyShape, config: Config) -> tuple[int, int]:
    """Cycles by a plain count, and the words among them that are read."""
    W, m, k = config.bus_bytes, plan.m, plan.k
    mb, kb, parts = -(-M // m), -(-T // k), -(-skinny.rank // plan.n)
    width, passes = (plan.n, parts) if plan.reread_left else (skinny.width, 1)
    left = load_cycles(k, m, config)
    right = load_cycles(k, width, config) if plan.reread_left else max(padded(k * width, W) // W, LOAD_CYCLES)
    tiles = max(-(-m // config.rows) * tile_cycles(k, width, skinny.fold, config), COMPUTE_CYCLES)
    tiles += COMPUTE_CYCLES * (parts // passes - 1)
    # How often a block of right is loaded: two stay on chip.
    times = 1 if kb <= (SLOTS if plan.reread_left else 1) else mb
    reads, array = passes * kb * (mb * left + right * times), passes * mb * kb * tiles
    # Two blocks are double-buffered: one is loaded while the other is computed. A right operand of all columns is charged dearly
    # where it is read more than once: smaller blocks that spare it leave more time for the loads of the pass.
    reread_words = right if plan.reread_left else right * times
    exposed = passes * mb * kb * max(0, READ_LATENCY + left + (reread_words if mb > 1 and kb > 1 else 0) - tiles)
    return max(reads, array + exposed) + min(reads, array) + m * k // W, reads


def gradient_traffic(T: int, M: int, rank: int, config: Config) -> tuple[int, int]:
    """Bytes of operands that a gradient reads, and bytes that it writes."""
    plan = plan_gradient(T, M, rank, config)
    mb, kb = -(-M // plan.m), -(-T // plan.k)
    right = skinny_shape(rank, config).right(T, config).nbytes * (1 if kb <= 2 else mb)
    left = row_major(T, M, config).nbytes * (-(-rank // plan.n) if plan.reread_left else 1)
    return left + right, row_major(M, rank, config, 4).nbytes


class GradientSteps:
    """Emits a gradient block by block."""

    def __init__(
        self, emitter: Emitter, work: Gradient, rank: int, name: str, window: Window = FULL_WINDOW, plan: GradientPlan | None = None
    ) -> None:
        config = emitter.config
        self.emitter, self.config, self.work, self.rank, self.name = emitter, config, work, rank, name
        self.T, self.M = work.left.rows, work.left.cols
        self.skinny = skinny = skinny_shape(rank, config)
        self.plan = plan = plan or plan_gradient(self.T, self.M, rank, config, window)
        self.mb, self.kb = mb, kb = -(-self.M // plan.m), -(-self.T // plan.k)
        regions = Regions(config, window)
        width = plan.n if plan.reread_left else skinny.width
        lanes = config.cols if skinny.fold > 1 else width
        self.left = SlotCache(regions.slots("left", plan.m, padded(plan.k, config.banks), 2 if mb * kb > 1 else 1))
        self.right = SlotCache(regions.slots("right", lanes, -(-plan.k // skinny.fold), 2 if kb > 1 or plan.reread_left else 1))
        several = 2 if mb > 1 or plan.n < rank else 1
        self.out = SlotCache(regions.slots("out", plan.m, 4 * min(padded(plan.n, config.cols), skinny.width), several))
        # A region of sums per part of the columns, or one for them all.
        self.parts = parts = -(-rank // plan.n)
        kept = 1 if plan.reread_left else parts
        self.acc = [regions.take("acc", plan.m, min(plan.n, skinny.width)) for _ in range(kept)] if kb > 1 else [None] * kept

    @property
    def units(self) -> int:
        """How often `steps` yields."""
        return self.mb * self.kb * (self.parts if self.plan.reread_left else 1)

    def steps(self) -> Iterator[None]:
        """Emits one block per step. After it come the loads of the next one, which else would stand behind those of the work in between."""
        passes = range(self.parts) if self.plan.reread_left else (None,)
        blocks = list(itertools.product(passes, range(self.mb), range(self.kb)))
        for block, following in zip(blocks, [*blocks[1:], None], strict=True):
            self._block(*block)
            if following:
                self._operands(*following)
            yield

    def _operands(self, only: int | None, i: int, b: int) -> tuple[Region, Region]:
        """Left and right of a block, of the part `only` of the columns or of all."""
        work, plan, fold, emitter = self.work, self.plan, self.skinny.fold, self.emitter
        m0, m = i * plan.m, min(plan.m, self.M - i * plan.m)
        k0, k = b * plan.k, min(plan.k, self.T - b * plan.k)
        pad, steps = padded(k, fold) - k, -(-k // fold)
        n0, n = (0, work.right.cols) if only is None else (only * plan.n, min(plan.n, work.right.cols - only * plan.n))
        left = self.left.get(
            (i, b),
            lambda to: emitter.load(work.left.block(k0, k, m0, m), to, pad_rows=pad, note=f"{self.name} left {i},{b}"),
        )
        right = self.right.get(
            (only or 0, b),
            lambda to: emitter.load(work.right.block(k0 // fold, steps, n0, n), to, note=f"{self.name} right {only or 0},{b}"),
        )
        return left, right

    def _block(self, only: int | None, i: int, b: int) -> None:
        work, plan, fold, emitter = self.work, self.plan, self.skinny.fold, self.emitter
        m0, m = i * plan.m, min(plan.m, self.M - i * plan.m)
        k = min(plan.k, self.T - b * plan.k)
        last = b == self.kb - 1
        left, right = self._operands(only, i, b)
        for part in range(self.parts) if only is None else (only,):
            n0 = part * plan.n
            n = min(plan.n, self.rank - n0)
            result = self.out.replace((i, part)) if last else None
            tile = Region("right", right.base + n0 // self.config.cols * right.stride, right.rows, right.stride) if only is None else right
            emitter.compute(
                m,
                n,
                (Segment(left, tile, k),),
                fold=fold,
                out=result,
                acc=self.acc[part if only is None else 0],
                acc_read=b > 0,
                acc_write=not last,
                note=f"{self.name} {i},{b},{part}",
            )
            if result:
                emitter.store(work.out.block(m0, m, n0, n), result, note=f"{self.name} {i},{part}")


def compile_gradient(emitter: Emitter, work: Gradient, rank: int, name: str, window: Window = FULL_WINDOW) -> None:
    """Adds dB or dA^T to a list."""
    for _ in GradientSteps(emitter, work, rank, name, window).steps():
        pass
