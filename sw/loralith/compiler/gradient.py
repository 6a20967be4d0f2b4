"""dB and dA^T: the gradients of a LoRA layer, block by block.

dB = dY^T H and dA^T = X^T dH load dY and X natural, so that tokens lie along k.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from loralith.compiler.costs import COMPUTE_CYCLES, LOAD_CYCLES, READ_LATENCY, load_cycles
from loralith.compiler.emit import Emitter, Segment
from loralith.compiler.layout import MatrixLayout, padded, row_major
from loralith.compiler.matmul import Turns, block_sizes, tile_cycles
from loralith.compiler.regions import WHOLE, DoesNotFit, Region, Regions, Window, rows_needed
from loralith.compiler.skinny import SkinnyShape, skinny_shape
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
            left = load_cycles(plan.k, plan.m, config)
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
