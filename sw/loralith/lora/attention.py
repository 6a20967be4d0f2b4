"""The products of attention on a device, forward and backward. Numpy only; runs on a board.

For each of n heads (of all images), with Q [Tq, d], K and V [Tk, d]:

    S = Q K^T    P = softmax of S's rows    O = P V
    dV = P^T dO    dP = dO V^T    dS from P and dP    dQ = dS K    dK = dS^T Q

Softmax and its gradient are the host's. Q, K, V and P are stored once each as INT8 and read in whichever order a product needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from loralith.device.device import Device
from loralith.device.products import Resident, product
from loralith.spec.numerics import Q8_MAX
from loralith.spec.scheme import FQT, Role, SchemeError, hash_words

from .loss import Loss, mass_loss, row_loss
from .quantize import Float32, Int8, Stream, dequantize, finite32, quantize

__all__ = ["AttentionProducts", "Heads", "Scores", "Values"]


@dataclass
class Heads:
    """What one pass keeps on the device: INT8 Q, K, V [n, T, d] and P [n, Tq, Tk], as far as its backward pass needs them.

    ``scale`` of Q, K and V by name; ``rows`` int32 [n, Tq], the sums of P's rows: P = Pq / rows. ``losses`` by name.
    """

    step: int
    call: int
    resident: dict[str, Resident] = field(default_factory=dict)
    scale: dict[str, float] = field(default_factory=dict)
    rows: NDArray[np.int32] | None = None
    losses: dict[str, Loss] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """S: INT8 Q and K, the INT32 sums [n, Tq, Tk], and S float32."""

    qq: Int8
    kq: Int8
    acc: NDArray[np.int32]
    s: Float32


@dataclass(frozen=True)
class Values:
    """A product with one INT8 operand that was made for it, the INT32 sums, and the result float32."""

    operand: Int8
    acc: NDArray[np.int32]
    value: Float32


class AttentionProducts:
    """One attention of a model. ``layer``: its place in the host's list. Errors as `FrozenLinear`'s."""

    def __init__(self, device: Device, scheme: FQT, layer: int) -> None:
        scheme.require_device()
        self.device, self.scheme, self.layer = device, scheme, layer

    def close(self) -> None:
        """There is no memory of its own."""

    def _quantize(self, x: NDArray, name: str, role: Role, heads: Heads) -> tuple[Int8, float]:
        stream = None
        if self.scheme.is_stochastic(role):
            stream = Stream(*hash_words(self.scheme.seed, heads.step, self.layer, role, heads.call))
        q, scale, _ = quantize(finite32(x, name), stream=stream)
        heads.losses[name] = row_loss(x, scale, stochastic=stream is not None)
        return q, scale

    def scores(self, q: NDArray, k: NDArray, heads: Heads) -> Scores:
        """S = Q K^T; q [n, Tq, d], k [n, Tk, d]."""
        (qq, sq), (kq, sk) = self._quantize(q, "Q", Role.Q, heads), self._quantize(k, "K", Role.K, heads)
        heads.scale |= {"Q": sq, "K": sk}
        heads.resident |= {"Q": Resident.place(self.device, qq)}
        heads.resident |= {"K": Resident.place(self.device, kq)}
        acc = product(self.device, heads.resident["Q"], heads.resident["K"], right_transposed=True)
        return Scores(qq, kq, acc, dequantize(acc, sq * sk))

    def values(self, e: NDArray, v: NDArray, heads: Heads) -> tuple[Int8, Values]:
        """Pq, and O = P V; ``e`` [n, Tq, Tk] is exp(S - its row's largest), 0..1; v [n, Tk, d].

        Pq = 127 e rounded to nearest; each row of P is that over its sum, so that rows sum to one exactly.
        """
        e = finite32(e, "P")
        pq, sums = np.empty(e.shape, np.int8), np.empty(e.shape[:2], np.float32)
        scaled = np.empty(e.shape[1:], np.float32)
        for one, integers, row in zip(e, pq, sums, strict=True):  # one head at a time: the caches hold it
            np.rint(np.multiply(one, np.float32(Q8_MAX), out=scaled), out=scaled)
            integers[...] = scaled
            np.sum(scaled, axis=1, out=row)  # exact: integers up to 127 K_LIMIT < 2**24
        heads.rows = rows = sums.astype(np.int32)
        if not rows.all():
            raise SchemeError("a row of P sums to zero; its largest value before rounding must be 1")
        heads.losses["P"] = mass_loss(e, rows)
        vq, sv = self._quantize(v, "V", Role.V, heads)
        heads.scale["V"] = sv
        heads.resident["V"] = Resident.place(self.device, vq)
        heads.resident["P"] = Resident.place(self.device, pq)
        acc = product(self.device, heads.resident["P"], heads.resident["V"])
        return pq, Values(vq, acc, dequantize(acc, (sv / rows.astype(np.float64))[:, :, None]))

    def value_gradient(self, do: NDArray, heads: Heads) -> Values:
        """dV [n, Tk, d] from dO [n, Tq, d]: the scales of P's rows move into dO before it is quantized."""
        assert heads.rows is not None
        weighted = finite32(do, "dO") / heads.rows.astype(np.float32)[:, :, None]
        q, scale = self._quantize(weighted, "dO / rows", Role.DY_ROWS, heads)
        acc = product(self.device, heads.resident["P"], q, left_transposed=True)
        return Values(q, acc, dequantize(acc, scale))

    def probability_gradient(self, do: NDArray, heads: Heads) -> Values:
        """dP [n, Tq, Tk] from dO [n, Tq, d]."""
        q, g = self._quantize(do, "dO", Role.DY, heads)
        acc = product(self.device, q, heads.resident["V"], right_transposed=True)
        return Values(q, acc, dequantize(acc, g * heads.scale["V"]))

    def probabilities(self, heads: Heads) -> Float32:
        """P [n, Tq, Tk] float32, from the INT8 on the device."""
        assert heads.rows is not None
        p = heads.resident["P"]
        layout = p.layout(self.device)
        pq = layout.unpack(self.device.view(layout.address, layout.nbytes), np.int8).reshape(p.shape)
        result, rows = np.empty(p.shape, np.float32), heads.rows.astype(np.float32)
        for one, integers, row in zip(result, pq, rows, strict=True):  # FP32 holds both operands, so its quotient is the rounded one
            one[...] = integers
            one /= row[:, None]
        return result

    def score_gradients(self, ds: NDArray, heads: Heads, *, need_q: bool, need_k: bool) -> tuple[Int8, Values | None, Values | None]:
        """dS [n, Tq, Tk] as INT8, dQ and dK where they are asked for."""
        q, g = self._quantize(ds, "dS", Role.DS, heads)
        dq = dk = None
        if need_q:
            acc = product(self.device, q, heads.resident["K"])
            dq = Values(q, acc, dequantize(acc, g * heads.scale["K"]))
        if need_k:
            acc = product(self.device, q, heads.resident["Q"], left_transposed=True)
            dk = Values(q, acc, dequantize(acc, g * heads.scale["Q"]))
        return q, dq, dk

    def free_except(self, heads: Heads, names: str) -> None:
        """Free what is not among ``names``, letters of QKVP."""
        for name in [name for name in heads.resident if name not in names]:
            heads.resident.pop(name).free(self.device)

    def release(self, heads: Heads) -> None:
        """Free all that the pass kept."""
        self.free_except(heads, "")

    def saved_bytes(self, heads: Heads) -> tuple[int, int]:
        """(on the device, on the host) of what the pass keeps."""
        rows = 0 if heads.rows is None else heads.rows.nbytes
        return sum(tensor.nbytes(self.device) for tensor in heads.resident.values()), rows
