"""INT8 products whose operands may stay in device memory, each stored once and read in either order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loralith.compiler.schedules.chain import compile_chain, plan_chain
from loralith.compiler.schedules.matmul import Batch, array_cycles, best_fold, compile_batch, plan_batch
from loralith.compiler.storage.layout import MatrixLayout, fold_right, int_layout, row_major
from loralith.device.arithmetic import exact_product
from loralith.device.device_errors import DeviceError
from loralith.device.list_device import ListDevice
from loralith.spec.config import Config
from loralith.spec.numerics import K_LIMIT

__all__ = [
    "WORD_SHIFT",
    "Resident",
    "chained",
    "cheaper_transposed",
    "column_sums",
    "plan_product",
    "product",
    "tall_blocks",
    "wide_product",
]

TIMEOUT = 600.0
"""Seconds that one list may take; a simulated device is slow."""


@dataclass(frozen=True, eq=False)
class Resident:
    """INT8 matrices [count, rows, cols] in device memory, row-major, one after the other; with `bits` 4 two elements share a byte there."""

    address: int
    count: int
    rows: int
    cols: int
    bits: int = 8

    @classmethod
    def place(cls, device: ListDevice, values: np.ndarray, bits: int = 8) -> Resident:
        """Copies int8 [count, rows, cols] to the device. `free` gives the memory back.

        Raises ValueError for bits other than 8 and 4, and for a value that they do not hold.
        """
        count, rows, cols = values.shape
        layout = int_layout(count * rows, cols, bits, device.config)
        image = layout.pack(np.ascontiguousarray(values).reshape(count * rows, cols))
        # Rows are padded to bus words, so no load reads past the last row.
        address = device.alloc(layout.nbytes)
        device.write(address, image)
        return cls(address, count, rows, cols, bits)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.count, self.rows, self.cols

    def layout(self, device: ListDevice) -> MatrixLayout:
        """All matrices as one of count * rows rows."""
        return int_layout(self.count * self.rows, self.cols, self.bits, device.config).at(self.address)

    def nbytes(self, device: ListDevice) -> int:
        return self.layout(device).nbytes

    def free(self, device: ListDevice) -> None:
        device.free(self.address)


Operand = Resident | np.ndarray


def cheaper_transposed(M: int, N: int, K: int, config: Config, *, left_resident: bool = False, right_resident: bool = False) -> bool:
    """Whether right^T left^T takes fewer cycles of the array than left right; the host cannot fold a resident right operand."""
    fold = 1 if right_resident else best_fold(K, N, config)
    swapped = 1 if left_resident else best_fold(K, M, config)
    return array_cycles(N, M, K, swapped, config) < array_cycles(M, N, K, fold, config)


def plan_product(
    M: int,
    N: int,
    K: int,
    config: Config,
    *,
    count: int = 1,
    left_transposed: bool = False,
    right_transposed: bool = False,
    left_resident: bool = False,
    right_resident: bool = False,
    left_bits: int = 8,
    right_bits: int = 8,
) -> tuple[Batch, bool]:
    """How `product` computes; and whether it computes the transpose, right^T left^T: where that takes fewer cycles of the array.

    Only a right operand that comes from the host can be packed for folding; the host then transposes it too.
    """
    swap = cheaper_transposed(M, N, K, config, left_resident=left_resident, right_resident=right_resident)
    fold = 1 if (left_resident if swap else right_resident) else best_fold(K, M if swap else N, config)
    if swap:
        M, N, left_transposed, right_transposed = N, M, not right_transposed, not left_transposed
        left_bits, right_bits = right_bits, left_bits
    transposed = {"left_transposed": left_transposed, "right_transposed": right_transposed and fold == 1}
    return plan_batch(M, N, K, count, config, fold, **transposed, left_bits=left_bits, right_bits=right_bits), swap


def product(
    device: ListDevice,
    left: Operand,
    right: Operand,
    *,
    left_transposed: bool = False,
    right_transposed: bool = False,
    timeout: float = TIMEOUT,
) -> np.ndarray:
    """The exact products of left [count, M, K] and right [count, K, N], INT8, as int32 [count, M, N], in one list.

    Parameters: arrays of int8, which are on the device only while it runs, or `Resident`. A transposed operand has its last two dimensions
    the other way round, left [count, K, M] or right [count, N, K], and is transposed by the load path.

    Raises DeviceError for shapes that do not fit and for K over 131071, DoesNotFit where no block fits the scratchpads.
    """
    config = device.config
    count, M, K = (left.shape[0], left.shape[2], left.shape[1]) if left_transposed else left.shape
    counts, k, N = (right.shape[0], right.shape[2], right.shape[1]) if right_transposed else right.shape
    if counts != count or k != K:
        raise DeviceError(f"left [count, M, K] and right [count, K, N] must share count and K, not {(count, M, K)} and {(counts, k, N)}")
    if K > K_LIMIT:
        raise DeviceError(f"K must be at most {K_LIMIT} for an exact INT32 sum, not {K}: split it and add on the host")
    if device.direct:
        one, two = _values(device, left), _values(device, right)
        return exact_product(one.mT if left_transposed else one, two.mT if right_transposed else two)
    batch, swap = plan_product(
        M,
        N,
        K,
        config,
        count=count,
        left_transposed=left_transposed,
        right_transposed=right_transposed,
        left_resident=isinstance(left, Resident),
        right_resident=isinstance(right, Resident),
        left_bits=_bits(left),
        right_bits=_bits(right),
    )
    if swap:
        left, right, right_transposed = right, left, not left_transposed
    plan = batch.plan
    if plan.fold > 1:
        assert isinstance(right, np.ndarray)
        right = np.stack([fold_right(one.T if right_transposed else one, plan.fold, config) for one in right])
    with device.arena():
        at = [operand.address if isinstance(operand, Resident) else Resident.place(device, operand).address for operand in (left, right)]
        out = row_major(count * plan.M, plan.N, config, 4)
        out_at = device.alloc(out.nbytes)
        device.run(compile_batch(batch, config).at(*at, out_at), timeout)
        result = out.unpack(device.read(out_at, out.nbytes), np.int32).reshape(count, plan.M, plan.N)
    return np.ascontiguousarray(result.transpose(0, 2, 1)) if swap else result


def _bits(operand: Operand) -> int:
    """Bits of an element in DRAM."""
    return operand.bits if isinstance(operand, Resident) else 8


def _values(device: ListDevice, operand: Operand) -> np.ndarray:
    """The matrices of an operand, wherever they are."""
    if isinstance(operand, np.ndarray):
        return operand
    layout = operand.layout(device)
    return layout.unpack(device.view(layout.address, layout.nbytes), np.int8).reshape(operand.shape)


def chained(
    device: ListDevice,
    first: tuple[np.ndarray, Resident],
    second: tuple[np.ndarray, Resident],
    shift: int,
    *,
    apart: bool = False,
    timeout: float = TIMEOUT,
) -> np.ndarray:
    """(left0 right0^T) 2^shift + left1 right1^T in one list; lefts int8 [M, K], rights resident [1, N, K].

    The result is int32 [M, N], modulo 2^32: the caller knows that it fits. With ``apart`` the host adds the blocks of K and the result is
    int64, whatever the values; only for two words of one operand, whose rights are the same object.

    Raises DeviceError for shapes that do not fit, DoesNotFit where no block fits the scratchpads.
    """
    (left0, right0), (left1, right1) = first, second
    words = right0 is right1
    (M, K0), (_, N, K) = left0.shape, right1.shape
    if right0.shape != (1, N, K0) or left1.shape != (M, K) or (apart and not words):
        raise DeviceError(f"chained operands do not fit: {left0.shape} x {right0.shape} and {left1.shape} x {right1.shape}")
    if right0.bits != 8 and not words:
        raise DeviceError(f"the first of two right operands has 8 bits per element, not {right0.bits}")
    if device.direct:
        one, two = (exact_product(left, _values(device, right)[0].T).astype(np.int64) for left, right in (first, second))
        total = (one << shift) + two
        return total if apart else total.astype(np.int32)
    config = device.config
    chain = plan_chain(M, N, K, K0, shift, config, words=words, apart=apart, right_bits=right1.bits)
    with device.arena():
        lefts = [Resident.place(device, left[None]).address for left in (left0, left1)]
        out = chain.out(config)
        out_at = device.alloc(out.nbytes)
        more = [] if words else [right0.address]
        device.run(compile_chain(chain, config).at(*lefts, right1.address, out_at, *more), timeout)
        result = out.unpack(device.read(out_at, out.nbytes), np.int32).reshape(chain.results, M, N)
    return result.sum(axis=0, dtype=np.int64) if apart else result[0]


WORD_SHIFT = 8


def wide_product(device: ListDevice, high: np.ndarray, low: np.ndarray, right: Resident, *, apart: bool) -> np.ndarray:
    """(2^8 high + low) right^T for int8 words [M, K] and resident [1, N, K]: exact integers [M, N]; ``apart`` as in `chained`."""
    return chained(device, (high, right), (low, right), WORD_SHIFT, apart=apart)


def tall_blocks(matrix: np.ndarray, config: Config) -> np.ndarray:
    """int8 [T, N] as blocks of the array's columns, [blocks, T, C], zeros past N: an operand of `column_sums`."""
    T, N = matrix.shape
    count = -(-N // config.cols)
    image = np.zeros((T, count * config.cols), np.int8)
    image[:, :N] = matrix
    return np.ascontiguousarray(image.reshape(T, count, config.cols).transpose(1, 0, 2))


def column_sums(device: ListDevice, left: np.ndarray, right: Resident, timeout: float = TIMEOUT) -> np.ndarray:
    """The sum over rows of left * right, element by element, of [blocks, T, C] as `tall_blocks` gives them: int32 [blocks * C].

    The diagonals of left^T right, block by block: C times the multiplications of a sum, on an array that has them side by side.
    """
    if device.direct:
        return np.einsum("btc,btc->bc", left.astype(np.int32), _values(device, right).astype(np.int32)).reshape(-1)
    squares = product(device, left, right, left_transposed=True, timeout=timeout)
    return np.ascontiguousarray(np.diagonal(squares, axis1=1, axis2=2)).reshape(-1)
