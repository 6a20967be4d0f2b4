"""Torch's views as moves of a value: on nodes of a step graph and on torch tensors, forth and back.

Each function takes the shape that is looked at and the torch operator's arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .values import Step

__all__ = ["expand", "permute", "same", "squeeze", "transpose", "unsqueeze", "view"]


def view(shape: tuple[int, ...], size: Sequence[int]) -> Step:
    return Step(lambda b, n: b.reshape(n, size), lambda t: t.reshape(size), lambda b, n: b.reshape(n, shape), lambda t: t.reshape(shape))


def permute(shape: tuple[int, ...], order: Sequence[int]) -> Step:
    order = [d % len(shape) for d in order]
    back = [order.index(d) for d in range(len(order))]
    return Step(lambda b, n: b.permute(n, order), lambda t: t.permute(order), lambda b, n: b.permute(n, back), lambda t: t.permute(back))


def transpose(shape: tuple[int, ...], first: int = 0, second: int = 1) -> Step:
    order = list(range(len(shape)))
    order[first], order[second] = order[second], order[first]
    return permute(shape, order)


def expand(shape: tuple[int, ...], size: Sequence[int], **kwargs: Any) -> Step:
    padded = (1,) * (len(size) - len(shape)) + shape
    full = [old if new == -1 else new for old, new in zip(padded, size, strict=True)]
    if tuple(full) == shape:
        return same(shape)
    return Step(lambda b, n: b.expand(b.reshape(n, padded), full), lambda t: t.expand(full), None, None)


def unsqueeze(shape: tuple[int, ...], dim: int) -> Step:
    dim %= len(shape) + 1
    return view(shape, (*shape[:dim], 1, *shape[dim:]))


def squeeze(shape: tuple[int, ...], dim: int) -> Step:
    dim %= len(shape)
    return view(shape, (*shape[:dim], *shape[dim + 1 :])) if shape[dim] == 1 else same(shape)


def same(shape: tuple[int, ...], *args: Any, **kwargs: Any) -> Step:
    return Step(lambda b, n: n, lambda t: t, lambda b, n: n, lambda t: t)
