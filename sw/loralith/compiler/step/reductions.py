"""Reductions over tensors in device memory: sums with a bound, counts of integers, largest values, the largest magnitude of a tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

from loralith.compiler.step.chains import Scalar
from loralith.compiler.step.copies import aligned, copy, offsets
from loralith.compiler.step.counts import PART, PART_COUNT
from loralith.compiler.step.elementwise import layout_order, materialize, new_tensor
from loralith.compiler.step.emitter import Emitter, Region, Work, kernel
from loralith.compiler.step.group_reductions import groups_of, sum_groups
from loralith.compiler.step.instructions import instruction
from loralith.compiler.step.lane_reductions import along_lanes, reduce_lanes, row_program, transposed_copy
from loralith.compiler.step.views import View, collapse
from loralith.errors import LoralithError
from loralith.spec.commands import LoadTarget, StoreSource, VectorFormat
from loralith.spec.vector.program import Operand, Reduce, Source, Target

__all__ = ["largest", "reduce_rows", "sum_of_counts"]


@kernel(Work.REDUCTION)
def reduce_rows(
    e: Emitter, name: str, view: View, dims: Sequence[int], reduce: Reduce, bound: Scalar | None = None, count: bool = False
) -> View:
    """``reduce`` (SUM_ALL, TOP_ALL, MAX_ALL) over ``dims``, which stay with size 1. ``count``: the sum of integers.

    Raises LoralithError where a sum with a bound does not fit into V0: it is made by one command. Maxima and counts are made of parts.
    """
    cut = _cut(e, view, dims) if bound is None else None
    if cut is not None:
        return _in_parts(e, name, view, dims, *cut, reduce, count)
    kept = [d for d in layout_order(view) if d not in dims and view.shape[d] > 1]
    over = [d for d in layout_order(view) if d in dims and view.shape[d] > 1]
    if along_lanes(e, view, kept, over):
        return reduce_lanes(e, name, view, kept, over, reduce, bound, count)
    groups = None if bound is None else groups_of(e, view, kept, over)
    if groups is not None and bound is not None:
        return sum_groups(e, name, view, kept, groups, bound)
    temporary = None
    sizes, strides, rows, row_strides = _rows(view, kept, over)
    repeated = any(view.strides[d] == 0 for d in over)
    transposed = None if repeated else transposed_copy(e, view, kept, over, math.prod(rows), math.prod(sizes))
    if transposed is not None:
        result = reduce_lanes(e, name, transposed, kept, over, reduce, bound, count)
        e.release(transposed.buffer)
        return result
    if len(sizes) > 1 or strides[-1] != 1 or not aligned(view, row_strides, e.config.bus_bytes):
        whole = View(view.buffer, view.shape, view.strides, view.offset)
        rest = [d for d in range(len(view.shape)) if d not in kept and d not in over]
        if repeated:
            raise LoralithError(f"{name}: a sum over a dimension that {view.buffer.name} repeats")
        temporary = _rows_copy(e, whole, [*rest, *kept, *over], len(rest) + len(kept))
        sizes, strides, rows, row_strides = _rows(temporary, kept, over)
    source = temporary or view
    shape = [1 if d in dims else n for d, n in enumerate(view.shape)]
    result = new_tensor(e, name, VectorFormat.FP32, shape, [*[d for d in range(len(shape)) if d not in kept], *kept])
    _reduce(e, name, source, sizes[-1], rows, row_strides, result, reduce, bound, count)
    if temporary is not None:
        e.release(temporary.buffer)
    return result


def _cut(e: Emitter, view: View, dims: Sequence[int]) -> tuple[int, int] | None:
    """(dimension, elements of a part) of a maximum or a count that V0 does not hold at once; None for one that it holds."""
    lanes = e.config.vector_lanes
    kept = [d for d in layout_order(view) if d not in dims and view.shape[d] > 1]
    across = bool(kept) and view.strides[kept[-1]] == 1
    words = math.prod(view.shape[d] for d in dims) * (max(lanes, e.config.bus_bytes) if across else 1) // lanes
    if words <= e.config.v0_words:
        return None
    long = max(dims, key=lambda d: view.shape[d])
    part = max(n for n in range(1, PART + 1) if view.shape[long] % n == 0)
    return None if part == 1 else (long, part)


def _in_parts(e: Emitter, name: str, view: View, dims: Sequence[int], d: int, part: int, reduce: Reduce, count: bool) -> View:
    """Of parts of dimension ``d``, then of what they gave. A part's count is a word exactly, and so the total is rounded once."""

    def cut(own: Sequence[int], *sizes: int) -> tuple[int, ...]:
        return (*own[:d], *sizes, *own[d + 1 :])

    stride = view.strides[d]
    inside = View(view.buffer, cut(view.shape, view.shape[d] // part, part), cut(view.strides, stride * part, stride), view.offset)
    parts = reduce_rows(e, f"{name}, of parts", inside, (d + 1,), reduce, None, count)
    left = View(parts.buffer, cut(view.shape, view.shape[d] // part), (*parts.strides[: d + 1], *parts.strides[d + 2 :]), parts.offset)
    bound = Scalar(PART_COUNT, e.number(PART_COUNT)) if count else None
    result = reduce_rows(e, name, left, dims, reduce, bound)
    e.release(parts.buffer)
    return result


def sum_of_counts(e: Emitter, name: str, parts: View, d: int) -> View:
    """The sum of ``parts`` over dimension ``d``, each a count of at most `PART` integers, exact and rounded once; ``parts`` itself, or
    instead of it."""
    if parts.shape[d] == 1:
        return parts
    result = reduce_rows(e, name, parts, (d,), Reduce.SUM_ALL, Scalar(PART_COUNT, e.number(PART_COUNT)))
    e.release(parts.buffer)
    return result


def _rows_copy(e: Emitter, view: View, order: Sequence[int], split: int) -> View:
    """A copy whose dimensions from place ``split`` of the order on are a row; each begins at a bus word."""
    own = tuple(n if s else 1 for n, s in zip(view.shape, view.strides, strict=True))
    made = new_tensor(e, f"{view.buffer.name}, copied", view.buffer.format, own, order, split)
    copy(e, View(view.buffer, own, view.strides, view.offset), made)
    return View(made.buffer, view.shape, tuple(s if n > 1 else 0 for n, s in zip(own, made.strides, strict=True)))


def _rows(view: View, kept: Sequence[int], over: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    sizes, (strides,) = collapse([view.shape[d] for d in over], [view.strides[d] for d in over])
    rows, (row_strides,) = collapse([view.shape[d] for d in kept], [view.strides[d] for d in kept])
    return sizes or [1], strides or [1], rows or [1], row_strides or [0]


def _reduce(
    e: Emitter,
    name: str,
    source: View,
    run: int,
    rows: list[int],
    row_strides: list[int],
    result: View,
    reduce: Reduce,
    bound: Scalar | None,
    count: bool,
) -> None:
    lanes = e.config.vector_lanes
    width = -(-run // lanes)
    whole = width > e.capacity(LoadTarget.V0)
    capacity = e.config.v0_words if whole else e.capacity(LoadTarget.V0)
    if width > capacity:
        raise LoralithError(
            f"{name}: a reduction over {run} elements takes {width} words of {lanes} lanes, and V0 has {e.config.v0_words}; a sum is "
            "made by one command"
        )
    most = e.capacity(LoadTarget.V1)  # a multiple of a bus word's results
    *outside, inner = rows
    done = used = base = 0
    for (start,) in offsets(outside, row_strides[:-1]):
        first = 0
        while first < inner:
            own = min(max(1, capacity // width), inner - first, most - used)
            _part(e, source, start + first * row_strides[-1], own, run, row_strides[-1], base, used, reduce, bound, count)
            base = 0 if whole else capacity - base
            first, used = first + own, used + own
            if used == most:
                _results(e, result, done, used)
                done, used = done + used, 0
    if used:
        _results(e, result, done, used)


def _results(e: Emitter, result: View, done: int, count: int) -> None:
    """Words of V1, one a result, to memory after the ``done`` ones that are there."""
    e.store(StoreSource.V1, result.buffer.address + 4 * done, 1, 4 * count, 0, 0, broadcast=1)
    e.end_tile()


def _part(
    e: Emitter,
    source: View,
    start: int,
    rows: int,
    run: int,
    stride: int,
    base: int,
    target: int,
    reduce: Reduce,
    bound: Scalar | None,
    count: bool,
) -> None:
    """Rows of the source to V0, their results to V1, one a word."""
    lanes = e.config.vector_lanes
    width = _load_rows(e, source, start, rows, run, stride, base)
    program = row_program(e, reduce, bound, count)
    partial = run - (width - 1) * lanes
    e.vector(program, [Region(base, width, 1), Region(target, 1, 0)], rows, width, lanes=partial, partial_inner=1)


def _load_rows(e: Emitter, source: View, start: int, rows: int, run: int, stride: int, base: int) -> int:
    """Rows of ``run`` elements to V0; how many words each takes."""
    width = -(-run // e.config.vector_lanes)
    address = source.buffer.address + (source.offset + start) * source.size
    more = {"block_stride": width} if rows > 1 else {}
    e.load(LoadTarget.V0, address, rows, run * source.size, stride * source.size, base, format=source.buffer.format, **more)
    return width


@kernel(Work.REDUCTION)
def largest(e: Emitter, name: str, view: View) -> View:
    """The largest magnitude of all elements, a scalar."""
    own = tuple(n if s else 1 for n, s in zip(view.shape, view.strides, strict=True))
    source = View(view.buffer, own, view.strides, view.offset)
    order = layout_order(source)
    temporary = None
    sizes, (strides,) = collapse([own[d] for d in order], [source.strides[d] for d in order])
    sizes, strides = sizes or [1], strides or [1]
    if strides[-1] != 1 or not aligned(source, strides[:-1], e.config.bus_bytes):
        temporary = source = materialize(e, source, order)
        order = layout_order(source)
        sizes, (strides,) = collapse([own[d] for d in order], [source.strides[d] for d in order])
    result = new_tensor(e, name, VectorFormat.FP32, (), [])
    _Largest(e, source, sizes, strides, result).run()
    if temporary is not None:
        e.release(temporary.buffer)
    return View(result.buffer, (), ())


class _Largest:
    """Rows' largest magnitudes gather in V1, those of V1 at the end in a scalar."""

    def __init__(self, e: Emitter, source: View, sizes: list[int], strides: list[int], result: View) -> None:
        self.e, self.source, self.result = e, source, result
        self.sizes, self.strides = ([1, *sizes], [0, *strides]) if len(sizes) == 1 else (sizes, strides)
        self.room = e.capacity(LoadTarget.V1)
        self.used = 0

    def run(self) -> None:
        e, lanes = self.e, self.e.config.vector_lanes
        *outside, rows, run = self.sizes
        capacity = e.capacity(LoadTarget.V0)
        chunk = min(run, capacity * lanes)
        most = max(1, capacity // -(-chunk // lanes))
        tiles = [
            (start + first * self.strides[-2] + at, min(most, rows - first), min(chunk, run - at))
            for (start,) in offsets(outside, self.strides[:-2])
            for first in range(0, rows, most)
            for at in range(0, run, chunk)
        ]
        scalar = e.scalar_result()
        if len(tiles) == 1:
            self._tile(*tiles[0], 0, scalar)
        else:
            for number, tile in enumerate(tiles):
                if self.used == self.room:
                    self._fold()
                self._tile(*tile, (number & 1) * capacity)
                self.used += 1
            program = (instruction(x_source=Source.V1, x_region=0, reduce=Reduce.MAX_ALL, reduce_to=1, s3=scalar),)
            e.vector(program, [Region(0, 0, 1)], 1, self.used)
        e.store(StoreSource.SCALARS, self.result.buffer.address, 1, 4, 0, scalar)
        e.end_tile()

    def _tile(self, begin: int, rows: int, run: int, base: int, scalar: int | None = None) -> None:
        """The largest of a tile's elements to the next word of V1, or to a scalar."""
        e, lanes = self.e, self.e.config.vector_lanes
        width = _load_rows(e, self.source, begin, rows, run, self.strides[-2], base)
        partial = run - (width - 1) * lanes
        fields = {"x_source": Source.V0, "reduce": Reduce.MAX_ALL, "over_outer": 1}
        if scalar is not None:
            program: tuple[bytes, ...] = (instruction(**fields, reduce_to=1, s3=scalar),)
        else:
            program = (instruction(**fields), instruction(b=Operand.L0, once=1, target=Target.V1, target_region=1))
        target = Region(self.used)
        if partial == lanes:
            e.vector(program, [Region(base, 0, 1), target], 1, rows * width)
        elif width < rows:  # all words of the last outer iteration are rows' last ones
            e.vector(program, [Region(base, 1, width), target], width, rows, partial)
        else:
            e.vector(program, [Region(base, width, 1), target], rows, width, partial, 1)

    def _fold(self) -> None:
        """The largest of V1 becomes its first word."""
        program = (
            instruction(x_source=Source.V1, x_region=0, reduce=Reduce.MAX_ALL, lane=0),
            instruction(b=Operand.L0, once=1, target=Target.V1, target_region=0),
        )
        self.e.vector(program, [Region(0, 0, 1)], 1, self.used)
        self.used = 1
