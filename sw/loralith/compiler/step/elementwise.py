"""Elementwise kernels over tensors in device memory: operands that are rows of the result's layout are loaded as they lie, a value for each
row is loaded into all lanes, and everything else is copied into the layout first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from loralith.compiler.step.chains import Prepared, Scalar, Step, emit_chain, instructions_of
from loralith.compiler.step.copies import _plan, aligned, copy, load_elements, offsets
from loralith.compiler.step.emitter import Emitter, Region, Work, kernel
from loralith.compiler.step.tile_maxima import TileMaxima
from loralith.compiler.step.views import View, collapse
from loralith.errors import LoralithError
from loralith.spec.commands import FORMAT_BYTES, LoadTarget, StoreSource, VectorFormat
from loralith.spec.graph import Op
from loralith.spec.vector.program import HASH_LANES, Source

__all__ = ["Draw", "as_scalar", "elementwise", "elementwise_with_largest", "largest_of", "layout_order", "materialize", "new_tensor"]


NOTHING: Prepared = {}


@dataclass(frozen=True)
class Draw:
    """Stochastic rounding: the key that is exclusive-ored to the loaded one, and the dimension along the lanes."""

    key: tuple[int, int]
    lanes: int


def as_scalar(view: View, bus: int) -> Scalar | None:
    """A view of one FP32 element as a scalar, where it lies at a bus word."""
    one = all(s == 0 or n == 1 for n, s in zip(view.shape, view.strides, strict=True))
    address = view.buffer.address + view.offset * view.size
    if one and view.buffer.format is VectorFormat.FP32 and address % bus == 0:
        return Scalar((view.buffer.name, view.offset), address)
    return None


def layout_order(view: View) -> list[int]:
    """The view's dimensions as they lie in memory, repeated ones outermost."""
    strides = [0 if n == 1 else s for n, s in zip(view.shape, view.strides, strict=True)]
    return sorted(range(len(strides)), key=lambda d: (strides[d] != 0, -strides[d], d))


def distinct(view: View) -> int:
    count = 1
    for n, s in zip(view.shape, view.strides, strict=True):
        count *= n if s else 1
    return count


def new_tensor(e: Emitter, name: str, format: VectorFormat, shape: Sequence[int], order: Sequence[int], split: int | None = None) -> View:
    """A new tensor that lies in the order ``order``; with ``split``, the dimensions from that place of the order on are rows that begin at
    a bus word each."""
    strides = [0] * len(shape)
    step, run = 1, 0
    for place in range(len(order) - 1, -1, -1):
        strides[order[place]] = step
        step *= shape[order[place]]
        if place == split:
            run = step
            step = _pitch(e, run, format)
    run, pitch = (run, _pitch(e, run, format)) if run else (step, step)
    buffer = e.buffer(name, format, max(step, pitch), run, pitch)
    return View(buffer, tuple(shape), tuple(strides))


def _pitch(e: Emitter, run: int, format: VectorFormat) -> int:
    step = max(1, e.config.bus_bytes // FORMAT_BYTES[format])
    return -(-run // step) * step


def materialize(e: Emitter, view: View, order: Sequence[int], padded: bool = False, split: int = -1, whole: Sequence[int] = ()) -> View:
    """A copy of ``view`` that lies in ``order``, of its own elements alone: dimensions that it repeats stay repeated, but for ``whole``.

    ``padded``: the last dimension (or those from place ``split`` of the order on) are rows that begin at bus words each.
    """
    own = tuple(n if s or d in whole else 1 for d, (n, s) in enumerate(zip(view.shape, view.strides, strict=True)))
    source = View(view.buffer, own, view.strides, view.offset)
    places = [p for p, d in enumerate(order) if own[d] > 1]
    row = (split % len(order) if split != -1 else places[-1]) if places else None
    name = f"{view.buffer.name}, copied"
    if not padded:
        made = new_tensor(e, name, view.buffer.format, own, order)
        try:
            copy(e, source, made)
        except LoralithError:
            e.memory.give(made.buffer.address)
            padded = True
    if padded:
        made = new_tensor(e, name, view.buffer.format, own, order, row)
        copy(e, source, made)
    strides = tuple(s if n > 1 else 0 for n, s in zip(own, made.strides, strict=True))
    return View(made.buffer, view.shape, strides)


SPREAD = 8
"""An operand is spread over dimensions that it repeats where it then has at most this part of the largest operand's elements."""


def _spread(view: View, main: View, order: Sequence[int]) -> list[int]:
    """The innermost dimensions that ``view`` is to be spread over: a group's value along each channel, where rows are all channels and
    the same for many pixels."""
    dims = [d for d in reversed(order) if view.shape[d] > 1]
    found, elements, step = [], distinct(view), 1
    for d in dims:
        if main.strides[d] != step:
            return []
        step *= view.shape[d]
        found.append(d)
        if view.strides[d]:
            return found if len(found) > 1 and elements * SPREAD <= distinct(main) else []
        elements *= view.shape[d]
    return []


SHARING = 4
"""Rows of a tile that share words, at least where there is room."""
NARROW = 32
"""Words of such a row at least: each row is an outer iteration of its VECTOR."""


@dataclass
class _Plan:
    """The iteration: sizes of its dimensions, strides of each operand, of the result."""

    sizes: list[int]
    operands: list[list[int]]
    result: list[int]


def _row_fits(e: Emitter, view: View, strides: Sequence[int]) -> bool:
    """Whether an operand can be loaded as rows along the lanes, or as a value for each row."""
    return strides[-1] == 0 or (strides[-1] == 1 and aligned(view, strides[:-1], e.config.bus_bytes))


def elementwise(
    e: Emitter,
    name: str,
    views: Sequence[View],
    steps: Sequence[Step],
    format: VectorFormat,
    draw: Draw | None = None,
    along: int | None = None,
    prepared: Prepared = NOTHING,
) -> View:
    """``steps`` applied to ``views[0]``; a step's `TensorOperand` i is ``views[i + 1]``. All views have the
    result's shape; those that ``prepared`` knows repeat nothing. The result is new. It lies as the largest operand, of several as the first
    one with dimension ``along`` innermost."""
    return _elementwise(e, name, views, steps, format, draw, along, prepared)[0]


def elementwise_with_largest(
    e: Emitter,
    name: str,
    views: Sequence[View],
    steps: Sequence[Step],
    format: VectorFormat,
    along: int | None = None,
    prepared: Prepared = NOTHING,
) -> tuple[View, View]:
    """As `elementwise`; and the largest magnitude of the result, a scalar."""
    result, largest = _elementwise(e, name, views, steps, format, None, along, prepared, top=True)
    assert largest is not None
    return result, largest


def largest_of(
    e: Emitter, name: str, views: Sequence[View], steps: Sequence[Step], along: int | None = None, prepared: Prepared = NOTHING
) -> View:
    """The largest magnitude of what `elementwise` would give, a scalar; nothing else goes to memory."""
    _, largest = _elementwise(e, name, views, steps, VectorFormat.FP32, None, along, prepared, top=True, keep=False)
    assert largest is not None
    return largest


@kernel(Work.CHAIN)
def _elementwise(
    e: Emitter,
    name: str,
    views: Sequence[View],
    steps: Sequence[Step],
    format: VectorFormat,
    draw: Draw | None,
    along: int | None,
    prepared: Prepared,
    top: bool = False,
    keep: bool = True,
) -> tuple[View, View | None]:
    """(the result, its largest magnitude where ``top``); with ``keep`` False the result stays on chip."""
    temporary: list[View] = []
    before = [_Before(number + 1, instructions_of(own)) for number, (own, _) in prepared.items()]
    count, views = len(views), list(views)
    for one, (_, more) in zip(before, prepared.values(), strict=True):
        one.reads = range(len(views), len(views) + len(more))
        views += more
    shape = views[0].shape
    main = max(views, key=lambda view: (distinct(view), along is not None and view.strides[along] == 1))
    order = layout_order(main)
    if draw is not None:
        order = [*(d for d in range(len(shape)) if d != draw.lanes), draw.lanes]
    for i, view in enumerate(views):
        whole = _spread(view, main, order)
        if whole:
            views[i] = materialize(e, view, order, whole=whole)
            temporary.append(views[i])
    for attempt in range(3):
        bad = []
        split = len(order) - 1 if draw is not None and shape[order[-1]] % HASH_LANES else None
        result, plan = _layout(e, name, format, shape, order, views, split)
        for i, view in enumerate(views):
            if not _row_fits(e, view, plan.operands[i]):
                bad.append(i)
        if not bad:
            break
        e.memory.give(result.buffer.address)
        for i in bad:
            rows = plan.operands[i][-1] == 1  # that do not begin at bus words: in a copy of such rows they do
            views[i] = materialize(e, views[i], order, padded=attempt > 0 or split is not None or rows)
            temporary.append(views[i])
    else:
        raise LoralithError(f"{name}: its operands have no common layout")
    if not keep:
        e.memory.give(result.buffer.address)
    largest = _tiles(_Kernel(e, views[:count], views[count:], before), steps, result, plan, draw, top, keep)
    for view in temporary:
        e.release(view.buffer)
    return result, largest


def _layout(
    e: Emitter, name: str, format: VectorFormat, shape: Sequence[int], order: Sequence[int], views: Sequence[View], split: int | None
) -> tuple[View, _Plan]:
    """The result, without gaps where its rows begin at bus words anyway, and how to go over it and its operands."""
    bus = e.config.bus_bytes

    def plan_of(result: View) -> _Plan:
        ordered = [[view.strides[d] if view.shape[d] > 1 else 0 for d in order] for view in (*views, result)]
        sizes, strides = collapse([shape[d] for d in order], *ordered)
        if not sizes:
            sizes, strides = [1], [[0] for _ in ordered]
            strides[-1] = [1]
        elif split is not None and shape[order[-1]] == 1:  # rows of one element
            sizes, strides = [*sizes, 1], [[*own, 0] for own in strides]
            strides[-1][-1] = 1
        return _Plan(sizes, strides[:-1], strides[-1])

    if split is None:
        result = new_tensor(e, name, format, shape, order)
        plan = plan_of(result)
        if aligned(result, plan.result[:-1], bus):
            return result, plan
        e.memory.give(result.buffer.address)
        # The last collapsed dimension is a row.
        run, place, size = plan.sizes[-1], len(order), 1
        while size < run:
            place -= 1
            size *= shape[order[place]]
        split = place
    result = new_tensor(e, name, format, shape, order, split)
    return result, plan_of(result)


def _tiles(
    kernel: _Kernel,
    steps: Sequence[Step],
    result: View,
    plan: _Plan,
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
    chunk, most = kernel.tile(rows)
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
class _Before:
    """Operand ``operand`` goes through ``chain`` before it is used; ``reads``: the numbers of what that reads."""

    operand: int
    chain: Sequence[Any]
    reads: range = range(0)


class _Kernel:
    """Where a tile's operands lie on chip: X and the result in V0, the others in V1; in V0 what those read that go through steps of their
    own first."""

    def __init__(self, e: Emitter, views: Sequence[View], more: Sequence[View], before: Sequence[_Before]) -> None:
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

    def tile(self, rows: int) -> tuple[int, int]:
        """(elements of a row, rows) of a tile that fits."""
        e = self.e
        lanes = e.config.vector_lanes
        width = -(-self.run // lanes)
        step = max(1, e.config.bus_bytes // lanes)
        first, second = e.capacity(LoadTarget.V0), e.capacity(LoadTarget.V1)

        def fits(count: int, width: int) -> bool:
            work = count * width
            x = work if self.whole_x(count) else work + self.words(0, count, width)
            x += sum(self.words(i, count, width) for i in self.more)
            return x <= first and sum(self.words(i, count, width) for i in self.second) <= second

        while not fits(1, width) and width > step:
            width = -(-width // 2 // step) * step
        if not fits(1, width):
            raise LoralithError(f"{self.views[0].buffer.name}: {len(self.views)} operands do not fit into V0 and V1")
        count = self._most(rows, width, fits)
        # Words that all rows share are loaded for each tile: of shorter rows a tile has more.
        shared = any(self.kind(i) == "row" for i in self.second)
        while shared and count < SHARING and width > NARROW and width // 2 % step == 0:
            more = self._most(rows, width // 2, fits)
            if more <= count:
                break
            width, count = width // 2, more
        return min(width * lanes, self.run), count

    @staticmethod
    def _most(rows: int, width: int, fits: Callable[[int, int], bool]) -> int:
        count = rows
        while not fits(count, width):
            count -= 1 if count <= SHARING else count // 2
        return count

    def whole_x(self, rows: int) -> bool:
        return self.kind(0) == "whole" or (self.kind(0) == "row" and rows == 1)

    def load(self, starts: Sequence[int], rows: int, size: int) -> tuple[Region, list[Region], Region]:
        """(X, operands, result) of a tile whose operands begin ``starts`` elements after their views."""
        e = self.e
        width = -(-size // e.config.vector_lanes)
        work = Region(0, width, 1)
        at = 0 if self.whole_x(rows) else rows * width
        x, words = self._one(0, LoadTarget.V0, starts[0], rows, size, at)
        at = max(at + words, rows * width)
        for i in self.more:
            self._regions[i], words = self._one(i, LoadTarget.V0, starts[i], rows, size, at)
            at += words
        at, tiles = 0, []
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
