"""Frozen linear layers and convolutions with activations of two INT8 words, forward only."""

from __future__ import annotations

from loralith.lora.frozen import FrozenLinear
from loralith.lora.two_words import WideConv, WideLinear
from loralith.mapping.kinds.frozen_modules import MappedConv, MappedLinear, window_of

__all__ = ["MappedWideConv", "MappedWideLinear"]


class MappedWideLinear(MappedLinear):
    """Y alone; a backward pass through it raises AttachError."""

    def make(self, index: int) -> FrozenLinear:
        return WideLinear(self.attachment.device, self.weight.quantized(), self.attachment.scheme, index)


class MappedWideConv(MappedConv):
    """Y alone; a backward pass through it raises AttachError."""

    def make(self, index: int) -> FrozenLinear:
        return WideConv(self.attachment.device, self.weight.quantized(), window_of(self.module), self.attachment.scheme, index)
