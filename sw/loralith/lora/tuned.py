"""Layers of frozen codes whose scales are trained (TuneQDM, PEQA). Numpy only; runs on a board.

With W[o, i] = s_out[o] (Wq - z)[o, i] s_in[i], V = Wq - z and u = s_in x:

    y = s_out acc, acc = u V^T        ds_out[o] = sum over tokens of dY acc
    du = (dY s_out) V                 ds_in[i] = sum over tokens of x du,    dX = s_in du

There is no product for a gradient of W. V of 4 bits is INT8. Of 8 bits it is not: with the codes and z less 128, acc = u Wc^T - r zc^T for
the row sums r of u, a correction of rank one that joins the same reduction (r in words, the high ones shifted left by 8), and
du = v Wc - (v zc) 1^T, whose product with zc is one more column of the same product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loralith.device.device import Device
from loralith.device.products import WORD_SHIFT, Resident, chained, column_sums, product, tall_blocks
from loralith.spec.scheme import FQT, Role, hash_words

from .codes import Codes
from .frozen import Window
from .quantize import Float32, Int8, Stream, dequantize, finite32, quantize

__all__ = ["SavedPass", "ScaleGradients", "TunedConv", "TunedLinear", "high_columns"]


@dataclass
class SavedPass:
    """What a forward pass keeps for its backward pass, on the device: INT8 u and acc by blocks of columns; and their scales."""

    step: int
    call: int
    u: Resident
    acc: Resident
    su: float
    sacc: float
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ScaleGradients:
    """A backward pass: dX of X's shape, ds_out [O] and ds_in [I] (of a convolution [C]), float32."""

    dx: Float32
    ds_out: Float32
    ds_in: Float32


class TunedLinear:
    """A linear layer of ``codes`` [O, I], copied to the device now; scales are given with each pass.

    Parameters: ``device``; ``scheme``, whose seed and stochastic tensors round dY, dY s_out (dY) and du (dS); ``layer``, its place in the
    host's list. Errors: SchemeError for values and shapes that do not fit, DoesNotFit, DeviceError.
    """

    def __init__(self, device: Device, codes: Codes, scheme: FQT, layer: int) -> None:
        scheme.require_device()
        scheme.require_unrotated("layers of codes with a zero point")
        self.device, self.scheme, self.layer = device, scheme, layer
        self.O, self.I = codes.code.shape
        self.corrected = codes.bits == 8
        self.zeros: Resident | None = None
        if not self.corrected:
            self.weight = Resident.place(device, codes.centred.astype(np.int8)[None])
            return
        code, zero = codes.halved()
        self.weight = Resident.place(device, np.concatenate([code, zero[:, None]], axis=1)[None])
        self.columns = high_columns(self.I)
        self.zeros = Resident.place(device, np.repeat(zero[:, None], self.columns, axis=1)[None])

    def close(self) -> None:
        """Free the layer's device memory."""
        self.weight.free(self.device)
        if self.zeros is not None:
            self.zeros.free(self.device)

    def nbytes(self) -> int:
        """Bytes of the codes on the device."""
        return self.weight.nbytes(self.device) + (0 if self.zeros is None else self.zeros.nbytes(self.device))

    def saved_bytes(self, saved: SavedPass) -> int:
        """Bytes that a pass keeps on the device."""
        return saved.u.nbytes(self.device) + saved.acc.nbytes(self.device)

    def release(self, saved: SavedPass) -> None:
        """Free what a pass saved."""
        saved.u.free(self.device)
        saved.acc.free(self.device)

    def _quantize(self, x: NDArray, name: str, role: Role, step: int, call: int) -> tuple[Int8, float]:
        stream = Stream(*hash_words(self.scheme.seed, step, self.layer, role, call)) if self.scheme.is_stochastic(role) else None
        q, scale, _ = quantize(finite32(x, name), stream=stream)
        return q, scale

    # What a convolution does in another way: rows of a product, and back.

    def _rows(self, uq: Int8) -> Int8:
        """u as the product's left operand [T, I]."""
        return uq

    def _in_input_shape(self, acc: NDArray, shape: tuple[int, ...]) -> NDArray:
        """Sums of du [T, I] in X's shape, integers."""
        return acc

    def _tokens(self, x: NDArray) -> NDArray:
        """[tokens, channels] of a tensor of X's or Y's shape."""
        return x

    def _image(self, y: NDArray, shape: tuple[int, ...]) -> NDArray:
        """Y's shape from [tokens, O]; ``shape`` of X."""
        return y

    def _wide(self, scale: Float32) -> Float32:
        """A scale for each channel, as it broadcasts with X or Y."""
        return scale

    def forward(
        self, x: NDArray, s_out: Float32, s_in: Float32, step: int, call: int = 0, *, save: bool = True
    ) -> tuple[Float32, SavedPass | None]:
        """Y, and what the backward pass needs where ``save``."""
        uq, su = self._quantize(finite32(x, "X") * self._wide(s_in), "X * s_in", Role.X, step, call)
        acc = self._sums(self._rows(uq))
        y = self._image(dequantize(acc, su * s_out.astype(np.float64)), x.shape)
        if not save:
            return y, None
        aq, sacc = self._quantize(acc.astype(np.float32), "acc", Role.Y, step, call)
        blocks = (tall_blocks(part, self.device.config) for part in (self._tokens(uq), aq))
        u, acc_resident = (Resident.place(self.device, block) for block in blocks)
        return y, SavedPass(step, call, u, acc_resident, su, sacc, x.shape)

    def _sums(self, rows: Int8) -> NDArray[np.int32]:
        """rows V^T, [T, O]."""
        if not self.corrected:
            return product(self.device, rows[None], self.weight, right_transposed=True)[0]
        assert self.zeros is not None
        r = -product(self.device, rows[None], np.ones((1, self.I, 1), np.int8))[0]  # [T, 1]
        high = (r + 128) >> WORD_SHIFT
        low = (r - (high << WORD_SHIFT)).astype(np.int8)
        spread = np.clip(high - 127 * np.sign(high) * np.arange(self.columns), -127, 127)
        spread = np.where(np.sign(spread) == np.sign(high), spread, 0).astype(np.int8)  # columns whose sum is `high`
        return chained(self.device, (spread, self.zeros), (np.concatenate([rows, low], axis=1), self.weight), WORD_SHIFT)

    def backward(self, dy: NDArray, s_out: Float32, s_in: Float32, saved: SavedPass) -> ScaleGradients:
        """Gradients from dY of Y's shape. Where s_in is 0, u has forgotten x, and ds_in is 0."""
        dy = finite32(dy, "dY")
        at = saved.step, saved.call
        gq, g = self._quantize(dy, "dY", Role.DY_ROWS, *at)
        sums = column_sums(self.device, tall_blocks(self._tokens(gq), self.device.config), saved.acc)[: self.O]
        ds_out = dequantize(sums, g * saved.sacc * saved.su)
        with np.errstate(over="ignore"):
            weighted = finite32(dy * self._wide(s_out), "dY * s_out")
        vq, gv = self._quantize(weighted, "dY * s_out", Role.DY, *at)
        acc = product(self.device, np.ascontiguousarray(self._tokens(vq))[None], self.weight)[0]
        if self.corrected:
            acc = acc[:, :-1] - acc[:, -1:].astype(np.int64)
        du = dequantize(self._in_input_shape(acc, saved.shape), gv)
        dq, gd = self._quantize(du, "du", Role.DS, *at)
        sums = column_sums(self.device, tall_blocks(self._tokens(dq), self.device.config), saved.u)[: len(s_in)]
        inverse = np.divide(saved.su * gd, s_in.astype(np.float64), out=np.zeros(len(s_in)), where=s_in != 0)
        return ScaleGradients(du * self._wide(s_in), ds_out, dequantize(sums, inverse))


class TunedConv(TunedLinear):
    """A convolution; its codes are [O, C * kernel], s_in [C]. Tensors are quantized in the order of [N, C, H, W]."""

    def __init__(self, device: Device, codes: Codes, window: Window, scheme: FQT, layer: int) -> None:
        super().__init__(device, codes, scheme, layer)
        self.window = window

    def _rows(self, uq: Int8) -> Int8:
        return self.window.columns(uq)

    def _in_input_shape(self, acc: NDArray, shape: tuple[int, ...]) -> NDArray:
        return self.window.image(acc, shape)  # type: ignore[arg-type]

    def _tokens(self, x: NDArray) -> NDArray:
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(-1, x.shape[1])

    def _image(self, y: NDArray, shape: tuple[int, ...]) -> NDArray:
        height, width = self.window.output(*shape[2:])
        return np.ascontiguousarray(y.reshape(shape[0], height, width, self.O).transpose(0, 3, 1, 2))

    def _wide(self, scale: Float32) -> Float32:
        return scale[:, None, None]


def high_columns(K: int) -> int:
    """INT8 columns that hold the high word of a sum of ``K`` values of up to 127."""
    return max(1, -(-((127 * K + 128) >> WORD_SHIFT) // 127))
