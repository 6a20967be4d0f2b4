"""Reductions whose results lie along the lanes: what is reduced is gone over word by word, and each lane keeps its own sum or maximum."""

from __future__ import annotations

from collections.abc import Sequence

from loralith.compiler.step.chains import Scalar
from loralith.compiler.step.copies import aligned, copy, offsets
from loralith.compiler.step.elementwise import new_tensor
from loralith.compiler.step.emitter import Emitter, Region
from loralith.compiler.step.instructions import instruction
from loralith.compiler.step.views import View, collapse
from loralith.spec.commands import LoadTarget, StoreSource, VectorFormat
from loralith.spec.vector.program import Format, Operand, Reduce, Source, Target

__all__ = ["along_lanes", "reduce_lanes", "row_program", "transposed_copy"]

PER_ROW = 130
"""Cycles that a row costs besides its words where the lanes' results are reduced to one, about; docs/vector_unit.md."""
PER_ELEMENT = 3
"""Cycles of an element that is copied, about."""
_BY_LANE = {Reduce.SUM_ALL: Reduce.SUM_LANE, Reduce.TOP_ALL: Reduce.TOP_LANE, Reduce.MAX_ALL: Reduce.MAX_LANE}


def row_program(e: Emitter, reduce: Reduce, bound: Scalar | None, count: bool) -> tuple[bytes, bytes]:
    """Instructions that reduce a row of V0, at region 0, and leave its result at region 1, V1. ``bound``: of a sum's elements, or None;
    ``count``: the row holds integers, of which the sum is wanted."""
    fields: dict[str, int] = {}
    if bound is not None:
        fields["s2"] = e.scalar(bound.key, bound.address)
    if count:
        fields = {"s2": e.scalar(1.0, e.number(1.0)), "format": Format.INT8}
    return (
        instruction(x_source=Source.V0, x_region=0, reduce=reduce, lane=0, **fields),
        instruction(b=Operand.L0, once=1, target=Target.V1, target_region=1),
    )


def along_lanes(e: Emitter, view: View, kept: Sequence[int], over: Sequence[int]) -> bool:
    """Whether the results of a reduction over ``over`` lie along the lanes as ``view`` lies."""
    if not kept or view.strides[kept[-1]] != 1:
        return False
    sizes, (strides,) = collapse([view.shape[d] for d in over], [view.strides[d] for d in over])
    _, (outside,) = collapse([view.shape[d] for d in kept], [view.strides[d] for d in kept])
    fits = len(sizes) == 1 and sizes[0] * _step(e) // e.config.vector_lanes <= e.config.v0_words
    return fits and aligned(view, [*strides, *outside[:-1]], e.config.bus_bytes)


def _step(e: Emitter) -> int:
    """Elements along the lanes that a tile is a multiple of: whole words, and whole bus words in each format."""
    return max(e.config.vector_lanes, e.config.bus_bytes)


def transposed_copy(e: Emitter, view: View, kept: Sequence[int], over: Sequence[int], rows: int, run: int) -> View | None:
    """A copy of ``view`` whose results lie along the lanes, where that and the reduction take less than ``rows`` rows of ``run``."""
    lanes = e.config.vector_lanes
    straight = rows * (PER_ROW + lanes + run // lanes)
    transposed = PER_ELEMENT * rows * run + -(-rows // lanes) * (PER_ROW + run)
    if transposed >= straight or run * _step(e) // lanes > e.config.v0_words or rows < lanes:
        return None
    rest = [d for d in range(len(view.shape)) if d not in kept and d not in over]
    own = tuple(n if s else 1 for n, s in zip(view.shape, view.strides, strict=True))
    order = [*rest, *over, *kept]
    made = new_tensor(e, f"{view.buffer.name}, copied", view.buffer.format, own, order, len(rest) + len(over))
    copy(e, View(view.buffer, own, view.strides, view.offset), made)
    return View(made.buffer, view.shape, tuple(s if n > 1 else 0 for n, s in zip(own, made.strides, strict=True)))


def reduce_lanes(
    e: Emitter,
    name: str,
    source: View,
    kept: Sequence[int],
    over: Sequence[int],
    reduce: Reduce,
    bound: Scalar | None = None,
    count: bool = False,
) -> View:
    """``reduce`` of a view that `along_lanes` takes, over ``over``; results lie in the order of ``kept``.
    ``count``: the sum of integers."""
    shape = [n if d in kept else 1 for d, n in enumerate(source.shape)]
    rest = [d for d in range(len(shape)) if d not in kept]
    row = len(kept)
    size = 1
    while row and source.strides[kept[row - 1]] == size:  # dimensions that are one row of the source
        row -= 1
        size *= source.shape[kept[row]]
    result = new_tensor(e, name, VectorFormat.FP32, shape, [*rest, *kept], len(rest) + row)
    own = [[view.strides[d] for d in kept[:row]] for view in (source, result)]
    (n,), ((stride,),) = collapse([source.shape[d] for d in over], [source.strides[d] for d in over])
    for from_, to in offsets([source.shape[d] for d in kept[:row]], *own):
        _row(e, source, from_, size, n, stride, result, to, _BY_LANE[reduce], bound, count)
    return result


def _row(
    e: Emitter,
    source: View,
    start: int,
    size: int,
    n: int,
    stride: int,
    result: View,
    to: int,
    reduce: Reduce,
    bound: Scalar | None,
    count: bool,
) -> None:
    """``size`` results of ``n`` elements each."""
    lanes = e.config.vector_lanes
    step = _step(e)
    whole = n * step // lanes > e.capacity(LoadTarget.V0)
    words = e.config.v0_words if whole else e.capacity(LoadTarget.V0)
    chunk = min(words // n, e.capacity(LoadTarget.V1)) * lanes // step * step
    for first in range(0, size, chunk):
        own = min(chunk, size - first)
        width = -(-own // lanes)
        address = source.buffer.address + (source.offset + start + first) * source.size
        more = {"block_stride": width} if n > 1 else {}
        e.load(LoadTarget.V0, address, n, own * source.size, stride * source.size, 0, format=source.buffer.format, **more)
        program = row_program(e, reduce, bound, count)
        e.vector(program, [Region(0, 1, width), Region(0, 1, 0)], width, n, lanes=own - (width - 1) * lanes)
        e.store(StoreSource.V1, result.buffer.address + (result.offset + to + first) * 4, 1, own * 4, 0, 0)
        e.end_tile()
