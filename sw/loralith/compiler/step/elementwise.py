"""Elementwise kernels over tensors in device memory: operands that are rows of the result's layout are loaded as they lie, a value for each
row is loaded into all lanes, and everything else is copied into the layout first."""

from __future__ import annotations

from collections.abc import Sequence

from loralith.compiler.step.chains import Prepared, Scalar, Step, instructions_of
from loralith.compiler.step.copies import aligned, copy
from loralith.compiler.step.elementwise_tiles import Draw, Plan, Prepare, TileOperands, emit_tiles
from loralith.compiler.step.emitter import Emitter, Work, kernel
from loralith.compiler.step.views import View, collapse
from loralith.errors import LoralithError
from loralith.spec.commands import FORMAT_BYTES, VectorFormat
from loralith.spec.vector.program import HASH_LANES

__all__ = [
    "Draw",
    "as_scalar",
    "elementwise",
    "elementwise_with_largest",
    "largest_of",
    "layout_order",
    "materialize",
    "new_tensor",
    "row_fits",
    "with_prepared",
]


NOTHING: Prepared = {}


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


def spread_dims(view: View, main: View, order: Sequence[int]) -> list[int]:
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


def row_fits(e: Emitter, view: View, strides: Sequence[int]) -> bool:
    """Whether an operand can be loaded as rows along the lanes, or as a value for each row."""
    return strides[-1] == 0 or (strides[-1] == 1 and aligned(view, strides[:-1], e.config.bus_bytes))


def with_prepared(views: Sequence[View], prepared: Prepared) -> tuple[list[View], list[Prepare]]:
    """``views`` and, after them, what ``prepared`` reads; how those are prepared."""
    before = [Prepare(number + 1, instructions_of(own)) for number, (own, _) in prepared.items()]
    found = list(views)
    for one, (_, more) in zip(before, prepared.values(), strict=True):
        one.reads = range(len(found), len(found) + len(more))
        found += more
    return found, before


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
    count = len(views)
    views, before = with_prepared(views, prepared)
    shape = views[0].shape
    main = max(views, key=lambda view: (distinct(view), along is not None and view.strides[along] == 1))
    order = layout_order(main)
    if draw is not None:
        order = [*(d for d in range(len(shape)) if d != draw.lanes), draw.lanes]
    for i, view in enumerate(views):
        whole = spread_dims(view, main, order)
        if whole:
            views[i] = materialize(e, view, order, whole=whole)
            temporary.append(views[i])
    for attempt in range(3):
        bad = []
        split = len(order) - 1 if draw is not None and shape[order[-1]] % HASH_LANES else None
        result, plan = _layout(e, name, format, shape, order, views, split)
        for i, view in enumerate(views):
            if not row_fits(e, view, plan.operands[i]):
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
    largest = emit_tiles(TileOperands(e, views[:count], views[count:], before), steps, result, plan, draw, top, keep)
    for view in temporary:
        e.release(view.buffer)
    return result, largest


def _layout(
    e: Emitter, name: str, format: VectorFormat, shape: Sequence[int], order: Sequence[int], views: Sequence[View], split: int | None
) -> tuple[View, Plan]:
    """The result, without gaps where its rows begin at bus words anyway, and how to go over it and its operands."""
    bus = e.config.bus_bytes

    def plan_of(result: View) -> Plan:
        ordered = [[view.strides[d] if view.shape[d] > 1 else 0 for d in order] for view in (*views, result)]
        sizes, strides = collapse([shape[d] for d in order], *ordered)
        if not sizes:
            sizes, strides = [1], [[0] for _ in ordered]
            strides[-1] = [1]
        elif split is not None and shape[order[-1]] == 1:  # rows of one element
            sizes, strides = [*sizes, 1], [[*own, 0] for own in strides]
            strides[-1][-1] = 1
        return Plan(sizes, strides[:-1], strides[-1])

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
