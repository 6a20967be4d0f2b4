"""Layers of codes on a device, forward and backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loralith.lora.frozen import Window
from loralith.lora.tuned import SavedPass, TunedConv, TunedLinear
from loralith.mapping.kinds.linears_and_convolutions import ConvShapes, LinearShapes, window_of
from loralith.mapping.mapped import Mapped, first_order
from loralith.mapping.pass_records import Pending, Place
from loralith.mapping.select import Choice
from loralith.mapping.tensors import finite, float32, tensor, unknown
from loralith.methods.tuneqdm.code_layers import Tuned

if TYPE_CHECKING:
    from loralith.mapping.attachment import Attachment

__all__ = ["MappedTuned", "MappedTunedConv"]


class _Product(torch.autograd.Function):
    """Y on the device; its backward pass gives dX, ds_out and ds_in. Scales are those of the pass's expert."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, s_out: Tensor, s_in: Tensor, layer: MappedTuned, needs_backward: bool, place: Place) -> Tensor:  # type: ignore[override]
        y, token = layer.forward(x, s_out, s_in, needs_backward, place)
        if token is not None:
            ctx.layer, ctx.shape = layer, x.shape
            ctx.save_for_backward(s_out, s_in, token)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        s_out, s_in, token = ctx.saved_tensors
        found = ctx.layer.backward(token, dy, s_out, s_in)
        if found is None:
            return unknown(dy.new_empty(ctx.shape)), unknown(s_out), unknown(s_in), None, None, None
        return *found, None, None, None


class MappedTuned(LinearShapes, Mapped):
    """A linear layer of codes. The bias is torch's."""

    def __init__(self, attachment: Attachment, index: int, choice: Choice) -> None:
        super().__init__(attachment, index, choice)
        self.tuned: Tuned = self.module.tuned
        self.product = self.make(index)
        self.own(self.product)

    def make(self, index: int) -> TunedLinear:
        return TunedLinear(self.attachment.device, self.tuned.codes, self.attachment.scheme, index)

    def run(self, x: Tensor) -> Tensor:
        s_out, s_in = self.tuned.scales()
        needs_backward = torch.is_grad_enabled() and (x.requires_grad or s_out.requires_grad or s_in.requires_grad)
        place = self.place(x)
        with self.use():
            y: Tensor = _Product.apply(x, s_out, s_in, self, needs_backward, place)  # type: ignore[assignment]
        return y if self.module.bias is None else y + self._bias()

    def weight_bytes(self) -> tuple[int, int]:
        return self.product.nbytes(), 0

    def originals(self) -> list[Tensor]:
        return [self.tuned.code, self.tuned.zero]  # type: ignore[list-item]

    def forward(self, x: Tensor, s_out: Tensor, s_in: Tensor, needs_backward: bool, place: Place) -> tuple[Tensor, Tensor | None]:
        """Y, and the token of what the backward pass needs, where one may come."""
        owner, product = self.attachment, self.product
        y, saved = product.forward(float32(self._flat(x)), float32(s_out), float32(s_in), place.step, place.call, save=needs_backward)
        token = None
        if saved is not None:
            token = owner.passes.register(saved, Pending(self, lambda: product.release(saved), product.saved_bytes(saved)))
        return self._shaped(tensor(y, x), x.shape), token

    def backward(self, token: Tensor, dy: Tensor, s_out: Tensor, s_in: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """dX, ds_out and ds_in; None where they are not finite."""
        array = float32(self._flat(dy))
        with self.use():
            saved: SavedPass = self.attachment.saved(token, self)
            if not (finite(array) and finite(array, float(s_out.detach().abs().max()))):
                return None
            found = self.product.backward(array, float32(s_out), float32(s_in), saved)
        return self._shaped(tensor(found.dx, dy), dy.shape), tensor(found.ds_out, s_out), tensor(found.ds_in, s_in)


class MappedTunedConv(ConvShapes, MappedTuned):
    """A convolution of codes."""

    def make(self, index: int) -> TunedLinear:
        window: Window = window_of(self.module)
        return TunedConv(self.attachment.device, self.tuned.codes, window, self.attachment.scheme, index)
