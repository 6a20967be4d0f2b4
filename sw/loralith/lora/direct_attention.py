"""Attention on a device that multiplies on the host: rows go through all steps while a core's cache holds them. Numpy only.

The numbers are those of `lora.attention`. Of the matrices with a value for each query and key only P in INT8 and dS are ever whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from loralith.device.arithmetic import exact_product
from loralith.device.products import Resident
from loralith.spec.numerics import Q8_MAX
from loralith.spec.scheme import Role, SchemeError

from .attention import AttentionProducts, Heads
from .loss import SAMPLED_ROWS, mass_loss
from .quantize import Float32, dequantize, finite32

__all__ = ["DirectAttention", "Softmax"]

PART = 1 << 17
"""Scores that are at work at a time."""
Softmax = Callable[[Float32, int, slice], Float32]
"""(S of some rows, number of the head, the rows) to exp(S - its row's largest), in place."""


def _parts(rows: int, cols: int) -> Iterator[slice]:
    """About `PART` elements each, of as many rows as possible all the same: torch may sum a single row in another order."""
    count = max(1, min(rows // 2, -(-rows * cols // PART)))
    ends = [rows * number // count for number in range(count + 1)]
    return (slice(start, end) for start, end in pairwise(ends))


class DirectAttention(AttentionProducts):
    """As `AttentionProducts`, for the `direct` device, without what only an observer reads."""

    def attend(self, q: NDArray, k: NDArray, v: NDArray, heads: Heads, softmax: Softmax) -> Float32:
        """O [n, Tq, d] of q [n, Tq, d], k and v [n, Tk, d]; the INT8 Q, K, V and P stay in ``heads``."""
        device = self.device
        quantized = {name: self._quantize(x, name, role, heads) for name, x, role in (("Q", q, Role.Q), ("K", k, Role.K), ("V", v, Role.V))}
        (qq, sq), (kq, sk), (vq, sv) = quantized.values()
        heads.scale |= {"Q": sq, "K": sk, "V": sv}
        n, Tq, Tk = len(q), q.shape[1], k.shape[1]
        pq, sums, o = np.empty((n, Tq, Tk), np.int8), np.empty((n, Tq), np.float32), np.empty((n, Tq, v.shape[2]), np.float32)
        step = -(-n * Tq // SAMPLED_ROWS)
        sample = np.empty((-(-n * Tq // step), Tk), np.float32)
        for head in range(n):
            for rows in _parts(Tq, Tk):
                s = dequantize(exact_product(qq[head, rows], kq[head].T), sq * sk)
                e = finite32(softmax(s, head, rows), "P")
                first = head * Tq + rows.start
                taken = e[-first % step :: step]
                sample[-(-first // step) :][: len(taken)] = taken
                e *= np.float32(Q8_MAX)
                np.rint(e, out=e)
                pq[head, rows] = e
                np.sum(e, axis=1, out=sums[head, rows])  # exact: integers up to 127 K_LIMIT < 2**24
                if not sums[head, rows].all():
                    raise SchemeError("a row of P sums to zero; its largest value before rounding must be 1")
                acc = exact_product(pq[head, rows], vq[head])
                o[head, rows] = dequantize(acc, (sv / sums[head, rows].astype(np.float64))[:, None])
        heads.rows = sums.astype(np.int32)
        heads.losses["P"] = mass_loss(sample, heads.rows.reshape(-1)[::step])
        for name, values in (("Q", qq), ("K", kq), ("V", vq), ("P", pq)):
            heads.resident[name] = Resident.place(device, values)
        return o

    def score_gradient(self, do: NDArray, heads: Heads, gradient: Callable[[Float32, Float32], Float32]) -> Float32:
        """dS [n, Tq, Tk] from dO [n, Tq, d]; ``gradient`` makes it of P and dP, of some rows, in dP's place."""
        assert heads.rows is not None
        dyq, g = self._quantize(do, "dO", Role.DY, heads)
        pq, vq = (self._matrix(heads.resident[name]) for name in "PV")
        scale, sums = g * heads.scale["V"], heads.rows.astype(np.float32)
        count, queries, keys = pq.shape
        ds = np.empty((count, queries, keys), np.float32)
        for head in range(count):
            for rows in _parts(queries, keys):
                dp = dequantize(exact_product(dyq[head, rows], vq[head].T), scale)
                p = pq[head, rows].astype(np.float32)
                p /= sums[head, rows, None]  # FP32 holds both operands, so its quotient is the rounded one
                ds[head, rows] = gradient(p, dp)
        return ds

    def _matrix(self, resident: Resident) -> NDArray[np.int8]:
        layout = resident.layout(self.device)
        return layout.unpack(self.device.view(layout.address, layout.nbytes), np.int8).reshape(resident.shape)
