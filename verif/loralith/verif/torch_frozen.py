"""The products of frozen layers, of trained ones and of attention from their definitions: torch, exact, without devices, columns or blocks.

Written from docs/numerics.md. A linear layer is a product of matrices; a convolution is torch's own in float64, which holds every sum of
INT8 products exactly; attention is products head by head. `Softmax` is the host's, in float32: it is not looked at here, so each function
takes what the host computed before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from loralith.spec.scales import rotation_block
from loralith.spec.scheme import FQT, Role, SchemeError, hash_words

from .torch_quantize import QuantizedWeight, Stream, as_float32, matmul, quantize, quantize_weight, rotate_blocks, rotate_channel_blocks

__all__ = ["Attention", "FrozenConv", "FrozenLinear", "Result", "Trained", "places"]


@dataclass(frozen=True)
class Result:
    """A product: the INT8 operand that is made in this pass, the exact integer sums, and the result as float32."""

    operand: Tensor
    acc: Tensor
    value: Tensor


def _dequantized(acc: Tensor, scale: float | Tensor) -> Tensor:
    return (acc.double() * scale).float()


CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
INPUT = {1: torch.nn.grad.conv1d_input, 2: torch.nn.grad.conv2d_input, 3: torch.nn.grad.conv3d_input}
WEIGHT = {1: torch.nn.grad.conv1d_weight, 2: torch.nn.grad.conv2d_weight, 3: torch.nn.grad.conv3d_weight}
"""Torch's convolutions, and what goes back to their inputs and weights, by the image's dimensions."""


def places(module: Any) -> dict[str, Any]:
    """Where a convolution looks, as torch's functions take it."""
    return {name: getattr(module, name) for name in ("stride", "padding", "dilation", "groups")}


class _Layer:
    def __init__(self, scheme: FQT, layer: int) -> None:
        self.scheme, self.layer = scheme, layer

    def _quantize(self, x: Tensor, name: str, role: Role, step: int, call: int) -> tuple[Tensor, float]:
        stream = None
        if self.scheme.is_stochastic(role):
            stream = Stream(*hash_words(self.scheme.seed, step, self.layer, role, call))
        q, scale, _ = quantize(as_float32(x, name), stream=stream)
        return q, scale


class FrozenLinear(_Layer):
    """Y = X W^T and dX = dY W. Parameters: ``weight`` [O, I] float32, ``scheme``, ``layer``, its place in the host's list."""

    def __init__(self, weight: Tensor, scheme: FQT, layer: int) -> None:
        super().__init__(scheme, layer)
        self.block = rotation_block(scheme.rotation, weight.shape[1])
        kernel = math.prod(weight.shape[2:])
        self.weight: QuantizedWeight = quantize_weight(weight.reshape(len(weight), -1), scheme, kernel)

    def forward(self, x: Tensor, *, step: int, call: int) -> Result:
        """x [T, I]; sums [T, O]."""
        xq, sx = self._quantize(rotate_blocks(x, self.block), "X", Role.X, step, call)
        acc = matmul(xq, self.weight.q.T)
        return Result(xq, acc, _dequantized(acc, self.weight.scale.double() * sx))

    def backward(self, dy: Tensor, shape: tuple[int, ...], *, step: int, call: int) -> Result:
        """dy [T, O]; sums [T, I]. ``shape`` of X, which a convolution needs."""
        dyq, g = self._quantize(dy * self.weight.scale, "dY * sw", Role.DY, step, call)
        acc = matmul(dyq, self.weight.q)
        return Result(dyq, acc, rotate_blocks(_dequantized(acc, g), self.block))


class FrozenConv(FrozenLinear):
    """The same for a convolution of one to three dimensions; x [N, C, ...], sums of Y [N, O, ...], of dX [N, C, ...]."""

    def __init__(self, module: Any, scheme: FQT, layer: int) -> None:
        super().__init__(module.weight.detach(), scheme, layer)
        if module.padding_mode != "zeros":
            raise SchemeError(f"a convolution must have zeros around it, not {module}")
        self.kernel = self.weight.q.reshape(module.weight.shape).double()
        self.places = places(module)
        self.dimensions = module.weight.dim() - 2
        self.row_scales = self.weight.scale.reshape(-1, *[1] * self.dimensions)

    def forward(self, x: Tensor, *, step: int, call: int) -> Result:
        xq, sx = self._quantize(rotate_channel_blocks(x, self.block), "X", Role.X, step, call)
        acc = CONVOLVE[self.dimensions](xq.double(), self.kernel, **self.places).to(torch.int64)
        return Result(xq, acc, _dequantized(acc, self.row_scales.double() * sx))

    def backward(self, dy: Tensor, shape: tuple[int, ...], *, step: int, call: int) -> Result:
        dyq, g = self._quantize(dy * self.row_scales, "dY * sw", Role.DY, step, call)
        acc = INPUT[self.dimensions](shape, self.kernel, dyq.double(), **self.places).to(torch.int64)
        return Result(dyq, acc, rotate_channel_blocks(_dequantized(acc, g), self.block))


class Trained(_Layer):
    """Y = X W^T, dX = dY W and dW = dY^T X of a layer that is trained, a scale for each tensor.

    ``places``: those of a convolution, None for a linear layer. It remembers the operands of this step's passes.
    """

    def __init__(self, scheme: FQT, layer: int, places: dict[str, Any] | None = None) -> None:
        super().__init__(scheme, layer)
        self.places = places
        self._waiting: dict[tuple[int, int], tuple[Tensor, float, Tensor, float]] = {}

    def _rotated(self, tensor: Tensor, channels: int) -> Tensor:
        """X, W, dX or dW times R; ``channels`` of W."""
        return (rotate_blocks if self.places is None else rotate_channel_blocks)(tensor, rotation_block(self.scheme.rotation, channels))

    def forward(self, x: Tensor, w: Tensor, *, step: int, call: int) -> tuple[Tensor, Result]:
        """(INT8 W, Y); x [T, I] or [N, C, H, W]."""
        if any(key[0] != step for key in self._waiting):
            self._waiting.clear()
        x, w = self._rotated(x, w.shape[1]), self._rotated(w, w.shape[1])
        (xq, sx), (wq, sw) = self._quantize(x, "X", Role.X, step, call), self._quantize(w, "W", Role.A, step, call)
        self._waiting[step, call] = xq, sx, wq, sw
        acc = matmul(xq, wq.T) if self.places is None else CONVOLVE[w.dim() - 2](xq.double(), wq.double(), **self.places).to(torch.int64)
        return wq, Result(xq, acc, _dequantized(acc, sx * sw))

    def backward(self, name: str, dy: Tensor, *, step: int, call: int) -> Result:
        """dX or dW from dY."""
        xq, sx, wq, sw = self._waiting[step, call]
        dyq, g = self._quantize(dy, "dY", Role.DY, step, call)
        if self.places is None:
            acc = matmul(dyq, wq) if name == "dX" else matmul(dyq.T, xq)
        elif name == "dX":
            acc = INPUT[wq.dim() - 2](xq.shape, wq.double(), dyq.double(), **self.places).to(torch.int64)
        else:
            acc = WEIGHT[wq.dim() - 2](xq.double(), wq.shape, dyq.double(), **self.places).to(torch.int64)
        return Result(dyq, acc, self._rotated(_dequantized(acc, g * (sw if name == "dX" else sx)), wq.shape[1]))


def _products(left: Tensor, right: Tensor) -> Tensor:
    """[n, M, K] times [n, K, N], exactly, int64."""
    return torch.stack([matmul(one, two) for one, two in zip(left, right, strict=True)])


class Attention(_Layer):
    """The products of one attention, [n, T, d] for n heads of all images. It remembers the operands of this step's passes."""

    def __init__(self, scheme: FQT, layer: int) -> None:
        super().__init__(scheme, layer)
        self._waiting: dict[tuple[int, int], dict[str, tuple[Tensor, float]]] = {}
        self._rows: dict[tuple[int, int], Tensor] = {}

    def scores(self, q: Tensor, k: Tensor, *, step: int, call: int) -> tuple[Tensor, Result]:
        """(INT8 K, S [n, Tq, Tk])."""
        if any(key[0] != step for key in self._waiting):
            self._waiting.clear()
            self._rows.clear()
        (qq, sq), (kq, sk) = self._quantize(q, "Q", Role.Q, step, call), self._quantize(k, "K", Role.K, step, call)
        self._waiting[step, call] = {"Q": (qq, sq), "K": (kq, sk)}
        acc = _products(qq, kq.mT)
        return kq, Result(qq, acc, _dequantized(acc, sq * sk))

    def values(self, e: Tensor, v: Tensor, *, step: int, call: int) -> tuple[Tensor, Result]:
        """(INT8 P, O [n, Tq, d]); ``e`` as exponentials over their row's largest."""
        pq = torch.round(e * 127.0).to(torch.int8)
        rows = pq.to(torch.int64).sum(dim=2)
        vq, sv = self._quantize(v, "V", Role.V, step, call)
        self._waiting[step, call] |= {"V": (vq, sv), "P": (pq, math.nan)}
        self._rows[step, call] = rows
        acc = _products(pq, vq)
        scale = torch.tensor(sv, dtype=torch.float64) / rows.double()  # a number over a tensor would be its reciprocal times the number
        return pq, Result(vq, acc, _dequantized(acc, scale[:, :, None]))

    def backward(self, name: str, gradient: Tensor, *, step: int, call: int) -> Result:
        """dV or dP from dO, dQ or dK from dS."""
        waiting, rows = self._waiting[step, call], self._rows[step, call]
        if name == "dV":
            operand, g = self._quantize(gradient / rows.float()[:, :, None], "dO / rows", Role.DY_ROWS, step, call)
            acc, scale = _products(waiting["P"][0].mT, operand), g
        elif name == "dP":
            operand, g = self._quantize(gradient, "dO", Role.DY, step, call)
            acc, scale = _products(operand, waiting["V"][0].mT), g * waiting["V"][1]
        else:
            operand, g = self._quantize(gradient, "dS", Role.DS, step, call)
            other = "K" if name == "dQ" else "Q"
            acc = _products(operand if name == "dQ" else operand.mT, waiting[other][0])
            scale = g * waiting[other][1]
        return Result(operand, acc, _dequantized(acc, scale))

    def probabilities(self, *, step: int, call: int) -> Tensor:
        """P [n, Tq, Tk] float32, as the host takes it for dS."""
        return (self._waiting[step, call]["P"][0].double() / self._rows[step, call].double()[:, :, None]).float()
