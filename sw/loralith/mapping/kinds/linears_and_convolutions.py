"""Frozen linear layers and convolutions on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from loralith.lora.convolution_windows import Window
from loralith.lora.frozen import FrozenConv, FrozenLinear, Input
from loralith.lora.loss import Loss, row_loss
from loralith.lora.quantize import Float32, QuantizedWeight
from loralith.lora.two_words import WideConv, WideLinear
from loralith.mapping.mapped import Mapped, first_order
from loralith.mapping.pass_records import Place
from loralith.mapping.select import CONVOLUTIONS, AttachError, Choice
from loralith.mapping.tensors import finite, float32, output_dtype, tensor, unknown
from loralith.mapping.weight import FrozenWeight
from loralith.spec.scheme import Role, SchemeError

if TYPE_CHECKING:
    from loralith.mapping.attachment import Attachment

__all__ = [
    "CONVOLUTIONS",
    "ConvShapes",
    "FrozenProducts",
    "LinearShapes",
    "MappedConv",
    "MappedLinear",
    "MappedWideConv",
    "MappedWideLinear",
    "FrozenMatmul",
    "window_of",
]


class LinearShapes:
    """What a linear layer's products see: rows of features."""

    module: Any

    def _bias(self) -> Tensor:
        return self.module.bias

    def _flat(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(-1, tensor.shape[-1])

    def _shaped(self, y: Tensor, shape: torch.Size) -> Tensor:
        return y.reshape(*shape[:-1], y.shape[-1])

    def _channels(self, x: Float32) -> Float32:
        """X as rows whose loss is judged."""
        return x


class ConvShapes(LinearShapes):
    """What a convolution's products see: images as they are."""

    def _bias(self) -> Tensor:
        return self.module.bias.reshape(-1, *[1] * len(self.module.kernel_size))

    def _flat(self, tensor: Tensor) -> Tensor:
        return tensor

    def _shaped(self, y: Tensor, shape: torch.Size) -> Tensor:
        return y

    def _channels(self, x: Float32) -> Float32:
        return x.reshape(x.shape[0] * x.shape[1], -1)


class FrozenProducts(LinearShapes):
    """Y and dX of a layer with frozen W, on the device."""

    attachment: Attachment
    name: str
    index: int
    product: FrozenLinear
    weight: FrozenWeight

    def _row_scales(self) -> Float32:
        """sw as it broadcasts with dY."""
        return self.product.scale

    def _returns(self, dy: Any, shape: tuple[int, ...], step: int, call: int) -> Input:
        return self.product.backward(dy, step, call)

    def _gradient_loss(self, dy: Float32, g: float, stochastic: bool) -> Loss:
        return row_loss(dy, g, factor=self.product.scale, stochastic=stochastic)

    def forward(self, x: Tensor, step: int, call: int) -> Tensor:
        """Y without bias; called inside `use`."""
        owner, array = self.attachment, float32(self._flat(x))
        output = self.product.forward(array, step, call)
        if owner.observer:
            owner.observer.frozen_forward(self.index, array, step, call, output)
        owner.health.values(self.name, "X", output.clipped, output.xq.size)
        stochastic = owner.scheme.is_stochastic(Role.X)
        owner.health.quantized(self.name, "X", row_loss(self._channels(output.x), output.sx, stochastic=stochastic), stochastic=stochastic)
        return self._shaped(tensor(output.y, x, output_dtype(x)), x.shape)

    def backward(self, dy: Tensor, shape: tuple[int, ...], step: int, call: int) -> Tensor | None:
        """dX, None where dY is not finite; called inside `use`."""
        owner, array = self.attachment, float32(self._flat(dy))
        if not finite(array, self._row_scales()):
            return None
        result = self._returns(array, shape, step, call)
        if owner.observer:
            owner.observer.frozen_backward(self.index, array, shape, step, call, result)
        owner.health.values(self.name, "dY", result.clipped, result.dyq.size)
        stochastic = owner.scheme.is_stochastic(Role.DY)
        owner.health.quantized(self.name, "dY", self._gradient_loss(array, result.g, stochastic), stochastic=stochastic)
        return tensor(result.dx, dy).reshape(shape)


class FrozenMatmul(torch.autograd.Function):
    """Y of a frozen layer on the device, and dX in the backward pass; saves shapes alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any, place: Place, generation: int) -> Tensor:  # type: ignore[override]
        ctx.layer, ctx.shape, ctx.dtype, ctx.place, ctx.generation = layer, x.shape, x.dtype, place, generation
        return layer.forward(x, place.step, place.call)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        layer, place = ctx.layer, ctx.place
        with layer.use():
            layer.attachment.returning()
            layer.weight.check(ctx.generation)
            dx = layer.backward(dy, tuple(ctx.shape), place.step, place.call)
        return unknown(dy.new_empty(ctx.shape), ctx.dtype) if dx is None else dx.to(ctx.dtype), None, None, None


class MappedLinear(FrozenProducts, Mapped):
    """A frozen linear layer: Y and dX. The bias is torch's."""

    def __init__(self, attachment: Attachment, index: int, choice: Choice) -> None:
        super().__init__(attachment, index, choice)
        self.weight = FrozenWeight(self.name, lambda: self.module.weight, attachment.scheme)
        try:
            self.product = self.make(index)
        except SchemeError as error:
            raise AttachError(f"{self.name}: {error}") from None
        self.own(self.product)
        attachment.health.quantized(self.name, "W", self.weight.loss)
        if attachment.observer:
            attachment.observer.frozen(index, self.name, choice.module, attachment.scheme)

    def make(self, index: int) -> FrozenLinear:
        return FrozenLinear(self.attachment.device, self.weight.quantized(), self.attachment.scheme, index)

    def run(self, x: Tensor) -> Tensor:
        place = self.place(x)
        with self.use():
            y: Tensor = FrozenMatmul.apply(x, self, place, self.weight.current(self._replace))  # type: ignore[assignment]
        return y if self.module.bias is None else y + self._bias().to(y.dtype)

    def _replace(self, weight: QuantizedWeight) -> None:
        self.product.replace(weight)
        self.attachment.health.quantized(self.name, "W", self.weight.loss)
        if self.attachment.observer:
            self.attachment.observer.frozen(self.index, self.name, self.module, self.attachment.scheme)

    def weight_bytes(self) -> tuple[int, int]:
        return self.product.weight.nbytes(self.attachment.device), self.product.scale.nbytes

    def originals(self) -> list[Tensor]:
        return [self.module.weight]

    def moved(self) -> None:
        self.weight.moved()


def window_of(module: Any) -> Window:
    """Where a convolution of `CONVOLUTIONS` looks."""
    numbers = (module.kernel_size, module.stride, module.padding, module.dilation)
    return Window(*(tuple(int(number) for number in own) for own in numbers), groups=module.groups)


class MappedConv(ConvShapes, MappedLinear):
    """A frozen convolution: Y and dX."""

    def make(self, index: int) -> FrozenLinear:
        weight = self.weight.quantized()
        return FrozenConv(self.attachment.device, weight, window_of(self.module), self.attachment.scheme, index)

    def _row_scales(self) -> Float32:
        return self.product.scale.reshape(-1, *[1] * len(self.module.kernel_size))

    def _gradient_loss(self, dy: Float32, g: float, stochastic: bool) -> Loss:
        scale = self.product.scale.astype(np.float64)
        return row_loss(dy.reshape(dy.shape[0] * dy.shape[1], -1), np.tile(g / scale, len(dy)), stochastic=stochastic)

    def _returns(self, dy: Any, shape: tuple[int, ...], step: int, call: int) -> Input:
        assert isinstance(self.product, FrozenConv)
        return self.product.backward(dy, step, call, shape=shape)  # type: ignore[arg-type]


class MappedWideLinear(MappedLinear):
    """Y alone; a backward pass through it raises AttachError."""

    def make(self, index: int) -> FrozenLinear:
        return WideLinear(self.attachment.device, self.weight.quantized(), self.attachment.scheme, index)


class MappedWideConv(MappedConv):
    """Y alone; a backward pass through it raises AttachError."""

    def make(self, index: int) -> FrozenLinear:
        return WideConv(self.attachment.device, self.weight.quantized(), window_of(self.module), self.attachment.scheme, index)
