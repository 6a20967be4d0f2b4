"""`device.arithmetic`: integer products by floating-point BLAS, at the ends of what it promises."""

import numpy as np
import pytest

from helpers.same_values import assert_same_values
from loralith.device.arithmetic import FLOAT32_EXACT_K, exact_product
from loralith.spec.numerics import K_LIMIT


@pytest.mark.parametrize("K", [1, FLOAT32_EXACT_K, FLOAT32_EXACT_K + 1, 5 * FLOAT32_EXACT_K - 1, K_LIMIT])
def test_the_largest_sums_are_exact(K):
    """All -128, one product short of it, so that the sum is odd: float32 would lose the last bit past 2**24."""
    left = np.full((2, K), -128, np.int8)
    right = np.full((K, 1), -128, np.int8)
    left[1, -1], right[-1] = 127, -127
    expected = left.astype(np.int64) @ right.astype(np.int64)
    found = exact_product(left, right)
    assert found.dtype == np.int32
    assert_same_values(found, expected)


def test_batches_and_turned_operands():
    rng = np.random.default_rng(0)
    left, right = rng.integers(-128, 128, (3, 2100, 5), dtype=np.int8), rng.integers(-128, 128, (3, 7, 2100), dtype=np.int8)
    assert_same_values(exact_product(left.mT, right.mT), left.mT.astype(np.int64) @ right.mT.astype(np.int64))
