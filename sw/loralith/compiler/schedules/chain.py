"""Products of two chained segments, (left0 right0) 2^shift + left1 right1: two words of an operand, or a correction of low rank.

Both rights lie transposed, as [N, K]. Where they are the same matrix (`words`: the lefts are two words of one operand) a block of it
is loaded once for both. Otherwise the first segment is short and joins the first block of the second's reduction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from loralith.compiler.lists.relocatable import Relocatable
from loralith.compiler.schedules.emit import Emitter, Segment
from loralith.compiler.schedules.matmul import SLOTS, Blocks, MatmulPlan, SlotCache, block_order, block_sizes
from loralith.compiler.storage.layout import MatrixLayout, row_major
from loralith.compiler.storage.regions import FULL_WINDOW, DoesNotFit, Region, rows_needed
from loralith.compiler.tokens.order import LOOKAHEAD
from loralith.spec.config import Config
from loralith.spec.numerics import K_LIMIT

__all__ = ["Chain", "compile_chain", "plan_chain"]


@dataclass(frozen=True)
class Chain:
    """``plan`` of the second segment; ``K0``, the first one's length; ``words``: both read the same right operand, block by block;
    ``apart``: each block of K leaves as a result of its own, [blocks of K, M, N], for a sum that INT32 may not hold."""

    plan: MatmulPlan
    K0: int
    shift: int
    words: bool
    apart: bool

    @property
    def results(self) -> int:
        """How many results [M, N] leave, whose sum is the product."""
        return self.plan.blocks[2] if self.apart else 1

    def out(self, config: Config) -> MatrixLayout:
        """All results, one after the other."""
        return row_major(self.results * self.plan.M, self.plan.N, config, 4)


def _lengths(chain: Chain) -> tuple[int, int]:
    """The longest reductions of one command: (first segment, second)."""
    return chain.plan.k if chain.words else chain.K0, chain.plan.k


def _fits(chain: Chain, config: Config) -> bool:
    plan, (k0, k1) = chain.plan, _lengths(chain)
    if (k0 << chain.shift) + k1 > K_LIMIT:
        return False
    mb, nb, kb = plan.blocks
    lanes = -(-plan.n // config.cols) * config.cols

    def rows(memory: str, width: int, seq: int, blocks: int) -> int:
        return (SLOTS if blocks > 1 else 1) * rows_needed(memory, width, seq, config)[0]

    first = mb * (kb if chain.words else 1), nb
    need = {
        "left": rows("left", plan.m, k1, mb * kb) + rows("left", plan.m, k0, first[0]),
        "right": rows("right", lanes, k1, nb * kb) + (0 if chain.words else rows("right", lanes, k0, first[1])),
        "out": rows("out", plan.m, 4 * plan.n, mb * nb * chain.results),
        "acc": rows("acc", plan.m, plan.n, 1) if kb > 1 else 0,
    }
    return all(wanted <= config.depth(memory) for memory, wanted in need.items())


def _cost(chain: Chain, config: Config) -> tuple[int, int]:
    """Bytes of operands that are read, and commands; the array's work is the same for all."""
    plan = chain.plan
    mb, nb, kb = plan.blocks
    left, right, _ = (layout.nbytes for layout in plan.layouts(config))
    left *= 2 if chain.words else 1
    traffic = left * nb + right * mb if kb > 1 else min(left * nb + right, left + right * mb)
    return traffic + 64 * config.bus_bytes * mb * nb * kb, mb * nb * kb


@lru_cache(maxsize=1024)
def plan_chain(
    M: int, N: int, K: int, K0: int, shift: int, config: Config, *, words: bool, apart: bool = False, right_bits: int = 8
) -> Chain:
    """The cheapest blocks that fit; the second segment's right operand has `right_bits`. Raises DoesNotFit where none does."""
    W = config.bus_bytes
    unit = max(1, W // config.cols, W // (4 * config.cols)) * config.cols
    chains = (
        Chain(
            MatmulPlan(M, N, K, 1, min(m, M), min(n, N), min(k, K), right_transposed=True, right_bits=right_bits), K0, shift, words, apart
        )
        for m in block_sizes(M, config.rows)
        for n in block_sizes(N, unit)
        for k in block_sizes(K, W * 8 // right_bits)
    )
    fitting = [chain for chain in chains if _fits(chain, config)]
    if not fitting:
        raise DoesNotFit(f"no block of {M} x {N} x {K}, chained with {K0}, fits the scratchpads of configuration {config.name!r}")
    return min(fitting, key=lambda chain: _cost(chain, config))


@lru_cache(maxsize=1024)
def compile_chain(chain: Chain, config: Config) -> Relocatable:
    """The list for operands left0, left1, right1, out and, without ``words``, right0."""
    emitter = Emitter(config)
    _Chained(chain, emitter).emit()
    return Relocatable.of(emitter.finish(LOOKAHEAD))


class _Chained(Blocks):
    def __init__(self, chain: Chain, emitter: Emitter) -> None:
        plan, config = chain.plan, emitter.config
        left0, left1, right1, out, right0 = (Relocatable.base(i) for i in range(5))
        super().__init__(plan, emitter, (left1, right1, out), FULL_WINDOW)
        self.chain = chain
        self.out = chain.out(config).at(out)
        mb, nb, kb = plan.blocks
        k0 = _lengths(chain)[0]

        def slot_cache(memory: str, lanes: int, blocks: int) -> SlotCache:
            return SlotCache(self.regions.slots(memory, lanes, k0, SLOTS if blocks > 1 else 1))

        self.first_left = row_major(plan.M, chain.K0, config).at(left0)
        self.first_left_cache = slot_cache("left", plan.m, mb * (kb if chain.words else 1))
        if not chain.words:
            self.first_right = row_major(plan.N, chain.K0, config).at(right0)
            self.first_right_cache = slot_cache("right", self.tile_lanes, nb)

    def _first(self, i: int, j: int, b: int, m: int, n: int, right: Region) -> Segment:
        """The first segment of block b of K."""
        plan, chain = self.plan, self.chain
        k0, k = (b * plan.k, min(plan.k, plan.K - b * plan.k)) if chain.words else (0, chain.K0)

        def load_left(region: Region) -> None:
            self.emitter.load(self.first_left.block(i * plan.m, m, k0, k), region, transpose=True, note=f"left0 {i},{b}")

        def load_right(region: Region) -> None:
            self.emitter.load(self.first_right.block(j * plan.n, n, 0, k), region, transpose=True, note=f"right0 {j}")

        left = self.first_left_cache.get((i, b if chain.words else 0), load_left)
        return Segment(left, right if chain.words else self.first_right_cache.get((j, 0), load_right), k)

    def emit(self) -> None:
        plan, chain = self.plan, self.chain
        kb = plan.blocks[2]
        for i, j in block_order(plan, self.config):
            m0, n0 = i * plan.m, j * plan.n
            m, n = min(plan.m, plan.M - m0), min(plan.n, plan.N - n0)
            out: Region | None = None
            for b in range(kb):
                k = min(plan.k, plan.K - b * plan.k)
                right = self.right_block(j, b, n, k)
                segments: tuple[Segment, ...] = (Segment(self.left_block(i, b, m, k), right, k),)
                if chain.words or b == 0:
                    segments = (self._first(i, j, b, m, n, right), *segments)
                leaves = chain.apart or b == kb - 1
                if leaves:
                    out = self.out_cache.replace((i, j * kb + b))
                self.emitter.compute(
                    m,
                    n,
                    segments,
                    shift=chain.shift if len(segments) > 1 else 0,
                    out=out if leaves else None,
                    acc=self.acc,
                    acc_read=b > 0 and not chain.apart,
                    acc_write=not leaves,
                    note=f"block {i},{j},{b}",
                )
                if leaves:
                    assert out is not None
                    row = (b if chain.apart else 0) * plan.M + m0
                    self.emitter.store(self.out.block(row, m, n0, n), out, note=f"block {i},{j},{b}")
