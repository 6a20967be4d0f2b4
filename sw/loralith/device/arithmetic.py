"""The machine's arithmetic on whole arrays: exact INT8 products by the host's kernels, and requantization, bit for bit
`loralith.spec.numerics.requantize`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from loralith.spec.numerics import Q8_MAX

__all__ = [
    "FLOAT32_EXACT_K",
    "Convolutions",
    "Kernels",
    "exact_product",
    "hash_array",
    "hash_indices",
    "hash_range",
    "kernels",
    "requantize_array",
    "use_kernels",
]

FLOAT32_EXACT_K = 1 << 10
"""Up to this K every partial sum of INT8 products, each at most 2**14, is within 2**24, and exact in float32 whatever the order."""
Part = TypeVar("Part")
Result = TypeVar("Result")
Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


class Convolutions(Protocol):
    """Exact convolutions of INT8 values under a `lora.convolution_windows.Window`; int32, modulo 2**32."""

    def convolution(self, image: Int8, weight: Int8, window: Any) -> Int32:
        """The sums [N, O, ...] of an image [N, C, ...] and a weight [O, C / groups, *kernel]."""
        ...

    def convolution_input(self, gradient: Int8, weight: Int8, window: Any, sizes: Sequence[int]) -> Int32:
        """The transpose of `convolution`: [N, C, *sizes] of a gradient [N, O, ...]."""
        ...


class Kernels:
    """How the host multiplies integers, exactly: by numpy's floating-point BLAS. A board has numpy alone; where torch is there,
    `mapping.torch_kernels` has faster ones with the same integers."""

    def each(self, function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        """``function`` of each part, in the order of the parts; parts may run at the same time. The first exception is raised."""
        return [function(part) for part in parts]

    def floats(self, values: Int8) -> Float32:
        """The same integers, in the same order in memory."""
        return values.astype(np.float32)

    def integers(self, sums: Float32) -> Int32:
        """Integers of at most 2**24 that a float32 array holds."""
        return sums.astype(np.int32)

    def matmul(self, left: Float32, right: Float32) -> Float32:
        """left [M, K] right [K, N]; exact for INT8 values and K up to `FLOAT32_EXACT_K`, but that a zero may be negative."""
        return left @ right

    def sums(self, left: Int8 | Float32, right: Int8 | Float32) -> Int32:
        """left [M, K] right [K, N], modulo 2**32, by FP32 products; the INT8 values may be in float32 arrays already.

        A longer K than `FLOAT32_EXACT_K` is split into equal blocks, whose sums are added as integers.
        """
        (M, K), N = left.shape, right.shape[1]
        if not K:
            return np.zeros((M, N), np.int32)
        depth = -(-K // -(-K // FLOAT32_EXACT_K))
        total: Int32 | None = None
        for k in range(0, K, depth):
            part = self.integers(self.matmul(self._floats(left[:, k : k + depth]), self._floats(right[k : k + depth])))
            total = part if total is None else np.add(total, part, out=total)
        assert total is not None
        return total

    def _floats(self, values: Int8 | Float32) -> Float32:
        return cast(Float32, values) if values.dtype == np.float32 else self.floats(cast(Int8, values))

    def product(self, left: Int8, right: Int8) -> Int32:
        """left [..., M, K] right [..., K, N], modulo 2**32. Operands may be views."""
        M, K, N = left.shape[-2], left.shape[-1], right.shape[-1]
        if left.ndim == 2:
            return self.sums(left, right)
        out = np.empty((*left.shape[:-2], M, N), np.int32)
        one, two, flat = left.reshape(-1, M, K), right.reshape(-1, K, N), out.reshape(-1, M, N)

        def multiply(number: int) -> None:
            flat[number] = self.sums(one[number], two[number])

        self.each(multiply, range(len(flat)))
        return out

    def convolutions(self, window: Any, terms: int) -> Convolutions | None:
        """What convolves under this `lora.convolution_windows.Window`, ``terms`` being the most that one of its sums has; None where
        products of the window's columns are to be taken."""
        return None


_kernels = Kernels()


def kernels() -> Kernels:
    """Those of the process."""
    return _kernels


def use_kernels(chosen: Kernels) -> None:
    """From now on `kernels` are ``chosen``, for all devices of the process."""
    global _kernels
    _kernels = chosen


def exact_product(left: Int8, right: Int8) -> Int32:
    """left [..., M, K] right [..., K, N] as int32, modulo 2**32; exact for K up to `numerics.K_LIMIT`."""
    return _kernels.product(left, right)


def hash_array(key: tuple[int, int], index: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """`loralith.spec.numerics.hash32` of every element, in place; fastest on arrays that a core's cache holds."""
    x, t = index, np.empty_like(index)
    for k in key:
        x += np.uint32(k)
        for shift, mix in ((10, np.add), (-6, np.bitwise_xor), (3, np.add), (-11, np.bitwise_xor), (15, np.add), (-16, np.bitwise_xor)):
            if shift > 0:
                np.left_shift(x, shift, out=t)
            else:
                np.right_shift(x, -shift, out=t)
            mix(x, t, out=x)  # sums wrap as the hash's own masks do
    return x


def hash_range(key: tuple[int, int], ramp: NDArray[np.uint32], start: int, out: NDArray[np.uint32], scratch: NDArray[np.uint32]) -> None:
    """`hash_array` of the indices ``start``, ``start`` + 1, ... modulo 2**32 into ``out``, with fewer passes: x + (x << s) is x (2**s + 1),
    and the first of them is in ``ramp``, 1025 times 0, 1, ...; all three arrays have one size."""
    x, t = out, scratch
    for number, k in enumerate(key):
        if number == 0:
            np.add(ramp, np.uint32(1025 * (start + k) & 0xFFFFFFFF), out=x)
        else:
            x += np.uint32(k)
            x *= np.uint32(1025)
        for shift, factor in ((6, 9), (11, 32769), (16, 1)):
            np.right_shift(x, np.uint32(shift), out=t)
            np.bitwise_xor(x, t, out=x)
            if factor > 1:
                x *= np.uint32(factor)


def hash_indices(key: tuple[int, int], base: int, row_stride: int, col_stride: int, M: int, N: int) -> np.ndarray:
    """The 32-bit hash of each output's index, uint64 [M, N]. Indices are modulo 2**32."""
    rows = np.arange(M, dtype=np.uint64)[:, None] * np.uint64(row_stride) + np.uint64(base)
    cols = np.arange(N, dtype=np.uint64)[None, :] * np.uint64(col_stride)
    return hash_array(key, (rows + cols).astype(np.uint32)).astype(np.uint64)


def requantize_array(
    acc: np.ndarray, mantissa: np.ndarray | int, shift: np.ndarray | int, h: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Requantize INT32 values to INT8.

    Parameters: `acc` integers [M, N]; `mantissa` and `shift` (0..47), each one value or an array that broadcasts with acc; `h` hashes
    [M, N] for stochastic rounding, None for round half even.
    Returns: q int8 [M, N] in -127..127, the products acc * mantissa int64 [M, N], how many results saturated.
    """
    p = acc.astype(np.int64) * mantissa
    n = np.asarray(shift, np.int64)
    if h is None:
        # At n = 0 the addend must vanish: half of 2**0 is not an integer.
        half = np.where(n > 0, (np.int64(1) << np.maximum(n - 1, 0)) - 1, 0)
        q = (p + half + ((p >> n) & 1 & (n > 0))) >> n
    else:
        u = np.where(n <= 32, h.astype(np.int64) >> np.clip(32 - n, 0, 63), h.astype(np.int64) << np.clip(n - 32, 0, 15))
        q = (p + u) >> n
    clipped = np.clip(q, -Q8_MAX, Q8_MAX)
    return clipped.astype(np.int8), p, int(np.count_nonzero(q != clipped))
