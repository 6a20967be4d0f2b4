"""Layers that are trained, on a device: the factors of LoRA layers that run in parts, and linear layers and convolutions of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from loralith.lora.loss import row_loss
from loralith.lora.quantize import Float32
from loralith.lora.trained import TrainedConv, TrainedGradients, TrainedLinear, TrainedPass
from loralith.mapping.kinds.linears_and_convolutions import CONVOLUTIONS, window_of
from loralith.mapping.mapped import Mapped, first_order
from loralith.mapping.pass_records import Pending, Place
from loralith.mapping.select import AttachError, Choice
from loralith.mapping.tensors import finite, float32, output_dtype, tensor, unknown
from loralith.spec.scheme import Role, SchemeError

if TYPE_CHECKING:
    from loralith.mapping.attachment import Attachment

__all__ = ["MappedTrained", "TrainedProducts"]


class _Product(torch.autograd.Function):
    """Y on the device; its backward pass gives dX and dW, where they are asked for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, layer: TrainedProducts, place: Place, keep: bool) -> Tensor:  # type: ignore[override]
        y, token = layer.forward(x, w, place, keep)
        if token is not None:
            ctx.layer, ctx.dtypes, ctx.shapes = layer, (x.dtype, w.dtype), (x.shape, w.shape)
            ctx.save_for_backward(token)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (token,) = ctx.saved_tensors
        need_x, need_w = ctx.needs_input_grad[:2]
        found = ctx.layer.backward(token, dy, tuple(ctx.shapes[1]), need_x, need_w)
        results: list[Tensor | None] = []
        for need, shape, dtype, value in zip(
            (need_x, need_w), ctx.shapes, ctx.dtypes, (None, None) if found is None else (found.dx, found.dw), strict=True
        ):
            if not need:
                results.append(None)
            else:
                results.append(unknown(dy.new_empty(shape), dtype) if value is None else tensor(value, dy, dtype).reshape(shape))
        return *results, None, None, None


class TrainedProducts(Mapped):
    """The products of a layer with a W that is trained, a parameter or computed from parameters. ``layer``: whose window a convolution
    has."""

    def __init__(self, attachment: Attachment, index: int, choice: Choice, layer: nn.Module) -> None:
        super().__init__(attachment, index, choice)
        self.window = window_of(layer) if isinstance(layer, CONVOLUTIONS) else None
        try:
            if self.window is None:
                self.products = TrainedLinear(attachment.device, attachment.scheme, index)
            else:
                self.products = TrainedConv(attachment.device, self.window, attachment.scheme, index)
        except SchemeError as error:
            raise AttachError(f"{self.name}: {error}") from None
        self.own(self.products)
        if attachment.observer:
            attachment.observer.trained(index, self.name, layer, attachment.scheme)

    def multiply(self, x: Tensor, w: Tensor) -> Tensor:
        """Y, without a bias, of x [..., I] and w [O, I], or of an image."""
        place = self.place(x)
        keep = torch.is_grad_enabled() and (x.requires_grad or w.requires_grad)
        with self.use():
            return _Product.apply(x, w, self, place, keep)  # type: ignore[return-value]

    def weight_bytes(self) -> tuple[int, int]:
        return 0, 0

    def _flat(self, x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-1]) if self.window is None else x

    def _lost(self, name: str, role: Role, values: Float32, scale: float) -> None:
        stochastic = self.attachment.scheme.is_stochastic(role)
        rows = values.reshape(values.shape[0] * values.shape[1] if name != "W" else len(values), -1) if values.ndim > 2 else values
        self.attachment.health.quantized(self.name, name, row_loss(rows, scale, stochastic=stochastic), stochastic=stochastic)

    def forward(self, x: Tensor, w: Tensor, place: Place, keep: bool) -> tuple[Tensor, Tensor | None]:
        """Y of X's shape, and the token of what the backward pass needs, where one may come."""
        owner, products = self.attachment, self.products
        arrays = float32(self._flat(x)), float32(w)
        shared = owner.shared(x) if self.window is None else None
        one: TrainedPass = products.forward(*arrays, place.step, place.call, shared=shared)
        if owner.observer:
            owner.observer.trained_forward(self.index, *arrays, one)
        for name, role, values, scale in (("X", Role.X, arrays[0], one.x.scale), ("W", Role.A, arrays[1], one.sw)):
            owner.health.values(self.name, name, one.clipped[name], values.size)
            self._lost(name, role, products.rotated(values, w.shape[1]) if owner.scheme.rotation else values, scale)
        assert one.y is not None
        y = tensor(one.y, x, output_dtype(x))
        y = y.reshape(*x.shape[:-1], -1) if self.window is None else y
        one.drop_host_arrays()
        if not keep:
            products.release(one)
            return y, None
        pending = Pending(self, lambda: products.release(one), one.w.nbytes(owner.device), 0, one.x)
        return y, owner.passes.register(one, pending)

    def backward(self, token: Tensor, dy: Tensor, w_shape: tuple[int, ...], need_x: bool, need_w: bool) -> TrainedGradients | None:
        """None where dY is not finite."""
        owner = self.attachment
        array = float32(self._flat(dy))
        with self.use():
            one: TrainedPass = owner.saved(token, self)
            if not finite(array):
                return None
            result = self.products.backward(one, array, w_shape, need_x=need_x, need_w=need_w)
            if owner.observer:
                owner.observer.trained_backward(self.index, array, one.step, one.call, result)
            owner.health.values(self.name, "dY", result.clipped, array.size)
            self._lost("dY", Role.DY, array, result.g)
        return result


class MappedTrained(TrainedProducts):
    """A linear layer or a convolution that is trained. The bias is torch's. Its W may also be frozen, as an adapter's that waits."""

    def __init__(self, attachment: Attachment, index: int, choice: Choice) -> None:
        super().__init__(attachment, index, choice, choice.module)

    def run(self, x: Tensor) -> Tensor:
        y = self.multiply(x, self.module.weight)
        bias = self.module.bias
        if bias is None:
            return y
        return y + (bias if self.window is None else bias.reshape(-1, *[1] * len(self.window.kernel))).to(y.dtype)
