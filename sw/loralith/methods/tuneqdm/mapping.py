"""Layers of codes on a device, forward and backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loralith.lora.frozen import Window
from loralith.lora.tuned import Kept, TunedConv, TunedLinear
from loralith.mapping.attachment import Mapped, Pending, float32
from loralith.mapping.frozen import ConvShapes, LinearShapes, window_of
from loralith.mapping.select import Choice
from loralith.methods.tuneqdm.model import Tuned, forward_of

if TYPE_CHECKING:
    from loralith.mapping.attachment import Attachment

__all__ = ["MappedTuned", "MappedTunedConv"]


class _Product(torch.autograd.Function):
    """Y on the device; its backward pass gives dX, ds_out and ds_in. Scales are those of the pass's expert."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, s_out: Tensor, s_in: Tensor, layer: MappedTuned, keep: bool) -> Tensor:  # type: ignore[override]
        y, kept = layer.forward(x, s_out, s_in, keep)
        if kept is not None:
            ctx.layer, ctx.kept = layer, kept
            ctx.save_for_backward(s_out, s_in)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return *ctx.layer.backward(ctx.kept, dy, *ctx.saved_tensors), None, None


class MappedTuned(LinearShapes, Mapped):
    """A linear layer of codes. The bias is torch's."""

    def __init__(self, attachment: Attachment, index: int, choice: Choice) -> None:
        super().__init__(attachment, index, choice)
        self.module: Any = choice.module
        self.tuned: Tuned = self.module.tuned
        self.product = self.make(index)

    def make(self, index: int) -> TunedLinear:
        return TunedLinear(self.attachment.device, self.tuned.codes, self.attachment.scheme, index)

    def install(self) -> None:
        def forward(x: Tensor) -> Tensor:
            s_out, s_in = self.tuned.scales()
            keep = torch.is_grad_enabled() and (x.requires_grad or s_out.requires_grad or s_in.requires_grad)
            y: Tensor = _Product.apply(x, s_out, s_in, self, keep)  # type: ignore[assignment]
            return y if self.module.bias is None else y + self._bias()

        self.module.forward = forward

    def remove(self) -> None:
        self.module.forward = forward_of(self.module, self.tuned)

    def close(self) -> None:
        self.product.close()

    def weight_bytes(self) -> tuple[int, int]:
        return self.product.nbytes(), 0

    def originals(self) -> list[Tensor]:
        return [self.tuned.code, self.tuned.zero]  # type: ignore[list-item]

    def forward(self, x: Tensor, s_out: Tensor, s_in: Tensor, keep: bool) -> tuple[Tensor, Kept | None]:
        owner, product = self.attachment, self.product
        call = self.call()
        with self.use():
            y, kept = product.forward(float32(self._flat(x)), float32(s_out), float32(s_in), owner.step, call, keep=keep)
        if kept is not None:
            owner.keep(kept, Pending(self, lambda: product.release(kept), product.saved_bytes(kept)))
        return self._shaped(torch.from_numpy(y).to(x.dtype), x.shape), kept

    def backward(self, kept: Kept, dy: Tensor, s_out: Tensor, s_in: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.attachment.taken(kept, self)
        shape = dy.shape
        try:
            with self.use():
                found = self.product.backward(float32(self._flat(dy)), float32(s_out), float32(s_in), kept)
        finally:
            self.product.release(kept)
        dx = self._shaped(torch.from_numpy(found.dx).to(dy.dtype), shape)
        return dx, torch.from_numpy(found.ds_out), torch.from_numpy(found.ds_in)


class MappedTunedConv(ConvShapes, MappedTuned):
    """A convolution of codes."""

    def make(self, index: int) -> TunedLinear:
        window: Window = window_of(self.module)
        return TunedConv(self.attachment.device, self.tuned.codes, window, self.attachment.scheme, index)
