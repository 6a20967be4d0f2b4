"""A U-Net without its inner blocks, and the tap that finds what stands for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from loralith.methods.hollow.parts import Hollow

__all__ = ["Boundary", "hollowed", "tapped"]


class Boundary(nn.Module):
    """In place of a block that is left out: gives ``value`` [N, C, H, W], which is set before each pass, whatever it is given."""

    def __init__(self, skips: int = 0) -> None:
        super().__init__()
        self.resnets = range(skips)  # diffusers takes this many skip connections away for an up block
        self.value: Tensor | None = None

    def forward(self, hidden_states: Tensor, *_: Any, **_more: Any) -> Tensor:
        return hidden_states if self.value is None else self.value


class _Down(nn.Module):
    """In place of a down block: passes its input on, and as many skip connections as the block would, which nothing reads."""

    def __init__(self, skips: int) -> None:
        super().__init__()
        self.skips = skips

    def forward(self, hidden_states: Tensor, *_: Any, **_more: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        return hidden_states, (hidden_states,) * self.skips


def hollowed(unet: UNet2DConditionModel, hollow: Hollow) -> Boundary:
    """Leaves the part out of ``unet``, in place; its weights are gone. Returns what takes the boundary tensor."""
    count = len(unet.down_blocks)
    first = count - hollow.depth
    for i in range(first, count):
        block: Any = unet.down_blocks[i]
        skips = len(block.resnets) + (block.downsamplers is not None)
        unet.down_blocks[i] = _Down(skips + (i == first))
    if hollow.depth:
        kept: Any = unet.down_blocks[first - 1]
        kept.downsamplers = None
    boundary = Boundary()
    unet.mid_block = boundary  # type: ignore[assignment]
    for i in range(hollow.depth):
        block = unet.up_blocks[i]
        boundary = Boundary(len(block.resnets))
        unet.up_blocks[i] = boundary
    return boundary


@contextmanager
def tapped(unet: UNet2DConditionModel, hollow: Hollow) -> Iterator[list[Tensor]]:
    """Inside, the list has the boundary tensor of the latest pass of the full U-Net."""
    found: list[Tensor] = []

    def take(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        found[:] = [output.detach()]

    handle = unet.get_submodule(hollow.tap).register_forward_hook(take)
    try:
        with torch.no_grad():
            yield found
    finally:
        handle.remove()
