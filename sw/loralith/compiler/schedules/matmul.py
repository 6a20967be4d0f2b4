"""INT8 products of any shape: block sizes, and the list that streams the blocks through the scratchpads.

Left [M, K] lies row-major (loaded transposed, so that a DRAM row is an output row) and right as `fold_right` packs it (loaded natural).
Either may be stored *transposed*, left as [K, M] and right as [N, K]: the load path then transposes it, and one stored copy serves
both products that read a matrix in its two orders. INT32 [M, N] is written row-major. Blocks of M, N and K alternate between two regions of
each scratchpad, so that one is loaded while the array reads the other; sums over blocks of K stay in the accumulate buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.lists.relocatable import Relocatable
from loralith.compiler.schedules.emit import Emitter, Segment
from loralith.compiler.storage.layout import MatrixLayout, folded_shape, int_layout, padded, row_major
from loralith.compiler.storage.regions import FULL_WINDOW, DoesNotFit, Region, Regions, Window, rows_needed
from loralith.compiler.tokens.order import LOOKAHEAD
from loralith.spec.config import Config

__all__ = [
    "SLOTS",
    "Batch",
    "Blocks",
    "MatmulPlan",
    "SlotCache",
    "array_cycles",
    "best_fold",
    "block_order",
    "block_sizes",
    "compile_batch",
    "compile_matmul",
    "plan_batch",
    "plan_matmul",
    "tile_cycles",
]

COMMAND_CYCLES = 16
"""What the plan charges for each command, in bus or array cycles: fetch, dispatch and the array's fill."""
SLOTS = 2
"""Regions of a scratchpad that the blocks of an operand alternate between."""
ROWS_LIMIT = (1 << 16) - 1
"""Widest count of the 16-bit row fields."""


def tile_cycles(K: int, N: int, fold: int, config: Config) -> int:
    """Cycles that one row of tiles takes at least: a tile's steps, or the drain of its C / f columns where that is longer."""
    width = config.cols // fold
    return -(-N // width) * max(-(-K // fold), width)


def best_fold(K: int, N: int, config: Config) -> int:
    """The fold that takes the fewest cycles per row of tiles; of equal ones the smallest."""
    return min(config.folds, key=lambda fold: tile_cycles(K, N, fold, config))


@dataclass(frozen=True)
class MatmulPlan:
    """How a product is cut. `m`, `n`, `k` are the block sizes: outputs of M, outputs of N and reduction indices.

    `left_transposed`: left lies as [K, M]. `right_transposed`: right lies as [N, K]; fold 1. `left_bits`, `right_bits`: 8, or 4 for an
    operand of which DRAM holds two elements per byte.
    """

    M: int
    N: int
    K: int
    fold: int
    m: int
    n: int
    k: int
    left_transposed: bool = False
    right_transposed: bool = False
    left_bits: int = 8
    right_bits: int = 8

    @property
    def blocks(self) -> tuple[int, int, int]:
        """Blocks along M, N and K."""
        return -(-self.M // self.m), -(-self.N // self.n), -(-self.K // self.k)

    def layouts(self, config: Config) -> tuple[MatrixLayout, MatrixLayout, MatrixLayout]:
        """left, right and out as they lie in DRAM, each at address 0."""
        steps, width = folded_shape(self.K, self.N, self.fold, config)
        width = width if self.fold > 1 else self.N
        left = int_layout(*((self.K, self.M) if self.left_transposed else (self.M, self.K)), self.left_bits, config)
        right = int_layout(*((self.N, self.K) if self.right_transposed else (steps, width)), self.right_bits, config)
        return left, right, row_major(self.M, self.N, config, 4)

    def traffic(self, config: Config) -> tuple[int, int]:
        """(bytes read, bytes written) of operands and result, rounded up to bus words; commands are not counted."""
        left, right, out = (layout.nbytes for layout in self.layouts(config))
        mb, nb, kb = self.blocks
        # An operand of at most SLOTS blocks stays; of a longer one a row of blocks that fits stays while the other operand's pass.
        left_reads, right_reads = left * (nb if mb * kb > SLOTS else 1), right * (mb if nb * kb > SLOTS else 1)
        if left * nb + right <= left + right * mb:
            return left_reads + (right if kb <= SLOTS else right_reads), out
        return (left if kb <= SLOTS else left_reads) + right_reads, out


def _fits(plan: MatmulPlan, config: Config, window: Window) -> bool:
    mb, nb, kb = plan.blocks
    tiles = -(-plan.n // (config.cols // plan.fold))
    steps = -(-plan.k // plan.fold)
    slots = [SLOTS if n > 1 else 1 for n in (mb * kb, nb * kb, mb * nb)]
    need = {
        "left": slots[0] * rows_needed("left", plan.m, plan.k, config)[0],
        "right": slots[1] * rows_needed("right", tiles * config.cols, steps, config)[0],
        "out": slots[2] * rows_needed("out", plan.m, 4 * plan.n, config)[0],
        "acc": rows_needed("acc", plan.m, plan.n, config)[0] if kb > 1 else 0,
    }
    return all(rows <= window.size(config.depth(memory)) for memory, rows in need.items()) and max(plan.m, plan.n, plan.k) <= ROWS_LIMIT


def _cost(plan: MatmulPlan, config: Config) -> int:
    """Cycles by a plain model: the longer of bus and array, the first load, the last store, and every command's overhead."""
    mb, nb, kb = plan.blocks
    W = config.bus_bytes
    steps, width = folded_shape(plan.K, plan.N, plan.fold, config)
    left, right, out = (layout.nbytes // W for layout in plan.layouts(config))
    array = -(-plan.M // config.rows) * (width // config.cols) * steps
    # With all of K in one block an operand stays while the other's blocks pass: see `block_order`.
    reads = left * nb + right * mb if kb > 1 else min(left * nb + right, left + right * mb)
    ends = (left // (mb * kb)) + (right // (nb * kb)) + out // (mb * nb)
    return max(array, reads, out) + ends + COMMAND_CYCLES * mb * nb * kb * 3


def block_sizes(total: int, unit: int) -> list[int]:
    """Candidate block sizes, multiples of `unit`: everything, and halves of it down to one unit."""
    units = -(-total // unit)
    counts = sorted({-(-units // (1 << i)) for i in range(units.bit_length() + 1)})
    return [n * unit for n in counts]


@lru_cache(maxsize=4096)
def plan_matmul(
    M: int,
    N: int,
    K: int,
    config: Config,
    fold: int | None = None,
    *,
    left_transposed: bool = False,
    right_transposed: bool = False,
    left_bits: int = 8,
    right_bits: int = 8,
    window: Window = FULL_WINDOW,
) -> MatmulPlan:
    """The cheapest plan by `_cost` among halvings of each dimension that fit the window of the scratchpads.

    Raises DoesNotFit for a configuration too small for one tile, ValueError for a `fold` that it does not have and for a folded right
    operand of INT4.
    """
    fold = (1 if right_transposed else best_fold(K, N, config)) if fold is None else fold
    if fold not in config.folds or (right_transposed and fold > 1):
        known = (1,) if right_transposed else config.folds
        nearest = min(known, key=lambda one: abs(one - fold))
        raise ValueError(f"fold must be one of {known} on {config.name!r}, not {fold}; the nearest is {nearest}")
    if right_bits == 4 and fold > 1:
        raise ValueError(f"a right operand of INT4 takes fold 1, not {fold}: the host does not pack it")
    W, width = config.bus_bytes, config.cols // fold
    left_word, right_word = W * 8 // left_bits, W * 8 // right_bits  # elements
    # A block's first byte in DRAM must be at a bus word: in right (C bytes per tile) and in out (4 bytes per output).
    tile_unit = max(1, W // config.cols, W // (4 * width))
    plans = (
        MatmulPlan(M, N, K, fold, min(m, M), min(n, N), min(k, K), left_transposed, right_transposed, left_bits, right_bits)
        for m in block_sizes(M, max(config.rows, left_word) if left_transposed else config.rows)
        for n in block_sizes(N, max(tile_unit * width, 1 if right_transposed or right_bits == 8 else right_word))
        for k in block_sizes(K, max(W if left_transposed else left_word, right_word if right_transposed else W))
    )
    fitting = [plan for plan in plans if _fits(plan, config, window)]
    if not fitting:
        raise DoesNotFit(f"no block of {M} x {N} x {K} fits the scratchpads of configuration {config.name!r}")
    return min(fitting, key=lambda plan: _cost(plan, config))


class SlotCache:
    """An LRU cache of scratchpad regions (slots): a block that is still on chip is not loaded a second time."""

    def __init__(self, regions: list[Region]) -> None:
        self.regions = regions
        self.held: dict[tuple[int, int], int] = {}  # in LRU order, the least recently used first
        self.free = list(range(len(regions)))

    def find(self, key: tuple[int, int]) -> Region | None:
        """The region that holds block `key`, or None; marks it as the most recently used."""
        if key not in self.held:
            return None
        self.held[key] = self.held.pop(key)
        return self.regions[self.held[key]]

    def get(self, key: tuple[int, int], fill: Callable[[Region], None]) -> Region:
        """The region that holds block `key`, filled now by `fill` unless it is still there."""
        held = self.find(key)
        if held is None:
            held = self.replace(key)
            fill(held)
        return held

    def replace(self, key: tuple[int, int]) -> Region:
        """The region to fill with block `key`. Evicts the least recently used block, whose commands have most likely ended."""
        index = self.held.pop(key, None)
        if index is None:
            index = self.free.pop(0) if self.free else self.held.pop(next(iter(self.held)))
        self.held[key] = index
        return self.regions[index]


def block_order(plan: MatmulPlan, config: Config) -> Iterator[tuple[int, int]]:
    """Blocks (along M, along N): the operand that is read repeatedly is the one that costs less."""
    mb, nb, _ = plan.blocks
    left, right = (layout.nbytes for layout in plan.layouts(config)[:2])
    if left * nb + right <= left + right * mb:
        yield from ((i, j) for j in range(nb) for i in range(mb))
    else:
        yield from ((i, j) for i in range(mb) for j in range(nb))


def compile_matmul(plan: MatmulPlan, left: int, right: int, out: int, config: Config) -> CommandList:
    """The list of a plan; `left`, `right` and `out` are the addresses of its layouts."""
    emitter = Emitter(config)
    Blocks(plan, emitter, (left, right, out), FULL_WINDOW).emit()
    return emitter.finish(LOOKAHEAD)


HALVES = (Window(0, 8), Window(8, 16))


@dataclass(frozen=True)
class Batch:
    """`count` equal products as one list. They alternate between the ``windows`` of the memories: one loads while another computes."""

    plan: MatmulPlan
    count: int
    windows: tuple[Window, ...]


def plan_batch(
    M: int,
    N: int,
    K: int,
    count: int,
    config: Config,
    fold: int,
    *,
    left_transposed: bool,
    right_transposed: bool,
    left_bits: int = 8,
    right_bits: int = 8,
) -> Batch:
    """Halves of the memories where there are several products and a block fits a half; else all of them. Raises DoesNotFit."""
    how = {"left_transposed": left_transposed, "right_transposed": right_transposed, "left_bits": left_bits, "right_bits": right_bits}
    if count > 1:
        with suppress(DoesNotFit):
            return Batch(plan_matmul(M, N, K, config, fold, window=HALVES[0], **how), count, HALVES)
    return Batch(plan_matmul(M, N, K, config, fold, **how), count, (FULL_WINDOW,))


@lru_cache(maxsize=1024)
def compile_batch(batch: Batch, config: Config) -> Relocatable:
    """The list of a batch, whose left, right and out operands lie one after the other from three addresses on."""
    sizes = [layout.nbytes for layout in batch.plan.layouts(config)]
    emitter = Emitter(config)
    for i in range(batch.count):
        addresses = tuple(Relocatable.base(operand) + i * size for operand, size in enumerate(sizes))
        Blocks(batch.plan, emitter, addresses, batch.windows[i % len(batch.windows)]).emit()
    return Relocatable.of(emitter.finish(LOOKAHEAD))


class Blocks:
    """The blocks of a plan and the slot caches that hold them; `emit` adds the whole product to a list."""

    def __init__(self, plan: MatmulPlan, emitter: Emitter, addresses: tuple[int, ...], window: Window) -> None:
        self.plan, self.emitter = plan, emitter
        self.config = config = emitter.config
        self.left, self.right, self.out = (layout.at(a) for layout, a in zip(plan.layouts(config), addresses, strict=True))
        mb, nb, kb = plan.blocks
        self.regions = regions = Regions(config, window)
        self.width = config.cols // plan.fold
        self.tile_lanes = -(-plan.n // self.width) * config.cols

        def slot_cache(memory: str, lanes: int, seq: int, blocks: int) -> SlotCache:
            return SlotCache(regions.slots(memory, lanes, seq, SLOTS if blocks > 1 else 1))

        self.left_cache = slot_cache("left", plan.m, plan.k, mb * kb)
        self.right_cache = slot_cache("right", self.tile_lanes, -(-plan.k // plan.fold), nb * kb)
        self.out_cache = slot_cache("out", plan.m, 4 * plan.n, mb * nb)
        self.acc = regions.take("acc", plan.m, plan.n) if kb > 1 else None

    def emit(self) -> None:
        plan = self.plan
        kb = plan.blocks[2]
        for i, j in block_order(plan, self.config):
            m0, n0 = i * plan.m, j * plan.n
            m, n = min(plan.m, plan.M - m0), min(plan.n, plan.N - n0)
            out = self.out_cache.replace((i, j))
            for b in range(kb):
                k = min(plan.k, plan.K - b * plan.k)
                segment = Segment(self.left_block(i, b, m, k), self.right_block(j, b, n, k), k)
                last = b == kb - 1
                self.emitter.compute(
                    m,
                    n,
                    (segment,),
                    fold=plan.fold,
                    out=out if last else None,
                    acc=self.acc,
                    acc_read=b > 0,
                    acc_write=not last,
                    note=f"block {i},{j},{b}",
                )
            self.emitter.store(self.out.block(m0, m, n0, n), out, note=f"block {i},{j}")

    def left_block(self, i: int, b: int, m: int, k: int) -> Region:
        held = self.left_cache.find((i, b))
        if held:
            return held
        region = self.left_cache.replace((i, b))
        m0, k0, note = i * self.plan.m, b * self.plan.k, f"left {i},{b}"
        if self.plan.left_transposed:
            self.emitter.load(self.left.block(k0, k, m0, m), region, pad_rows=padded(k, self.plan.fold) - k, note=note)
        else:
            self.emitter.load(self.left.block(m0, m, k0, k), region, transpose=True, note=note)
        return region

    def right_block(self, j: int, b: int, n: int, k: int) -> Region:
        held = self.right_cache.find((j, b))
        if held:
            return held
        region = self.right_cache.replace((j, b))
        plan, C = self.plan, self.config.cols
        if plan.right_transposed:
            block = self.right.block(j * plan.n, n, b * plan.k, k)
            self.emitter.load(block, region, transpose=True, note=f"right {j},{b}")
            return region
        first = j * plan.n // self.width * C
        lanes = min(-(-n // self.width) * C, self.right.cols - first)
        block = self.right.block(b * plan.k // plan.fold, -(-k // plan.fold), first, lanes)
        self.emitter.load(block, region, note=f"right {j},{b}")
        return region


def array_cycles(M: int, N: int, K: int, fold: int, config: Config) -> int:
    """Cycles that the array takes at least."""
    return -(-M // config.rows) * tile_cycles(K, N, fold, config)
