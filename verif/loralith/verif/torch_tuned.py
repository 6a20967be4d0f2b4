"""Layers of codes with trained scales (TuneQDM) from their definition: torch, exact, without devices, columns or blocks.

Written from docs/numerics.md, section 7. `autograd` is the same layer without any rounding, in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from loralith.spec.scheme import FQT, Role, hash_words

from .torch_quantize import Stream, as_float32, quantize

__all__ = ["Layer", "autograd"]

Array = np.ndarray


def _centred(code: Array, zero: Array, window: Mapping[str, Any] | None) -> Tensor:
    """code - zero as float64, of a convolution [O, C, kernel]."""
    v = torch.from_numpy(code.astype(np.float64) - zero.astype(np.float64)[:, None])
    return v if window is None else v.reshape(len(v), -1, *window["kernel"])


def _places(window: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in window.items() if name != "kernel"}


class Layer:
    """``code`` and ``zero`` [O, I], [O]; ``window``: kernel, stride and padding of a convolution, None for a linear layer."""

    def __init__(self, code: Array, zero: Array, window: Mapping[str, Any] | None, scheme: FQT, layer: int) -> None:
        self.v, self.window, self.scheme, self.layer = _centred(code, zero, window), window, scheme, layer

    def _int8(self, x: Tensor, role: Role, step: int, call: int) -> tuple[Tensor, float]:
        stream = None
        if self.scheme.is_stochastic(role):
            stream = Stream(*hash_words(self.scheme.seed, step, self.layer, role, call))
        q, scale, _ = quantize(as_float32(x, role.name), stream=stream)
        return q.double(), scale

    def step(self, x: Array, dy: Array, s_out: Array, s_in: Array, *, step: int, call: int) -> tuple[Array, ...]:
        """(Y, dX, ds_out, ds_in), float32, from X and dY of the layer's own shapes."""
        out, into = (torch.from_numpy(scale) for scale in (s_out, s_in))
        tail = () if self.window is None else (1, 1)
        wide_out, wide_in = out.reshape(-1, *tail), into.reshape(-1, *tail)
        u, su = self._int8(torch.from_numpy(x) * wide_in, Role.X, step, call)
        if self.window is None:
            acc = u @ self.v.T
            rows = acc
        else:
            acc = functional.conv2d(u, self.v, **_places(self.window))
            rows = acc.permute(0, 2, 3, 1).reshape(-1, len(self.v)).contiguous()
        y = (acc * (su * wide_out.double())).float()
        a, sa = self._int8(rows.float(), Role.Y, step, call)
        g, sg = self._int8(torch.from_numpy(dy), Role.DY_ROWS, step, call)
        ds_out = ((self._tokens(g) * a).sum(dim=0) * (sg * sa * su)).float()
        v, sv = self._int8(torch.from_numpy(dy) * wide_out, Role.DY, step, call)
        sums = v @ self.v if self.window is None else torch.nn.grad.conv2d_input(x.shape, self.v, v, **_places(self.window))
        du = (sums * sv).float()
        d, sd = self._int8(du, Role.DS, step, call)
        scale = torch.where(into == 0, 0.0, torch.full_like(into.double(), su * sd) / into.double())
        ds_in = ((self._tokens(u) * self._tokens(d)).sum(dim=0) * scale).float()
        return y.numpy(), (du * wide_in).numpy(), ds_out.numpy(), ds_in.numpy()

    def _tokens(self, x: Tensor) -> Tensor:
        """[tokens, channels]."""
        return x if self.window is None else x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def autograd(
    x: Array, dy: Array, code: Array, zero: Array, s_out: Array, s_in: Array, window: Mapping[str, Any] | None
) -> tuple[Array, ...]:
    """(Y, dX, ds_out, ds_in) in float64 by torch's autograd, nothing rounded."""
    v = _centred(code, zero, window)
    leaves = [torch.from_numpy(value.astype(np.float64)).requires_grad_(True) for value in (x, s_out, s_in)]
    a, out, into = leaves
    if window is None:
        y = functional.linear(a, out[:, None] * v * into)
    else:
        y = functional.conv2d(a, out[:, None, None, None] * v * into[:, None, None], **_places(window))
    gradients = torch.autograd.grad(y, leaves, torch.from_numpy(dy.astype(np.float64)))
    return y.detach().numpy(), *(gradient.numpy() for gradient in gradients)
