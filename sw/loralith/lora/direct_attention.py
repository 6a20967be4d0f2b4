"""Attention on a device that multiplies on the host: rows go through all steps while a core's cache holds them. Numpy only.

The numbers are those of `lora.attention`. Of the matrices with a value for each query and key only P in INT8 and dS are ever whole.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from loralith.device.arithmetic import FLOAT32_EXACT_K, kernels
from loralith.device.products import Resident
from loralith.spec.numerics import Q8_MAX
from loralith.spec.scheme import Role, SchemeError

from .attention import AttentionProducts, Heads
from .loss import SAMPLED_ROWS, mass_loss
from .quantize import Float32, dequantize, finite32

__all__ = ["DirectAttention", "Softmax"]

PART = 1 << 19
"""Scores that are at work at a time."""
Softmax = Callable[[Float32, int, slice], Float32]
"""(S of some rows, number of the head, the rows) to exp(S - its row's largest), in place."""


def _parts(heads: int, rows: int, cols: int) -> list[tuple[int, slice]]:
    """Of each head, rows of about `PART` elements, as many as possible all the same: torch may sum a single row in another order."""
    count = max(1, min(rows // 2, -(-rows * cols // PART)))
    ends = [rows * number // count for number in range(count + 1)]
    return [(head, slice(start, end)) for head in range(heads) for start, end in pairwise(ends)]


def _scores(one: Float32, two: Float32, scale: float) -> Float32:
    """one two^T times ``scale``, of INT8 values. A zero may be negative, which neither softmax nor dS's integers show."""
    if one.shape[1] > FLOAT32_EXACT_K:
        return dequantize(kernels().sums(one, two.T), scale)
    return dequantize(kernels().matmul(one, two.T), scale)


class DirectAttention(AttentionProducts):
    """As `AttentionProducts`, for the `direct` device, without what only an observer reads."""

    def attend(self, q: NDArray, k: NDArray, v: NDArray, heads: Heads, softmax: Softmax) -> Float32:
        """O [n, Tq, d] of q [n, Tq, d], k and v [n, Tk, d]; the INT8 Q, K, V and P stay in ``heads``."""
        device, host = self.device, kernels()
        quantized = {name: self._quantize(x, name, role, heads) for name, x, role in (("Q", q, Role.Q), ("K", k, Role.K), ("V", v, Role.V))}
        (qq, sq), (kq, sk), (vq, sv) = quantized.values()
        heads.scale |= {"Q": sq, "K": sk, "V": sv}
        n, Tq, Tk = len(q), q.shape[1], k.shape[1]
        pq, sums, o = np.empty((n, Tq, Tk), np.int8), np.empty((n, Tq), np.float32), np.empty((n, Tq, v.shape[2]), np.float32)
        step = -(-n * Tq // SAMPLED_ROWS)
        sample = np.empty((-(-n * Tq // step), Tk), np.float32)
        # Integers as FP32 from here on: parts convert nothing.
        left, keys, values = host.floats(qq), host.floats(kq), host.floats(vq)

        def attend(part: tuple[int, slice]) -> None:
            head, rows = part
            e = finite32(softmax(_scores(left[head, rows], keys[head], sq * sk), head, rows), "P")
            first = head * Tq + rows.start
            taken = e[-first % step :: step]
            sample[-(-first // step) :][: len(taken)] = taken
            e *= np.float32(Q8_MAX)
            np.rint(e, out=e)
            pq[head, rows] = e
            np.sum(e, axis=1, out=sums[head, rows])  # exact: integers up to 127 K_LIMIT < 2**24
            if not sums[head, rows].all():
                raise SchemeError("a row of P sums to zero; its largest value before rounding must be 1")
            o[head, rows] = dequantize(host.sums(e, values[head]), (sv / sums[head, rows].astype(np.float64))[:, None])

        host.each(attend, _parts(n, Tq, Tk))
        heads.rows = sums.astype(np.int32)
        heads.losses["P"] = mass_loss(sample, heads.rows.reshape(-1)[::step])
        for name, integers in (("Q", qq), ("K", kq), ("V", vq), ("P", pq)):
            heads.resident[name] = Resident.place(device, integers)
        return o

    def score_gradient(self, do: NDArray, heads: Heads, gradient: Callable[[Float32, Float32], Float32]) -> Float32:
        """dS [n, Tq, Tk] from dO [n, Tq, d]; ``gradient`` makes it of P and dP, of some rows, in dP's place."""
        assert heads.rows is not None
        host = kernels()
        dyq, g = self._quantize(do, "dO", Role.DY, heads)
        pq, vq = (self._matrix(heads.resident[name]) for name in "PV")
        scale, sums = g * heads.scale["V"], heads.rows.astype(np.float32)
        count, queries, keys = pq.shape
        ds = np.empty((count, queries, keys), np.float32)
        left, values = host.floats(dyq), host.floats(vq)

        def part(place: tuple[int, slice]) -> None:
            head, rows = place
            dp = _scores(left[head, rows], values[head], scale)
            p = host.floats(pq[head, rows])
            p /= sums[head, rows, None]  # FP32 holds both operands, so its quotient is the rounded one
            ds[head, rows] = gradient(p, dp)

        host.each(part, _parts(count, queries, keys))
        return ds

    def _matrix(self, resident: Resident) -> NDArray[np.int8]:
        layout = resident.layout(self.device)
        return layout.unpack(self.device.view(layout.address, layout.nbytes), np.int8).reshape(resident.shape)
