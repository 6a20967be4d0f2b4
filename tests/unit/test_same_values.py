"""The helper `assert_same_values` names the element that differs."""

import re

import numpy as np
import pytest
import torch

from helpers.same_values import assert_same_values


@pytest.mark.parametrize("kind", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_the_first_difference_is_named_with_both_values(kind) -> None:
    one = kind([[1, 2, 3], [4, 5, 6]])
    assert_same_values(one, kind([[1, 2, 3], [4, 5, 6]]))
    with pytest.raises(AssertionError, match=re.escape("seed 3: 2 of 6 values differ, the first at [0, 2]: 3 instead of 7, of 30")):
        assert_same_values(one, kind([[1, 2, 7], [4, 5, 0]]), "seed 3", of=10 * one)


def test_shapes_types_and_nan_count() -> None:
    with pytest.raises(AssertionError, match=re.escape("shapes (2,) and (1, 2)")):
        assert_same_values(np.zeros(2), np.zeros((1, 2)))
    with pytest.raises(AssertionError, match=r"types torch\.float32 and torch\.float64"):
        assert_same_values(torch.zeros(2), torch.zeros(2).double())
    with pytest.raises(AssertionError, match="1 of 1 values differ"):
        assert_same_values(np.array([np.nan]), np.array([np.nan]))
    assert_same_values(torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16))
