"""The passes of a LoRA layer in one piece on the host, for the `direct` device: no list, the same bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loralith.compiler.storage.layout import MatrixLayout
from loralith.device.arithmetic import exact_product, hash_indices, requantize_array
from loralith.spec.numerics import Requantization
from loralith.spec.scales import Chain

from .layer_step import BackwardOperands, ForwardOperands
from .pass_interface import BackwardResult, ForwardResult, Passes
from .quantize import Int8, Stream

__all__ = ["DirectPasses"]


def _largest(acc: NDArray[np.int32]) -> int:
    return max(int(acc.max()), -int(acc.min()))


def _skinny(acc: NDArray[np.int32], scale: Requantization, stream: Stream | None) -> tuple[Int8, int]:
    """H or dH [T, r] from its sums, and how many values saturated. Value (t, j) has hash index t r + j."""
    T, r = acc.shape
    hashes = hash_indices(stream.key, 0, r, 1, T, r) if stream else None
    q, _, saturated = requantize_array(acc, scale.mantissa, scale.shift, hashes)
    return q, saturated


def _chained(base: NDArray[np.int32], adapter: NDArray[np.int32], chain: Chain) -> NDArray[np.int32]:
    """The sum of two reductions, the first of which is shifted, modulo 2**32; reuses its operands' memory."""
    first, second = (base, adapter) if chain.base_first else (adapter, base)
    if chain.shift:
        first <<= chain.shift
    return np.add(first, second, out=second)


class DirectPasses(Passes):
    """Products by `device.arithmetic`. Where the scheme has the maximum from a measuring run, it is that of the very sums."""

    def _read(self, layout: MatrixLayout) -> Int8:
        return layout.unpack(self.device.view(layout.address, layout.nbytes), np.int8)

    def forward(self, operands: ForwardOperands, x: MatrixLayout, h: MatrixLayout) -> ForwardResult:
        sums = exact_product(operands.xq, operands.aq.T)
        maximum = _largest(sums)
        plan = self.numerics.forward_plan(operands, maximum)
        hq, saturated = _skinny(sums, plan.requantization, plan.h_stream)
        image = np.zeros((h.rows, h.cols), np.int8)
        image[:, : self.memory.rank] = hq
        self.device.write(h.address, h.pack(image))
        base = exact_product(operands.xq, self._read(self.memory.weight).T)
        return ForwardResult(plan, _chained(base, exact_product(hq, plan.b_chain.T), plan.chain), maximum, saturated)

    def backward(self, operands: BackwardOperands, x: MatrixLayout, h: MatrixLayout, *, need_dx: bool) -> BackwardResult:
        sums = exact_product(operands.dyq, operands.forward.operands.bq)
        maximum = _largest(sums)
        plan = self.numerics.backward_plan(operands, maximum, need_dx=need_dx)
        dhq, saturated = _skinny(sums, plan.requantization, plan.dh_stream)
        dx = None
        if plan.chain is not None and plan.a_chain is not None:
            base = exact_product(operands.dyq, self._read(self.memory.weight))
            dx = _chained(base, exact_product(dhq, plan.a_chain), plan.chain)
        db = exact_product(operands.dyq.T, self._read(h)[:, : self.memory.rank])
        da = exact_product(self._read(x).T, dhq)
        return BackwardResult(plan, dx, db, da, maximum, saturated)
