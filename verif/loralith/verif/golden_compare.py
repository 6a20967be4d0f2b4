"""Where two results part: the first element that differs, and a report that names its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Difference", "compare", "first_difference"]

_AS_INTEGER = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}

Number = int | float


def first_difference(expected: Any, actual: Any) -> tuple[tuple[int, ...], Number, Number] | None:
    """The first element, in row-major order, whose bits differ: (index, expected, actual); None where there is none.

    Parameters: tensors or numpy arrays. Floats are compared by their bits, so that 0.0 and -0.0 differ and equal NaNs do not.
    Raises ValueError where types or shapes differ.
    """
    expected, actual = torch.as_tensor(expected), torch.as_tensor(actual)
    for what, one, two in (("type", expected.dtype, actual.dtype), ("shape", tuple(expected.shape), tuple(actual.shape))):
        if one != two:
            raise ValueError(f"expected the {what} {one}, not {two}")
    wrong = _bits(expected) != _bits(actual)
    if not wrong.any():
        return None
    index = tuple(int(i) for i in wrong.nonzero()[0])
    return index, expected[index].item(), actual[index].item()


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(_AS_INTEGER[x.dtype]) if x.dtype in _AS_INTEGER else x


@dataclass(frozen=True)
class Difference:
    """The first difference of a comparison. `str` gives the report, one line.

    Attributes: ``step``, ``layer``, ``tensor``, ``index``: where; ``expected``, ``actual``: the two values; ``count`` of ``total``
    elements of that tensor differ.
    """

    step: int
    layer: str
    tensor: str
    index: tuple[int, ...]
    expected: Number
    actual: Number
    count: int
    total: int

    def __str__(self) -> str:
        place = ", ".join(map(str, self.index))
        return (
            f"step {self.step}, layer {self.layer}: {self.tensor}[{place}] is {self.actual}, expected {self.expected} "
            f"({self.count} of {self.total} elements differ)"
        )


def compare(expected: Mapping[str, Any], actual: Mapping[str, Any], *, layer: str = "0", step: int = 0) -> Difference | None:
    """The first difference between two sets of tensors, in the order of ``expected``; None where all bits agree.

    With tensors in the order in which they are computed, this is the difference nearest to its cause. Tensors of ``actual`` alone
    are not looked at. Raises ValueError for a tensor that ``actual`` lacks, or of another type or shape.
    """
    for name, wanted in expected.items():
        if name not in actual:
            raise ValueError(f"step {step}, layer {layer}: {name} is missing")
        try:
            found = first_difference(wanted, actual[name])
        except ValueError as error:
            raise ValueError(f"step {step}, layer {layer}, {name}: {error}") from error
        if found is not None:
            one, two = torch.as_tensor(wanted), torch.as_tensor(actual[name])
            count = int((_bits(one) != _bits(two)).sum())
            return Difference(step, layer, name, *found, count, one.numel())
    return None
