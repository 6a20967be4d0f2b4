"""Layers of codes with trained scales in torch, and the U-Net that switches them by time step.

W[o, i] = s_out[o] (Wq - z)[o, i] s_in[i], one pair of scales for each expert; of a convolution i is the input channel.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from loralith.diffusion.schedule import TRAIN_TIMESTEPS
from loralith.lora.codes import Codes, quantize_codes
from loralith.mapping.select import select
from loralith.mapping.tensors import float32

__all__ = ["Router", "Tuned", "TunedUNet", "tune"]


class Router:
    """Which expert passes use now."""

    def __init__(self, experts: int) -> None:
        self.experts, self.now = experts, 0

    def of(self, timesteps: Tensor) -> Tensor:
        """The expert of each time step: floor(t * experts / 1000)."""
        return timesteps * self.experts // TRAIN_TIMESTEPS


class Tuned(nn.Module):
    """The codes and scales of one layer, in place of its weight. ``s_out`` and ``s_in`` have a tensor [O] and [I] for each expert."""

    def __init__(self, codes: Codes, channels: int, router: Router) -> None:
        super().__init__()
        self.bits, self.router = codes.bits, router
        self.register_buffer("code", torch.from_numpy(codes.code))
        self.register_buffer("zero", torch.from_numpy(codes.zero))
        scale = torch.from_numpy(codes.scale)
        self.s_out = nn.ParameterList([nn.Parameter(scale.clone()) for _ in range(router.experts)])
        self.s_in = nn.ParameterList([nn.Parameter(torch.ones(channels)) for _ in range(router.experts)])

    @property
    def codes(self) -> Codes:
        """As numpy. ``scale`` is that of the first expert now."""
        code, zero = self.code.numpy(), self.zero.numpy()  # type: ignore[operator]
        return Codes(code, zero, float32(self.s_out[0]), self.bits)

    def scales(self) -> tuple[Tensor, Tensor]:
        """(s_out [O], s_in [I]) of the router's expert."""
        return self.s_out[self.router.now], self.s_in[self.router.now]

    def product(self, module: nn.Module, x: Tensor) -> Tensor:
        """The layer without its bias, in plain FP32."""
        s_out, s_in = self.scales()
        centred = self.code.float() - self.zero.float()[:, None]  # type: ignore[operator, union-attr]
        if isinstance(module, nn.Conv2d):
            kernel = centred.reshape(module.out_channels, module.in_channels, *module.kernel_size)
            y = functional.conv2d(x * s_in[:, None, None], kernel, None, module.stride, module.padding, module.dilation)
            return y * s_out[:, None, None]
        return functional.linear(x * s_in, centred) * s_out


def forward_of(module: Any, tuned: Tuned) -> Any:
    """The forward pass of a layer whose weight is ``tuned``, in torch."""

    def forward(x: Tensor) -> Tensor:
        y = tuned.product(module, x)
        if module.bias is None:
            return y
        return y + (module.bias[:, None, None] if isinstance(module, nn.Conv2d) else module.bias)

    return forward


def tune(unet: UNet2DConditionModel, bits: int, router: Router) -> dict[str, Tuned]:
    """Replaces the weight of every linear layer and convolution that can be mapped by codes and scales, in place; by name."""
    found: dict[str, Tuned] = {}
    for choice in select(unet, "all"):
        if choice.kind in ("linear", "conv") and not choice.reason:
            module: Any = choice.module
            codes = quantize_codes(float32(module.weight).reshape(module.weight.shape[0], -1), bits)
            tuned = Tuned(codes, module.weight.shape[1], router)
            module.tuned = found[choice.name] = tuned
            module.weight = nn.Parameter(torch.empty(0), requires_grad=False)
            module.forward = forward_of(module, tuned)
    return found


class TunedUNet(nn.Module):
    """A U-Net whose images may have any time steps: each expert passes over its own, one expert after the other."""

    def __init__(self, unet: UNet2DConditionModel, router: Router) -> None:
        super().__init__()
        self.unet, self.router = unet, router

    def forward(self, sample: Tensor, timestep: Tensor | int, encoder_hidden_states: Tensor) -> Any:
        """As a U-Net's: the result has `sample`, [N, 1, H, W]."""
        times = torch.as_tensor(timestep).expand(len(sample))
        experts = self.router.of(times)
        result: Any = None
        parts: list[Tensor] = []
        order: list[Tensor] = []
        for expert in sorted(set(experts.tolist())):
            rows = torch.nonzero(experts == expert)[:, 0]
            self.router.now = expert
            result = self.unet(sample[rows], times[rows], encoder_hidden_states[rows])
            parts.append(result.sample)
            order.append(rows)
        if len(parts) > 1:
            result.sample = torch.cat(parts)[torch.argsort(torch.cat(order))]
        return result
