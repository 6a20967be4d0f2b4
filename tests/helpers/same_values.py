"""An assertion over many values that says which one differs."""

from __future__ import annotations

from typing import Any

import numpy as np


def assert_same_values(found: Any, wanted: Any, note: object = "", of: Any = None) -> None:
    """Fails unless two arrays or tensors have one shape and equal elements; tensors also one type. A NaN equals nothing.

    The message has ``note`` (what was done, a name), how many elements differ, and the first of them with its index and both values; with
    ``of``, what each element was made of, also that stimulus.
    """
    __tracebackhide__ = True
    told = f"{note}: " if str(note) else ""
    types = [value.dtype for value in (found, wanted) if hasattr(value, "detach")]
    assert len(set(types)) < 2, f"{told}types {types[0]} and {types[1]}"
    one, other = _array(found), _array(wanted)
    assert one.shape == other.shape, f"{told}shapes {one.shape} and {other.shape}"
    differ = np.argwhere(one != other)
    if len(differ):
        at = tuple(int(i) for i in differ[0])
        stimulus = "" if of is None else f", of {_array(of)[at]}"
        raise AssertionError(
            f"{told}{len(differ)} of {one.size} values differ, the first at {list(at)}: {one[at]} instead of {other[at]}{stimulus}"
        )


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.dtype.is_floating_point and value.element_size() < 4 else value).numpy()
    return np.asarray(value)
