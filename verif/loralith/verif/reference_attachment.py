"""PEFT LoRA layers of a torch model on the torch reference: every bit of a device's training run, without a device.

For studies of schemes: without command lists a step takes little longer than torch's own, and schemes run that no device runs. Layers,
calls and steps are numbered as `loralith.attach` numbers them, so that a scheme that a device runs gives the device's bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from loralith.spec.scheme import FQT, SchemeError

from .fqt import Backward, Forward, LoraLayer
from .torch_quantize import quantize_weight

__all__ = ["Observer", "ReferenceAttachment"]


class Observer(Protocol):
    """Sees every pass that a gradient is wanted of. Tensors must not be changed."""

    def forward(self, name: str, x: Tensor, forward: Forward) -> None: ...

    def backward(self, name: str, dy: Tensor, forward: Forward, backward: Backward) -> None: ...


@dataclass
class _Layer:
    """One layer on the reference. `calls` counts its passes in the present step."""

    name: str
    module: Linear
    reference: LoraLayer
    calls: int = 0

    @property
    def adapter(self) -> tuple[Tensor, Tensor]:
        name = next(iter(self.module.active_adapters))
        return self.module.lora_A[name].weight, self.module.lora_B[name].weight  # type: ignore[return-value]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, attachment: ReferenceAttachment, layer: _Layer, keep: bool) -> Tensor:  # type: ignore[override]
        call, layer.calls = layer.calls, layer.calls + 1
        forward = layer.reference.forward(x, a, b, step=attachment.step, call=call, record=keep)
        if keep:
            ctx.attachment, ctx.layer, ctx.saved = attachment, layer, forward
            ctx.save_for_backward(a)
            if attachment.observer:
                attachment.observer.forward(layer.name, x.detach(), forward)
        # Another tensor on the same values: an output that its own node keeps is never freed.
        return forward.y.detach()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (a,) = ctx.saved_tensors
        ctx.attachment.returned = True
        backward = ctx.layer.reference.backward(ctx.saved, dy, a, need_dx=ctx.needs_input_grad[0])
        if ctx.attachment.observer:
            ctx.attachment.observer.backward(ctx.layer.name, dy, ctx.saved, backward)
        return backward.dx, backward.da, backward.db, None, None, None


class ReferenceAttachment:
    """The LoRA linears of a PEFT model on the reference, until `detach`; float32, one adapter, as `loralith.attach` wants them.

    Parameters: ``model``; ``scheme``, any that `FQT` allows; ``observer``. Raises SchemeError, with the layer's name, for values and
    shapes that the reference refuses.
    """

    def __init__(self, model: nn.Module, scheme: FQT, observer: Observer | None = None) -> None:
        self.observer, self.step = observer, 0
        self.returned, self._explicit = False, False
        found = sorted((name, module) for name, module in model.named_modules() if isinstance(module, Linear))
        if not found:
            raise SchemeError("the model has no LoRA layers")
        self.layers: list[_Layer] = []
        for index, (name, module) in enumerate(found):
            adapter = next(iter(module.active_adapters))
            rank = module.r[adapter]
            weight = quantize_weight(module.get_base_layer().weight, scheme)  # type: ignore[arg-type]
            layer = _Layer(name, module, LoraLayer(weight, module.scaling[adapter] * rank, scheme, index))
            self.layers.append(layer)
            module.forward = self._forward_of(layer)  # type: ignore[method-assign]

    def _forward_of(self, layer: _Layer) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            if self.returned and not self._explicit and torch.is_grad_enabled():
                self._begin(self.step + 1)
            a, b = layer.adapter
            keep = torch.is_grad_enabled() and (x.requires_grad or a.requires_grad or b.requires_grad)
            try:
                y: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), a, b, self, layer, keep)  # type: ignore[assignment]
            except SchemeError as error:
                raise SchemeError(f"{layer.name}: {error}") from None
            y = y.reshape(*x.shape[:-1], y.shape[-1])
            bias = layer.module.get_base_layer().bias
            return y if bias is None else y + bias  # type: ignore[operator]

        return forward

    def step_begin(self, step: int) -> None:
        """Start of step `step`, which stochastic rounding draws from. Until it is called a step begins with the first forward pass under
        grad after a backward pass."""
        self._explicit = True
        self._begin(step)

    def _begin(self, step: int) -> None:
        self.step, self.returned = step, False
        for layer in self.layers:
            layer.calls = 0

    def counters(self) -> Mapping[str, Any]:
        """The observer's, where it has any."""
        own = getattr(self.observer, "counters", None)
        return own() if own else {}

    def state_dict(self) -> dict[str, Any]:
        """The history of delayed scales by layer name, as JSON values."""
        return {layer.name: layer.reference.state_dict() for layer in self.layers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over `state_dict`'s value."""
        for layer in self.layers:
            layer.reference.load_state_dict(state[layer.name])

    def detach(self) -> None:
        """Gives the layers back to torch. Detaching twice is not an error."""
        for layer in self.layers:
            del layer.module.forward
        self.layers = []
