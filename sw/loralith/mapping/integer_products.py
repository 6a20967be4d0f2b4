"""Exact INT8 products by torch's integer kernels, where the CPU has them: for the devices that multiply on the host."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from loralith.device.arithmetic import use_product

__all__ = ["integer_product", "use_integer_products"]


def integer_product(left: NDArray[np.int8], right: NDArray[np.int8]) -> NDArray[np.int32]:
    """left [..., M, K] right [..., K, N] as int32, modulo 2**32. Operands may be views; none is converted, few are copied."""
    M, K, N = left.shape[-2], left.shape[-1], right.shape[-1]
    # numpy asks for large pages, torch does not: a third of the time of a product with few terms.
    out = np.empty((*left.shape[:-2], M, N), np.int32)
    if not out.size or not K:
        out[...] = 0
        return out
    one, two = left.reshape(-1, M, K), right.reshape(-1, K, N)
    for a, b, c in zip(one, two, out.reshape(-1, M, N), strict=True):
        torch._int_mm(_tensor(a), _tensor(b), out=torch.from_numpy(c))
    return out


def _tensor(matrix: NDArray[np.int8]) -> torch.Tensor:
    """``matrix`` as a tensor, row by row or column by column; copied where it is neither, or where a size of 1 leaves it open which: the
    kernels then take the wrong one."""
    if 1 in matrix.shape or not (matrix.flags.c_contiguous or matrix.flags.f_contiguous):
        return torch.from_numpy(matrix.reshape(-1).copy()).view(matrix.shape)
    return torch.from_numpy(matrix)


@cache
def _exact() -> bool:
    """Whether the kernels of this CPU are there and exact. Without VNNI or AMX an INT8 kernel adds pairs in 16 bits, which saturate."""
    if not (torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    for K in (1, 5, 64, 1111):
        left, right = np.full((33, K), -128, np.int8), np.full((K, 17), -128, np.int8)
        left[::2], right[:, ::3] = 127, 127
        for a, b in ((left, right), (np.asfortranarray(left), np.asfortranarray(right))):
            if not np.array_equal(integer_product(a, b), a.astype(np.int64) @ b.astype(np.int64)):
                return False
    return True


def use_integer_products() -> bool:
    """Lets `device.arithmetic.exact_product` multiply by torch from now on, where that is exact and faster; says whether it does."""
    if not _exact():
        return False
    use_product(integer_product)
    return True
