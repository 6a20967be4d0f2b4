"""Moves of a step graph: arithmetic on strides, or a copy on the device."""

from __future__ import annotations

from collections.abc import Sequence

from loralith.compiler.step.copies import copy
from loralith.compiler.step.elementwise import layout_order, new_tensor
from loralith.compiler.step.emitter import Emitter
from loralith.compiler.step.views import View, expand, permute, reshape, slice_view
from loralith.errors import LoralithError
from loralith.spec.commands import VectorFormat
from loralith.spec.graph import Node, Op

__all__ = ["moved", "reshaped"]


def moved(e: Emitter, node: Node, inputs: Sequence[tuple[View, ...]]) -> tuple[View, ...]:
    """The result of a move; of an integer of several bytes, that of each byte."""
    if node.op is Op.CONCAT:
        return tuple(_concatenated(e, node, views) for views in zip(*inputs, strict=True))
    return tuple(_move(e, node, view) for view in inputs[0])


def _move(e: Emitter, node: Node, view: View) -> View:
    a = node.attributes
    if node.op is Op.PERMUTE:
        return permute(view, a["order"])
    if node.op is Op.SLICE:
        return slice_view(view, a["dim"], a["start"], a["stop"], a["step"])
    if node.op is Op.EXPAND:
        return expand(view, node.shape)
    if node.op is Op.REPEAT:
        return _repeated(e, node, view)
    found = reshape(view, node.shape)
    if found is not None:
        return found
    return _copied(e, node.name, view, view.shape, range(len(view.shape)), node.shape)


def reshaped(e: Emitter, name: str, view: View, shape: Sequence[int]) -> View:
    """The view with another shape: one that nobody else reads, whose buffer is given back where it must be copied."""
    found = reshape(view, shape)
    if found is None:
        found = _copied(e, name, view, view.shape, range(len(view.shape)), shape)
        e.release(view.buffer)
    return found


def _copied(e: Emitter, name: str, view: View, shape: Sequence[int], order: Sequence[int], after: Sequence[int]) -> View:
    made = new_tensor(e, name, view.buffer.format, shape, order)
    copy(e, view, made)
    found = reshape(made, after)
    assert found is not None
    return found


def _repeated(e: Emitter, node: Node, view: View) -> View:
    (n, c, h, w), s = view.shape, view.strides
    shape = (n, c, h, node.attributes["rows"], w, node.attributes["cols"])
    source = View(view.buffer, shape, (s[0], s[1], s[2], 0, s[3], 0), view.offset)
    return _copied(e, node.name, source, shape, (0, 2, 3, 4, 5, 1) if s[1] == 1 else range(6), node.shape)


def _concatenated(e: Emitter, node: Node, views: Sequence[View]) -> View:
    """In the first tensor's layout, or with the joined dimension outermost, where every part begins at a bus word."""
    dim = node.attributes["dim"]
    format = views[0].buffer.format
    if any(view.buffer.format is not format for view in views):
        format = VectorFormat.FP32
    try:
        return _joined(e, node, views, format, layout_order(views[0]))
    except LoralithError:
        return _joined(e, node, views, format, [dim, *(d for d in range(len(node.shape)) if d != dim)])


def _joined(e: Emitter, node: Node, views: Sequence[View], format: VectorFormat, order: Sequence[int]) -> View:
    dim, at = node.attributes["dim"], 0
    result = new_tensor(e, node.name, format, node.shape, order)
    try:
        for view in views:
            copy(e, view, slice_view(result, dim, at, at + view.shape[dim]))
            at += view.shape[dim]
    except LoralithError:
        e.memory.give(result.buffer.address)
        raise
    return result
