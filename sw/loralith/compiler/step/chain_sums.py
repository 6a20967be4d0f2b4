"""Sums of a chain that is stored nowhere: operands of as many lanes of all its terms come to V0 and V1, the chain is computed in place, and
each lane adds up its own terms. V0 has all terms of a lane at a time, since one command makes a sum; what V1 has comes in parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from loralith.compiler.step.chains import Prepared, Scalar, Step, emit_chain, instructions_of
from loralith.compiler.step.copies import offsets
from loralith.compiler.step.elementwise import layout_order, materialize, new_tensor, row_fits, spread_dims, with_prepared
from loralith.compiler.step.elementwise_tiles import TileOperands
from loralith.compiler.step.emitter import Emitter, Region, Work, kernel
from loralith.compiler.step.lane_reductions import row_program
from loralith.compiler.step.views import View, collapse
from loralith.spec.commands import LoadTarget, StoreSource, VectorFormat
from loralith.spec.vector.program import Reduce, Source

__all__ = ["ChainSum", "chain_sum"]


class ChainSum:
    """How the sums over ``dims`` of ``steps`` on ``views[0]`` are made; ``views`` and ``prepared`` as `elementwise` has them.

    Attributes: ``fits``, whether results lie along the lanes as the largest operand lies, and V0 has all terms of one; ``terms`` of a sum;
    ``run``, sums that lie one after the other; ``width``, words of V0 for each term of a tile; ``rows``, terms of a part.
    """

    def __init__(self, e: Emitter, views: Sequence[View], steps: Sequence[Step], prepared: Prepared, dims: Sequence[int]) -> None:
        self.e, self.steps = e, steps
        own, before = with_prepared(views, prepared)
        self.shape = own[0].shape
        self.main = max(own, key=lambda view: math.prod(n for n, s in zip(view.shape, view.strides, strict=True) if s))
        self.order = layout_order(self.main)
        self.spread = {i: over for i, view in enumerate(own) if (over := spread_dims(view, self.main, self.order))}
        self.operands = TileOperands(e, own[: len(views)], own[len(views) :], before)
        self.fits = self._lies(own, dims) and self._choose()

    def _strides(self, i: int, view: View) -> tuple[int, ...]:
        """Of an operand, those of the copy that is spread over dimensions that it repeats."""
        if i not in self.spread:
            return view.strides
        strides, step = [0] * len(view.shape), 1
        for d in reversed(self.order):
            if view.shape[d] > 1 and (view.strides[d] or d in self.spread[i]):
                strides[d], step = step, step * view.shape[d]
        return tuple(strides)

    def _lies(self, views: Sequence[View], dims: Sequence[int]) -> bool:
        """Whether all operands are rows of as many results, one row for each term, or what is the same for all of a row."""
        shape, main = self.shape, self.main
        order = [d for d in self.order if shape[d] > 1]
        self.kept, over = [d for d in order if d not in dims], [d for d in order if d in dims]
        if not self.kept or not over or main.strides[self.kept[-1]] != 1:
            return False
        self.row, self.run = len(self.kept), 1
        while self.row and main.strides[self.kept[self.row - 1]] == self.run:  # dimensions that are one row
            self.row -= 1
            self.run *= shape[self.kept[self.row]]
        own = [self._strides(i, view) for i, view in enumerate(views)]
        terms, by_term = collapse([shape[d] for d in over], *([s[d] for d in over] for s in own))
        run, by_lane = collapse([shape[d] for d in self.kept[self.row :]], *([s[d] for d in self.kept[self.row :]] for s in own))
        if len(terms) != 1 or len(run) != 1:
            return False
        (self.terms,) = terms
        self.outside = [[s[d] for d in self.kept[: self.row]] for s in own]
        self.operands.strides, self.operands.run = [[a, b] for (a,), (b,) in zip(by_term, by_lane, strict=True)], self.run
        strides = [[*a, *b] for a, b in zip(self.outside, self.operands.strides, strict=True)]
        fit = all(i in self.spread or row_fits(self.e, view, s) for i, (view, s) in enumerate(zip(views, strides, strict=True)))
        return fit and self.operands.kind(0) == "whole"

    def _choose(self) -> bool:
        e, c, more = self.e, self.e.config, self.operands
        step = max(1, c.bus_bytes // c.vector_lanes)
        room = e.capacity(LoadTarget.V0)

        def place(width: int, words: int) -> int:
            """Terms of a part, where V0 has ``words``; 0 if there is no room."""
            rows = self.terms
            while rows and (
                self.terms * width + 2 * self._beside(rows, width) > words
                or sum(more.words(i, rows, width) for i in more.second) > e.capacity(LoadTarget.V1)
            ):
                rows = rows // 2
            return rows

        self.width = max(room // self.terms // step * step, step)
        self.rows = place(self.width, room if self.width > step else c.v0_words)
        if not self.rows and self.width > step:
            self.width = step
            self.rows = place(step, c.v0_words)
        return self.rows > 0

    def _beside(self, rows: int, width: int) -> int:
        """Words of V0 beside the terms, of a part of so many."""
        return sum(self.operands.words(i, rows, width) for i in self.operands.more)

    def write(self, name: str, bound: Scalar) -> View:
        """The sums with a bound: a new tensor that lies in the order of the operands."""
        e, views = self.e, self.operands.views
        copies = {i: materialize(e, views[i], self.order, whole=dims) for i, dims in self.spread.items()}
        self.operands.views = [copies.get(i, view) for i, view in enumerate(views)]
        shape = [n if d in self.kept else 1 for d, n in enumerate(self.shape)]
        rest = [d for d in range(len(shape)) if d not in self.kept]
        result = new_tensor(e, name, VectorFormat.FP32, shape, [*rest, *self.kept], len(rest) + self.row)
        outer = self.kept[: self.row]
        for to, *starts in offsets([shape[d] for d in outer], [result.strides[d] for d in outer], *self.outside):
            self._row(starts, result.buffer.address + 4 * to, bound)
        for made in copies.values():
            e.release(made.buffer)
        return result

    def _row(self, starts: Sequence[int], to: int, bound: Scalar) -> None:
        """The sums of a row, which go to the address ``to``; operands begin ``starts`` elements after their views."""
        e, lanes = self.e, self.e.config.vector_lanes
        chunk = self.width * lanes
        for first in range(0, self.run, chunk):
            size = min(chunk, self.run - first)
            width = -(-size // lanes)
            partial = size - (width - 1) * lanes
            for number, term in enumerate(range(0, self.terms, self.rows)):
                own = [s + term * by_term + first * by_lane for s, (by_term, by_lane) in zip(starts, self.operands.strides, strict=True)]
                self._part(own, term * width, min(self.rows, self.terms - term), size, number & 1)
            program = row_program(e, Reduce.SUM_LANE, bound, count=False)
            e.vector(program, [Region(0, 1, width), Region(0, 1, 0)], width, self.terms, lanes=partial)
            e.store(StoreSource.V1, to + 4 * first, 1, size * 4, 0, 0)
            e.end_tile()

    def _part(self, starts: Sequence[int], place: int, rows: int, size: int, side: int) -> None:
        """So many terms of ``size`` results, from word ``place`` of V0 on."""
        e, operands = self.e, self.operands
        width = -(-size // e.config.vector_lanes)
        partial = size - (width - 1) * e.config.vector_lanes
        more = self.terms * width + side * self._beside(self.rows, width)
        x, tiles, work = operands.load(starts, rows, size, place, more, side * e.capacity(LoadTarget.V1))
        operands.prepare(tiles, rows, width, partial)
        emit_chain(e, instructions_of(self.steps), Source.V0, x, tiles, work, rows, width, lanes=partial)


@kernel(Work.REDUCTION)
def chain_sum(e: Emitter, name: str, how: ChainSum, bound: Scalar) -> View:
    """The sums of a chain, as ``how`` makes them, which fits."""
    return how.write(name, bound)
