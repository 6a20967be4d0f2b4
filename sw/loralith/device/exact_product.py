"""Exact products of INT8 matrices by the host's floating-point BLAS."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["FLOAT32_EXACT_K", "exact_product"]

FLOAT32_EXACT_K = 1 << 10
"""Up to this K every partial sum of INT8 products, each at most 2**14, is within 2**24, and exact in float32 whatever the order."""


def exact_product(left: NDArray[np.int8], right: NDArray[np.int8]) -> NDArray[np.int32]:
    """left [..., M, K] right [..., K, N] as int32, modulo 2**32; exact for K up to `numerics.K_LIMIT`.

    A longer K than `FLOAT32_EXACT_K` is split into equal blocks, whose sums are added as integers.
    """
    K = left.shape[-1]
    blocks = max(1, -(-K // FLOAT32_EXACT_K))
    depth = max(1, -(-K // blocks))
    total: NDArray[np.int32] | None = None
    for k in range(0, max(K, 1), depth):
        part = left[..., k : k + depth].astype(np.float32) @ right[..., k : k + depth, :].astype(np.float32)
        total = part.astype(np.int32) if total is None else np.add(total, part.astype(np.int32), out=total)
    assert total is not None
    return total
