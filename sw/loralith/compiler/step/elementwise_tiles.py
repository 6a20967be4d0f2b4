"""Tiles of an elementwise kernel: where operands lie on chip, how much of the tensor a tile takes, and its commands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from loralith.compiler.step.chains import Step, emit_chain, instructions_of
from loralith.compiler.step.copies import _plan, load_elements, offsets
from loralith.compiler.step.emitter import Emitter, Region
from loralith.compiler.step.tile_maxima import TileMaxima
from loralith.compiler.step.views import View
from loralith.errors import LoralithError
from loralith.spec.commands import LoadTarget, StoreSource
from loralith.spec.graph import Op
from loralith.spec.vector.program import HASH_LANES, Source

__all__ = ["Draw", "Plan", "Prepare", "TileOperands", "emit_tiles"]


@dataclass(frozen=True)
class Draw:
    """Stochastic rounding: the key that is exclusive-ored to the loaded one, and the dimension along the lanes."""

    key: tuple[int, int]
    lanes: int


OUTER, DRAIN = 10, 50
"""Cycles of an instruction's outer iteration beside its words, and at least, where it reads what the one before has made; about."""
BURST = 3
"""Cycles from a row of a LOAD to the next one at least: as many bursts as may be on their way, in a memory's latency."""
TILE = 100
"""Cycles that a tile costs beside its words, about."""
FEW = 4
"""Rows from which on their number is halved to find what fits."""
BESIDE = 2
"""Into how many a tile is cut of a large tensor that is read for its stochastic integers alone: products that read those run beside it,
whose LOADs hold up its own, so that more tiles are to be on their way."""
LARGE = 1 << 22
"""Elements of a large one. Attention's dS is one; of smaller tensors shorter tiles cost more than this brings."""


@dataclass
class Plan:
    """The iteration: sizes of its dimensions, strides of each operand, of the result."""

    sizes: list[int]
    operands: list[list[int]]
    result: list[int]


def emit_tiles(
    kernel: TileOperands,
    steps: Sequence[Step],
    result: View,
    plan: Plan,
    draw: Draw | None,
    top: bool,
    keep: bool,
) -> View | None:
    e, chain = kernel.e, instructions_of(steps)
    sizes, ops, out = plan.sizes, plan.operands, plan.result
    if len(sizes) == 1:
        sizes, ops, out = [1, *sizes], [[0, *s] for s in ops], [0, *out]
    if draw is None and len(sizes) > 2:  # the most rows in a tile; a draw's are counted in their order
        place = max(range(len(sizes) - 1), key=lambda d: (sizes[d], d))
        order = [*(d for d in range(len(sizes) - 1) if d != place), place, len(sizes) - 1]
        sizes, ops, out = [sizes[d] for d in order], [[s[d] for d in order] for s in ops], [out[d] for d in order]
    *outside, rows, run = sizes
    kernel.strides, kernel.run = ops, run
    instructions = len(chain) + sum(len(one.chain) for one in kernel.before)
    parts = BESIDE if draw is not None and len(kernel.views) == 1 and math.prod(sizes) >= LARGE else 1
    chunk, most = kernel.tile(rows, instructions, parts)
    count_of_tiles = math.prod(outside) * -(-rows // most) * -(-run // chunk)
    brain = bool(steps) and steps[-1].op is Op.BRAIN
    maxima = TileMaxima(e, result.buffer.name, count_of_tiles, brain) if top else None
    row_number = 0
    for *starts, to in offsets(outside, *(s[:-2] for s in ops), out[:-2]):
        for first in range(0, rows, most):
            count = min(most, rows - first)
            for start in range(0, run, chunk):
                size = min(chunk, run - start)
                x, tiles, work = kernel.load([s + first * o[-2] + start * o[-1] for s, o in zip(starts, ops, strict=True)], count, size)
                more: dict[str, Any] = {}
                if draw is not None:
                    quads = -(-run // HASH_LANES)
                    base = (row_number + first) * quads + start // HASH_LANES
                    more = {"key": draw.key, "index": (base, quads, e.config.vector_lanes // HASH_LANES)}
                if maxima is not None:
                    more |= {"top": maxima.scalar(), "keep": keep}
                width = -(-size // e.config.vector_lanes)
                lanes = size - (width - 1) * e.config.vector_lanes
                kernel.prepare(tiles, count, width, lanes)
                emit_chain(e, chain, Source.V0, x, tiles, work, count, width, lanes=lanes, **more)
                if maxima is not None:
                    maxima.leave()
                if keep:
                    address = result.buffer.address + (result.offset + to + first * out[-2] + start) * result.size
                    row_bytes, stride, format = size * result.size, out[-2] * result.size, result.buffer.format
                    e.store(StoreSource.V0, address, count, row_bytes, stride, work.base, block_stride=width, format=format)
                e.end_tile()
        row_number += rows
    return None if maxima is None else maxima.result()


@dataclass
class Prepare:
    """Operand ``operand`` goes through ``chain`` before it is used; ``reads``: the numbers of what that reads."""

    operand: int
    chain: Sequence[Any]
    reads: range = range(0)


class TileOperands:
    """Where a tile's operands lie on chip: X and the result in V0, the others in V1; in V0 what those read that go through steps of their
    own first."""

    def __init__(self, e: Emitter, views: Sequence[View], more: Sequence[View], before: Sequence[Prepare]) -> None:
        self.e, self.views, self.before = e, [*views, *more], before
        self.second, self.more = range(1, len(views)), range(len(views), len(self.views))
        self.strides: Sequence[Sequence[int]] = ()
        self.run = 0
        self._regions: dict[int, Region] = {}

    def kind(self, i: int) -> str:
        """`whole`, a `row` for all rows, or a `value` for each row."""
        if self.strides[i][-1] == 0:
            return "value"
        return "whole" if self.strides[i][-2] else "row"

    def words(self, i: int, rows: int, width: int) -> int:
        kind = self.kind(i)
        if kind == "value":
            view = self.views[i]
            worst = max(1, self.e.config.bus_bytes // view.size) - 1
            return _plan(view.buffer, worst, (rows, self.strides[i][-2]), (1, 0), self.e.config.bus_bytes).words + worst
        return width * (rows if kind == "whole" else 1)

    def tile(self, rows: int, instructions: int, parts: int = 1) -> tuple[int, int]:
        """(elements of a row, rows) of a tile that fits, on which so many instructions work: one that takes the fewest cycles.
        ``parts``: of what a tile may take of V0 it takes one of so many."""
        e = self.e
        lanes = e.config.vector_lanes
        width = -(-self.run // lanes)
        step = max(1, e.config.bus_bytes // lanes)
        first, second = e.capacity(LoadTarget.V0) // parts, e.capacity(LoadTarget.V1)

        def fits(count: int, width: int) -> bool:
            work = count * width
            x = work if self.whole_x(count) else work + self.words(0, count, width)
            x += sum(self.words(i, count, width) for i in self.more)
            return x <= first and sum(self.words(i, count, width) for i in self.second) <= second

        while not fits(1, width) and width > step:
            width = -(-width // 2 // step) * step
        if not fits(1, width):
            raise LoralithError(f"{self.views[0].buffer.name}: {len(self.views)} operands do not fit into V0 and V1")
        if all(self.kind(i) == "whole" for i in range(len(self.views))):
            return min(width * lanes, self.run), self._most(rows, width, fits)
        found = []
        while True:
            count = self._most(rows, width, fits)
            found.append((self._cycles(count, width, instructions) / (count * width), -width, count))
            if width // 2 < step or width // 2 % step:
                break
            width //= 2
        _, width, count = min(found)
        return min(-width * lanes, self.run), count

    def _cycles(self, rows: int, width: int, instructions: int) -> int:
        """Of the unit that takes most for a tile, about. Rows that share words, or have a value each, are an outer iteration each in every
        instruction, or the words of a row are: of few words it waits for its own results."""
        outer, inner = sorted((rows, width))
        vector = instructions * outer * max(inner + OUTER, DRAIN)
        load = 0
        for i, view in enumerate(self.views):
            burst = max(-(-width * self.e.config.vector_lanes * view.size // self.e.config.bus_bytes), BURST)
            load += {"whole": rows * burst, "row": burst, "value": rows}[self.kind(i)]
        return max(load, vector) + TILE

    @staticmethod
    def _most(rows: int, width: int, fits: Callable[[int, int], bool]) -> int:
        count = rows
        while not fits(count, width):
            count -= 1 if count <= FEW else count // 2
        return count

    def whole_x(self, rows: int) -> bool:
        return self.kind(0) == "whole" or (self.kind(0) == "row" and rows == 1)

    def load(
        self, starts: Sequence[int], rows: int, size: int, first: int = 0, more: int | None = None, second: int = 0
    ) -> tuple[Region, list[Region], Region]:
        """(X, operands, result) of a tile whose operands begin ``starts`` elements after their views. ``first``, ``second``: the word of V0
        and of V1 from which on it lies; ``more``: where in V0 what is read beside X and the result lies, if not after them."""
        e = self.e
        width = -(-size // e.config.vector_lanes)
        work = Region(first, width, 1)
        at = first if self.whole_x(rows) else first + rows * width
        x, words = self._one(0, LoadTarget.V0, starts[0], rows, size, at)
        at = max(at + words, first + rows * width) if more is None else more
        for i in self.more:
            self._regions[i], words = self._one(i, LoadTarget.V0, starts[i], rows, size, at)
            at += words
        at, tiles = second, []
        for i in self.second:
            region, words = self._one(i, LoadTarget.V1, starts[i], rows, size, at)
            tiles.append(region)
            at += words
        return x, tiles, work

    def prepare(self, tiles: Sequence[Region], rows: int, width: int, lanes: int) -> None:
        """Operands that go through steps of their own, in their places."""
        for one in self.before:
            at = tiles[one.operand - 1]
            reads = [self._regions[i] for i in one.reads]
            emit_chain(self.e, one.chain, Source.V1, at, reads, at, rows, width, lanes=lanes, second=True)

    def _one(self, i: int, target: LoadTarget, start: int, rows: int, size: int, base: int) -> tuple[Region, int]:
        e, view, strides = self.e, self.views[i], self.strides[i]
        width = -(-size // e.config.vector_lanes)
        kind = self.kind(i)
        if kind == "value":
            loaded = load_elements(e, target, view, start, (rows, strides[-2]), (1, 0), base, 1 << 16)
            assert loaded is not None
            return loaded
        count = rows if kind == "whole" else 1
        address = view.buffer.address + (view.offset + start) * view.size
        e.load(
            target,
            address,
            count,
            size * view.size,
            strides[-2] * view.size,
            base,
            block_stride=width if count > 1 else 0,
            format=view.buffer.format,
        )
        return Region(base, width if kind == "whole" else 0, 1), count * width
