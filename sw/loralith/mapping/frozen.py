"""Frozen linear layers and convolutions on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from loralith.lora.frozen import FrozenConv, FrozenLinear, Input, Output, Window
from loralith.lora.quantize import quantize_weight
from loralith.mapping.attachment import Mapped, float32
from loralith.mapping.select import AttachError, Choice
from loralith.spec.scheme import SchemeError

if TYPE_CHECKING:
    from loralith.mapping.attachment import Attachment

__all__ = ["ConvShapes", "LinearShapes", "MappedConv", "MappedLinear", "window_of"]


class LinearShapes:
    """What a linear layer's products see: rows of features."""

    module: Any

    def _bias(self) -> Tensor:
        return self.module.bias

    def _flat(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(-1, tensor.shape[-1])

    def _shaped(self, y: Tensor, shape: torch.Size) -> Tensor:
        return y.reshape(*shape[:-1], y.shape[-1])


class ConvShapes(LinearShapes):
    """What a convolution's products see: images as they are."""

    def _bias(self) -> Tensor:
        return self.module.bias[:, None, None]

    def _flat(self, tensor: Tensor) -> Tensor:
        return tensor

    def _shaped(self, y: Tensor, shape: torch.Size) -> Tensor:
        return y


class _Product(torch.autograd.Function):
    """Y on the device, and dX in the backward pass; saves shapes alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: MappedLinear) -> Tensor:  # type: ignore[override]
        ctx.layer, ctx.shape, ctx.place = layer, x.shape, (layer.attachment.step, layer.call())
        return layer.forward(x, *ctx.place)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if not ctx.needs_input_grad[0]:
            return None, None
        return ctx.layer.backward(dy, tuple(ctx.shape), *ctx.place), None


class MappedLinear(LinearShapes, Mapped):
    """A frozen linear layer: Y and dX. The bias is torch's."""

    def __init__(self, attachment: Attachment, index: int, choice: Choice) -> None:
        super().__init__(attachment, index, choice)
        self.module: Any = choice.module
        try:
            self.product = self.make(index)
        except SchemeError as error:
            raise AttachError(f"{self.name}: {error}") from None
        if attachment.observer:
            attachment.observer.frozen(index, self.name, choice.module, attachment.scheme)

    def make(self, index: int) -> FrozenLinear:
        scheme = self.attachment.scheme
        return FrozenLinear(self.attachment.device, quantize_weight(float32(self.module.weight), scheme), scheme, index)

    def install(self) -> None:
        def forward(x: Tensor) -> Tensor:
            y: Tensor = _Product.apply(x, self)  # type: ignore[assignment]
            return y if self.module.bias is None else y + self._bias()

        self.module.forward = forward

    def remove(self) -> None:
        del self.module.forward

    def close(self) -> None:
        self.product.close()

    def weight_bytes(self) -> tuple[int, int]:
        return self.product.weight.nbytes(self.attachment.device), self.product.scale.nbytes

    def originals(self) -> list[Tensor]:
        return [self.module.weight]

    def _passes(self, x: Any, step: int, call: int) -> Output:
        return self.product.forward(x, step, call)

    def _returns(self, dy: Any, shape: tuple[int, ...], step: int, call: int) -> Input:
        return self.product.backward(dy, step, call)

    def forward(self, x: Tensor, step: int, call: int) -> Tensor:
        array = float32(self._flat(x))
        with self.use():
            output = self._passes(array, step, call)
        if self.attachment.observer:
            self.attachment.observer.frozen_forward(self.index, array, step, call, output)
        self.attachment.health.values(self.name, "X", output.clipped, output.xq.size)
        return self._shaped(torch.from_numpy(output.y).to(x.dtype), x.shape)

    def backward(self, dy: Tensor, shape: tuple[int, ...], step: int, call: int) -> Tensor:
        array = float32(self._flat(dy))
        with self.use():
            result = self._returns(array, shape, step, call)
        if self.attachment.observer:
            self.attachment.observer.frozen_backward(self.index, array, shape, step, call, result)
        self.attachment.health.values(self.name, "dY", result.clipped, result.dyq.size)
        return torch.from_numpy(result.dx).to(dy.dtype).reshape(shape)


def window_of(module: nn.Conv2d) -> Window:
    """Where a convolution looks."""
    pairs = (module.kernel_size, module.stride, module.padding, module.dilation)
    return Window(*((int(pair[0]), int(pair[1])) for pair in pairs))


class MappedConv(ConvShapes, MappedLinear):
    """A frozen convolution: Y and dX."""

    def make(self, index: int) -> FrozenLinear:
        scheme, module = self.attachment.scheme, self.module
        weight = quantize_weight(float32(module.weight).reshape(module.out_channels, -1), scheme)
        return FrozenConv(self.attachment.device, weight, window_of(module), scheme, index)

    def _returns(self, dy: Any, shape: tuple[int, ...], step: int, call: int) -> Input:
        assert isinstance(self.product, FrozenConv)
        return self.product.backward(dy, step, call, shape=shape)  # type: ignore[arg-type]
