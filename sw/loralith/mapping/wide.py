"""Frozen linear layers and convolutions with activations of two INT8 words, forward only."""

from __future__ import annotations

from loralith.lora.frozen import FrozenLinear
from loralith.lora.quantize import quantize_weight
from loralith.lora.wide import WideConv, WideLinear
from loralith.mapping.attachment import float32
from loralith.mapping.frozen import MappedConv, MappedLinear, window_of

__all__ = ["MappedWideConv", "MappedWideLinear"]


class MappedWideLinear(MappedLinear):
    """Y alone; a backward pass through it raises AttachError."""

    def make(self, index: int) -> FrozenLinear:
        scheme = self.attachment.scheme
        return WideLinear(self.attachment.device, quantize_weight(float32(self.module.weight), scheme), scheme, index)


class MappedWideConv(MappedConv):
    """Y alone; a backward pass through it raises AttachError."""

    def make(self, index: int) -> FrozenLinear:
        scheme, module = self.attachment.scheme, self.module
        weight = quantize_weight(float32(module.weight).reshape(module.out_channels, -1), scheme)
        return WideConv(self.attachment.device, weight, window_of(module), scheme, index)
