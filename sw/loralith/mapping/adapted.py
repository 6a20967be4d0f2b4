"""PEFT LoRA linears on a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora import Linear
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from loralith.lora.layer import Activation, DeviceLayer, Gradients, Saved
from loralith.lora.quantize import quantize_weight
from loralith.mapping.attachment import Mapped, Pending, float32
from loralith.mapping.select import AttachError, Choice
from loralith.spec.scheme import SchemeError

if TYPE_CHECKING:
    from loralith.mapping.attachment import Attachment

__all__ = ["MappedLora"]


class _Product(torch.autograd.Function):
    """y [T, O] = x W^T + s x A^T B^T on the device; its backward pass gives dX (where asked for), dA and dB."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, layer: MappedLora, shared: Activation | None, keep: bool
    ) -> Tensor:
        saved, y = layer.forward(x, a, b, shared, keep)
        if keep:
            ctx.layer, ctx.saved, ctx.shape = layer, saved, x.shape
            ctx.save_for_backward(a, b)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gradients = ctx.layer.backward(ctx.saved, dy, *ctx.saved_tensors, ctx.needs_input_grad[0])
        dx = None if gradients.dx is None else torch.from_numpy(gradients.dx).to(dy.dtype).reshape(ctx.shape)
        return dx, torch.from_numpy(gradients.da), torch.from_numpy(gradients.db), None, None, None


def refuse(name: str, module: nn.Module) -> Linear:
    """Raises AttachError for LoRA settings that the device does not run."""
    assert isinstance(module, LoraLayer)
    if not isinstance(module, Linear):
        raise AttachError(f"{name}: LoRA on {type(module).__name__} is not supported; target linear layers")
    adapters = list(module.active_adapters)
    if len(module.lora_A) != 1 or len(adapters) != 1:
        raise AttachError(f"{name}: exactly one adapter is supported, not {', '.join(module.lora_A) or 'none'} (active: {adapters})")
    adapter = adapters[0]
    dropout = module.lora_dropout[adapter]
    if isinstance(dropout, nn.Dropout) and dropout.p > 0:
        raise AttachError(f"{name}: lora_dropout must be 0, not {dropout.p}")
    if getattr(module, "use_dora", {}).get(adapter) or getattr(module, "lora_variant", {}).get(adapter) is not None:
        raise AttachError(f"{name}: DoRA and other LoRA variants are not supported")
    if getattr(module, "lora_bias", {}).get(adapter) or module.lora_B[adapter].bias is not None:
        raise AttachError(f"{name}: lora_bias must be False")
    if module.merged:
        raise AttachError(f"{name}: the adapter is merged; unmerge it first")
    if module.disable_adapters:
        raise AttachError(f"{name}: the adapter is disabled; enable it first")
    if getattr(module, "fan_in_fan_out", False):
        raise AttachError(f"{name}: fan_in_fan_out is not supported")
    if not isinstance(module.get_base_layer(), nn.Linear):
        raise AttachError(f"{name}: the base layer must be torch.nn.Linear, not {type(module.get_base_layer()).__name__}")
    if module.get_base_layer().weight.requires_grad:
        raise AttachError(f"{name}: the base weight is trainable; freeze it (requires_grad False)")
    return module


class MappedLora(Mapped):
    """A LoRA layer: Y, dX, dA and dB."""

    def __init__(self, attachment: Attachment, index: int, choice: Choice) -> None:
        super().__init__(attachment, index, choice)
        self.module = module = refuse(choice.name, choice.module)
        self.adapter = next(iter(module.active_adapters))
        rank = module.r[self.adapter]
        rslora = getattr(module, "use_rslora", {}).get(self.adapter)
        alpha = module.scaling[self.adapter] * rank if rslora else float(module.lora_alpha[self.adapter])
        if abs(alpha / rank - module.scaling[self.adapter]) > 1e-12 * abs(module.scaling[self.adapter]):
            alpha = module.scaling[self.adapter] * rank
        try:
            base: Any = module.get_base_layer()
            weight = quantize_weight(float32(base.weight), attachment.scheme)
            self.device_layer = DeviceLayer(attachment.device, weight, alpha, rank, attachment.scheme, index)
        except SchemeError as error:
            raise AttachError(f"{self.name}: {error}") from None
        if attachment.observer:
            attachment.observer.layer(index, self.name, self.device_layer)

    def install(self) -> None:
        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if args or kwargs:
                raise AttachError(f"{self.name}: an attached layer takes its input only, not {list(kwargs) or len(args)} more arguments")
            a, b = self.module.lora_A[self.adapter].weight, self.module.lora_B[self.adapter].weight
            keep = torch.is_grad_enabled() and (x.requires_grad or a.requires_grad or b.requires_grad)
            with self.use():
                shared = self.attachment.shared(x)
            y: Tensor = _Product.apply(x, a, b, self, shared, keep)  # type: ignore[assignment]
            base: Any = self.module.get_base_layer()
            return y if base.bias is None else y + base.bias

        self.module.forward = forward  # type: ignore[method-assign]

    def remove(self) -> None:
        del self.module.forward

    def close(self) -> None:
        self.device_layer.close()

    def weight_bytes(self) -> tuple[int, int]:
        return self.device_layer.weight.nbytes, self.device_layer.numerics.weight.scale.nbytes

    def originals(self) -> list[Tensor]:
        base: Any = self.module.get_base_layer()
        return [base.weight]

    def state_dict(self) -> dict[str, object]:
        return self.device_layer.numerics.state_dict()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.device_layer.numerics.load_state_dict(state)

    def forward(self, x: Tensor, a: Tensor, b: Tensor, shared: Activation | None, keep: bool) -> tuple[Saved, Tensor]:
        """What the backward pass needs, and Y of X's shape."""
        owner, layer = self.attachment, self.device_layer
        call, before = self.call(), layer.saturations["H"]
        arrays = float32(x).reshape(-1, x.shape[-1]), float32(a), float32(b)
        with self.use():
            saved = layer.forward(shared or arrays[0], *arrays[1:], owner.step, call, record=keep)
        operands = saved.plan.operands
        saturated = {**operands.clipped, "H": layer.saturations["H"] - before}
        sizes = {"X": operands.xq.size, "A": operands.aq.size, "B": operands.bq.size, "H": len(operands.xq) * len(operands.aq)}
        for tensor, count in saturated.items():
            owner.health.values(self.name, tensor, count, sizes[tensor])
        if owner.observer:
            owner.observer.forward(self.index, *arrays, owner.step, call, keep, saved)
        y = torch.from_numpy(saved.y).to(x.dtype).reshape(*x.shape[:-1], -1)
        saved.keep()
        if keep:
            owner.keep(saved, Pending(self, lambda: layer.release(saved), saved.skinny.nbytes, saved.host_bytes(), saved.x))
        else:
            layer.release(saved)
        return saved, y

    def backward(self, saved: Saved, dy: Tensor, a: Tensor, b: Tensor, need_dx: bool) -> Gradients:
        owner, layer = self.attachment, self.device_layer
        owner.taken(saved, self)
        array, adapter = float32(dy).reshape(-1, dy.shape[-1]), (float32(a), float32(b))
        before = layer.saturations["dH"]
        with self.use():
            gradients = layer.backward(saved, array, adapter, need_dx=need_dx)
        dyq, forward = gradients.plan.operands.dyq, saved.plan.operands
        owner.health.values(self.name, "dY", gradients.plan.operands.clipped, dyq.size)
        owner.health.values(self.name, "dH", layer.saturations["dH"] - before, len(dyq) * len(forward.aq))
        owner.health.gradients(
            self.name,
            dy=bool(array.any()),
            dyq=bool(dyq.any()),
            b=bool(forward.bq.any()),
            da=bool(gradients.da_acc.any()),
            db=bool(gradients.db_acc.any()),
        )
        if owner.observer:
            owner.observer.backward(self.index, saved, array, adapter[0], True, gradients)
        return gradients
