"""The plans of a pass: block sizes that fit, ranked by a plain count."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from loralith.compiler.schedules.matmul import block_sizes, tile_cycles
from loralith.compiler.storage.layout import SkinnyShape, int_layout, padded, row_major, skinny_shape
from loralith.compiler.storage.regions import FULL_WINDOW, MEMORIES, DoesNotFit, Window, rows_needed
from loralith.spec.config import PRESETS, Config

__all__ = [
    "BURST_WORDS",
    "COMPUTE_CYCLES",
    "LOAD_CYCLES",
    "PassPlan",
    "READ_LATENCY",
    "load_cycles",
    "pass_traffic",
    "plan_pass",
    "plan_passes",
]

BUS_BOUND = 0.8
"""From this share of the array's cycles on that the bus needs, plans that cut the rank are looked at too."""


def presets_that(take: Callable[[Config], bool]) -> str:
    """Words for an error: the presets that would do."""
    found = [preset.name for preset in PRESETS.values() if take(preset)]
    return f"these presets take it: {', '.join(found)}" if found else "no preset takes it; a smaller rank or fewer columns need less"


@dataclass(frozen=True)
class PassPlan:
    """Block sizes of a pass: m tokens, n output columns, k of the reduction, r of the rank; how many blocks of each operand stay on chip.

    Without slots of its own the skinny product's right operand shares `base_slots` with the base.
    """

    m: int
    n: int
    k: int
    r: int
    left_slots: int
    base_slots: int
    skinny_slots: int

    def skinny_parts(self, skinny: SkinnyShape) -> int:
        """Blocks of columns of the skinny product."""
        return -(-skinny.rank // self.r)


@dataclass(frozen=True)
class _Work:
    """What a pass is planned for: an output element has `size` bytes, one of W `weight_bits` bits."""

    T: int
    K: int
    N: int
    rank: int
    config: Config
    size: int
    weight_bits: int

    @property
    def skinny(self) -> SkinnyShape:
        return skinny_shape(self.rank, self.config)

    def blocks(self, plan: PassPlan) -> tuple[int, int, int]:
        """Blocks along T, N and K."""
        return -(-self.T // plan.m), -(-self.N // plan.n), -(-self.K // plan.k)


def _pass_rows(plan: PassPlan, work: _Work) -> dict[str, int]:
    """Rows that a pass's blocks take of each memory."""
    config, skinny = work.config, work.skinny
    tb, _, kb = work.blocks(plan)
    lanes = config.cols if skinny.fold > 1 else plan.r
    skinny_result_slots = 2 if tb > 1 else 1
    tall = {memory: rows_needed(memory, plan.m, skinny.width, config)[0] for memory in ("left", "out")}
    return {
        "left": plan.left_slots * rows_needed("left", plan.m, plan.k, config)[0] + skinny_result_slots * tall["left"],
        "right": plan.base_slots * rows_needed("right", plan.n, plan.k, config)[0]
        + 2 * rows_needed("right", plan.n, skinny.width, config)[0]
        + plan.skinny_slots * rows_needed("right", lanes, -(-plan.k // skinny.fold), config)[0]
        + rows_needed("right", config.cols, 1, config)[0],
        "out": 2 * rows_needed("out", plan.m, work.size * plan.n, config)[0] + skinny_result_slots * tall["out"],
        "acc": rows_needed("acc", plan.m, max(plan.n, plan.r), config)[0] if kb > 1 else 0,
    }


@lru_cache(maxsize=4096)
def plan_passes(
    T: int, K: int, N: int, rank: int, config: Config, size: int = 4, window: Window = FULL_WINDOW, count: int = 1, weight_bits: int = 8
) -> tuple[PassPlan, ...]:
    """The `count` cheapest block sizes by a plain count of bus words, array cycles and commands; an output element has `size` bytes.

    Where the best of them keeps the bus nearly as busy as the array, as many more that cut the rank in parts: those need less of the
    memories for it, so that other blocks can be larger. With ``weight_bits`` 4 a bus word holds twice as many elements of W, and its blocks
    begin at bus words.

    Raises DoesNotFit, with a preset that takes the pass, if any.
    """
    work = _Work(T, K, N, rank, config, size, weight_bits)
    plans = _fitting_plans(work, window)
    if not plans:
        what = f"no block of a LoRA pass with T={T}, K={K}, N={N}, r={rank} fits the scratchpads of {config.name!r}"
        others = presets_that(lambda other: bool(_fitting_plans(_Work(T, K, N, rank, other, size, weight_bits), window)))
        raise DoesNotFit(f"{what}; {others}")
    found = _cheapest(plans, work, count)
    reads, array, _ = _counts(found[0], work, every=True)
    if reads < BUS_BOUND * array or work.skinny.fold > 1:
        return tuple(found)
    cut = _cheapest(_fitting_plans(work, window, cut=True), work, count, every=True)
    return tuple(sorted(found + cut, key=lambda plan: _cost(plan, work, every=True)))


def _cheapest(plans: list[PassPlan], work: _Work, count: int, *, every: bool = False) -> list[PassPlan]:
    """Among equals, blocks of the base that stay longer: they leave more time for other loads."""
    return sorted(plans, key=lambda plan: (_cost(plan, work, every=every), -plan.base_slots))[:count]


def _fitting_plans(work: _Work, window: Window, *, cut: bool = False) -> list[PassPlan]:
    """All block sizes that fit; with `cut` those that cut the rank in parts, or whose skinny operand shares the base's regions."""
    T, K, N, config, skinny = work.T, work.K, work.N, work.config, work.skinny
    # Elements of W in a bus word: along k forward, along n backward.
    W = config.bus_bytes * 8 // work.weight_bits
    step = max(config.cols, W)
    limits = {memory: window.size(config.depth(memory)) for memory in MEMORIES}
    slot_counts = (1, 2, 3, 4, 8) if cut else (1, 2, 4, 8)
    plans: list[PassPlan] = []
    for k in block_sizes(K, W):
        kb = -(-K // k)
        if kb > 64:
            continue
        for n, m in itertools.product(block_sizes(N, step), block_sizes(T, max(config.rows, config.bus_bytes))):
            nb, tb = -(-N // n), -(-T // m)
            for left_slots, base_slots in itertools.product({1, 2, kb, 2 * kb, tb * kb}, {*slot_counts, nb * kb}):
                # Blocks that all stay, or at least two slots to alternate between.
                if not min(2, tb * kb) <= left_slots <= tb * kb or not min(2, nb * kb) <= base_slots <= nb * kb:
                    continue
                # The parts pass over the blocks of left one after the other.
                if cut and left_slots < kb:
                    continue
                for r, skinny_slots in _skinny_choices(n, kb, skinny, cut):
                    plan = PassPlan(min(m, T), min(n, N), min(k, K), r, left_slots, base_slots, skinny_slots)
                    rows = _pass_rows(plan, work)
                    if all(rows[memory] <= limits[memory] for memory in rows):
                        plans.append(plan)
                        if not cut:
                            break
    return plans


def _skinny_choices(n: int, kb: int, skinny: SkinnyShape, cut: bool) -> tuple[tuple[int, int], ...]:
    """(columns of the skinny product at a time, slots of its right operand); where it is not cut, the first that fits is enough."""
    if cut:
        return ((n, 2), (n, 0)) if n < skinny.width else ((skinny.width, 0),)
    return tuple(dict.fromkeys(((skinny.width, kb), (skinny.width, min(kb, 4)))))


def plan_pass(
    T: int, K: int, N: int, rank: int, config: Config, size: int = 4, window: Window = FULL_WINDOW, weight_bits: int = 8
) -> PassPlan:
    """The first of `plan_passes`."""
    return plan_passes(T, K, N, rank, config, size, window, weight_bits=weight_bits)[0]


def _counts(plan: PassPlan, work: _Work, *, every: bool) -> tuple[int, int, float]:
    """By a plain count: words to read, cycles of the array, and cycles for which it waits at least.

    With `every` the words of the adapter and of the skinny operand count too, which are loaded once per block of tokens.
    """
    config, skinny = work.config, work.skinny
    m, n, k, r = plan.m, plan.n, plan.k, plan.r
    tb, nb, kb = work.blocks(plan)
    parts = plan.skinny_parts(skinny)
    left_loads = tb * kb * (1 if plan.left_slots >= kb else nb + 1)
    base_loads = nb * kb * (1 if plan.base_slots >= nb * kb else tb)
    # Forward, W is read with rows along k, backward with rows along n: charge the dearer.
    base_load = max(load_cycles(n, k, config), load_cycles(k, n, config))
    skinny_load = load_cycles(-(-k // skinny.fold), config.cols if skinny.fold > 1 else r, config)
    reads = left_loads * load_cycles(m, k, config) + base_loads * base_load
    if every:
        reads += nb * load_cycles(skinny.rank, n, config) * (tb if nb > 2 else 1)
        reads += parts * kb * skinny_load * (tb if plan.skinny_slots < parts * kb else 1)
    column = max(k + skinny.width // kb, config.cols)
    block = max(-(-m // config.rows) * -(-n // config.cols) * column, COMPUTE_CYCLES)
    skinny_block = max(-(-m // config.rows) * tile_cycles(k, r, skinny.fold, config), COMPUTE_CYCLES)
    skinny_array = parts * kb * skinny_block
    array = tb * (nb * kb * block + skinny_array)
    # The skinny product runs through a block of left as fast as it comes, unless that was loaded under the outputs of the block before.
    early = min(1.0, max(0, plan.left_slots - kb) / kb)
    exposed = tb * (1 - early) * max(0, kb * load_cycles(m, k, config) - skinny_array)
    # A block's load must be through while the blocks before it are computed.
    if plan.base_slots < nb * kb:
        exposed += tb * nb * kb * max(0, READ_LATENCY + base_load - (plan.base_slots - 1) * block)
    if every and plan.skinny_slots < parts * kb:
        slots = plan.skinny_slots or plan.base_slots
        exposed += tb * parts * kb * max(0, READ_LATENCY + skinny_load - (slots - 1) * skinny_block)
    return reads, array, exposed


def _cost(plan: PassPlan, work: _Work, *, every: bool = False) -> float:
    """Cycles by a plain count: the longer of bus and array, and a part of the first load and the last store."""
    reads, array, exposed = _counts(plan, work, every=every)
    T, N, config, W = work.T, work.N, work.config, work.config.bus_bytes
    m, n, k = plan.m, plan.n, plan.k
    out = T * padded(work.size * N, W) // W
    # The first block's load and the last one's store have little to hide behind.
    ends = -(-work.K // k) * load_cycles(m, k, config) + load_cycles(n, k, config) + work.size * m * n // W
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
    stays = plan.skinny_slots >= plan.skinny_parts(skinny) * kb
    left, right = row_major(T, K, config).nbytes, skinny.right(K, config).nbytes * (1 if stays else tb)
    read, written = left + right, skinny.packed(T, config).nbytes
    if measured:
        read += left + right
    if output:
        read += 0 if plan.left_slots >= kb else left * nb
        read += int_layout(K, N, weight_bits, config).nbytes * (1 if plan.base_slots >= nb * kb else tb)
        read += row_major(rank, N, config).nbytes * (1 if nb <= 2 else tb)
        written += row_major(T, N, config, 4).nbytes
    return read, written


LOAD_CYCLES, COMPUTE_CYCLES = 34, 28
"""Cycles that checking a command takes: shorter ones follow each other no faster."""
READ_LATENCY = 200
"""Cycles from a load's token to its first word, with other loads in between, that a schedule leaves room for."""
BURST_WORDS = 4
"""Words that the bus could move per burst, with as many bursts in flight as the read master keeps and answers after 100 cycles."""


def load_cycles(rows: int, row_bytes: int, config: Config) -> int:
    """Bus cycles of a load. A burst of few words costs as much as one of BURST_WORDS: only so many are in flight."""
    return max(rows * max(-(-row_bytes // config.bus_bytes), BURST_WORDS), LOAD_CYCLES)
