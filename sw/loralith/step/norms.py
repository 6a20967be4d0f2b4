"""GroupNorm and LayerNorm, forward and backward, as torch calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import fx

from . import operator_programs as programs
from .values import Value

if TYPE_CHECKING:
    from .lowering import _Lowering

__all__ = ["NORMS"]


def _group_norm(
    low: _Lowering, x: fx.Node, w: fx.Node | None, bias: fx.Node | None, n: int, c: int, hw: int, groups: int, eps: float
) -> tuple[Value, ...]:
    b, node = low.b, low.value(x).node
    shape = (1, groups, c // groups, 1)
    weight, offset = (None if p is None else b.reshape(low.value(p).node, shape) for p in (w, bias))
    y, mean, rstd = programs.norm(b, b.reshape(node, (n, groups, c // groups, hw)), (2, 3), weight, offset, eps)
    return low.stored(b.reshape(y, node.shape)), low.made(mean), low.made(rstd)


def _group_norm_backward(
    low: _Lowering,
    grad: fx.Node,
    x: fx.Node,
    mean: fx.Node,
    rstd: fx.Node,
    w: fx.Node | None,
    n: int,
    c: int,
    hw: int,
    groups: int,
    mask: Any,
) -> tuple[Value | None, ...]:
    b, node = low.b, low.value(x).node
    whole, one = (n, groups, c // groups, hw), (n, groups, 1, 1)
    weight = None if w is None else b.reshape(low.value(w).node, (1, groups, c // groups, 1))
    g, own, m, r = (b.reshape(low.value(v).node, shape) for v, shape in ((grad, whole), (x, whole), (mean, one), (rstd, one)))
    dx = programs.norm_backward(b, g, own, m, r, (2, 3), weight)
    return low.stored(b.reshape(dx, node.shape)), None, None


def _layer_norm(low: _Lowering, x: fx.Node, shape: Any, w: fx.Node | None, bias: fx.Node | None, eps: float) -> tuple[Value, ...]:
    weight, offset = (None if p is None else low.value(p).node for p in (w, bias))
    node = low.value(x).node
    dims = tuple(range(len(node.shape) - len(shape), len(node.shape)))
    y, mean, rstd = programs.norm(low.b, node, dims, weight, offset, eps)
    return low.stored(y), low.made(mean), low.made(rstd)


def _layer_norm_backward(
    low: _Lowering, grad: fx.Node, x: fx.Node, shape: Any, mean: fx.Node, rstd: fx.Node, w: fx.Node | None, bias: Any, mask: Any
) -> tuple[Value | None, ...]:
    g, node, m, r = (low.value(v).node for v in (grad, x, mean, rstd))
    dims = tuple(range(len(node.shape) - len(shape), len(node.shape)))
    weight = None if w is None else low.value(w).node
    return low.stored(programs.norm_backward(low.b, g, node, m, r, dims, weight)), None, None


NORMS: Mapping[str, Callable[..., Any]] = {
    "native_group_norm": _group_norm,
    "native_group_norm_backward": _group_norm_backward,
    "native_layer_norm": _layer_norm,
    "native_layer_norm_backward": _layer_norm_backward,
}
