"""PEFT LoRA layers of a torch model, run forward and backward on a device. Optimizer and everything else stay in torch."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from peft.tuners.lora import Linear
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from loralith.device.base import Device
from loralith.errors import LoralithError
from loralith.spec.scheme import FQT, SchemeError

from .health import Health
from .layer import DeviceLayer, Gradients, Saved
from .quantize import Float32, quantize_weight

__all__ = ["Attachment", "AttachError", "Observer", "attach", "detach"]


class AttachError(LoralithError):
    """A model, a layer or a value that cannot run on the device; the message names it and what would be right."""


class Observer(Protocol):
    """Sees every pass of every layer, for verification. Arrays must not be changed."""

    def layer(self, index: int, name: str, layer: DeviceLayer) -> None:
        """A layer was attached as number `index`."""
        ...

    def forward(self, index: int, x: Float32, a: Float32, b: Float32, step: int, call: int, record: bool, saved: Saved) -> None: ...

    def backward(self, index: int, saved: Saved, dy: Float32, a: Float32, record: bool, gradients: Gradients) -> None: ...


@dataclass
class _Layer:
    """One attached layer. `calls` counts its passes in the present step."""

    index: int
    name: str
    module: Linear
    adapter: str
    device_layer: DeviceLayer
    original: Callable[..., Tensor]
    calls: int = 0


def _float32(tensor: Tensor) -> Float32:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())


class _Product(torch.autograd.Function):
    """y [T, O] = x W^T + s x A^T B^T on the device; its backward pass gives dX (where asked for), dA and dB."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, attachment: Attachment, layer: _Layer, keep: bool) -> Tensor:  # type: ignore[override]
        saved = attachment._forward(layer, x, a, b, keep)
        if keep:
            ctx.attachment, ctx.layer, ctx.saved = attachment, layer, saved
            ctx.save_for_backward(a)
        return torch.from_numpy(saved.y).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (a,) = ctx.saved_tensors
        gradients = ctx.attachment._backward(ctx.layer, ctx.saved, dy, a, ctx.needs_input_grad[0])
        dx = None if gradients.dx is None else torch.from_numpy(gradients.dx).to(dy.dtype)
        return dx, torch.from_numpy(gradients.da), torch.from_numpy(gradients.db), None, None, None


def _refuse(name: str, module: LoraLayer) -> None:
    """Raises AttachError for LoRA settings that the device does not run."""
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


_attached: weakref.WeakKeyDictionary[nn.Module, Attachment] = weakref.WeakKeyDictionary()


class Attachment:
    """The LoRA layers of a model on a device, until `detach`. Made by `attach`.

    Warns with `health.TrainingWarning`, once for each layer and cause, of a layer that gets no gradient or a tensor that saturates.
    """

    def __init__(self, model: nn.Module, device: Device, scheme: FQT, observer: Observer | None = None) -> None:
        found = sorted(((name, m) for name, m in model.named_modules() if isinstance(m, LoraLayer)), key=lambda item: item[0])
        if not found:
            raise AttachError("the model has no LoRA layers; add them with peft.get_peft_model or the model's add_adapter")
        for name, module in found:
            _refuse(name, module)
        self.device, self.scheme, self.observer = device, scheme, observer
        self.health = Health(scheme)
        self.step = 0
        self._model = weakref.ref(model)
        self._before = device.counters()
        self._open: dict[int, tuple[_Layer, Saved]] = {}
        self.layers: list[_Layer] = []
        try:
            for index, (name, module) in enumerate(found):
                self.layers.append(self._make(index, name, module))  # type: ignore[arg-type]
        except BaseException:
            for layer in self.layers:
                layer.device_layer.close()
            raise
        for layer in self.layers:
            layer.module.forward = self._forward_of(layer)  # type: ignore[method-assign]

    def _make(self, index: int, name: str, module: Linear) -> _Layer:
        adapter = next(iter(module.active_adapters))
        rank = module.r[adapter]
        alpha = module.scaling[adapter] * rank if getattr(module, "use_rslora", {}).get(adapter) else float(module.lora_alpha[adapter])
        if abs(alpha / rank - module.scaling[adapter]) > 1e-12 * abs(module.scaling[adapter]):
            alpha = module.scaling[adapter] * rank
        try:
            base: Any = module.get_base_layer()
            weight = quantize_weight(_float32(base.weight), self.scheme)
            device_layer = DeviceLayer(self.device, weight, alpha, rank, self.scheme, index)
        except SchemeError as error:
            raise AttachError(f"{name}: {error}") from None
        if self.observer:
            self.observer.layer(index, name, device_layer)
        return _Layer(index, name, module, adapter, device_layer, module.forward)

    def _forward_of(self, layer: _Layer) -> Callable[..., Tensor]:
        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if args or kwargs:
                raise AttachError(f"{layer.name}: an attached layer takes its input only, not {list(kwargs) or len(args)} more arguments")
            a, b = layer.module.lora_A[layer.adapter].weight, layer.module.lora_B[layer.adapter].weight
            keep = torch.is_grad_enabled() and (x.requires_grad or a.requires_grad or b.requires_grad)
            flat = x.reshape(-1, x.shape[-1])
            y: Tensor = _Product.apply(flat, a, b, self, layer, keep)  # type: ignore[assignment]
            y = y.reshape(*x.shape[:-1], y.shape[-1])
            base: Any = layer.module.get_base_layer()
            bias = base.bias
            return y if bias is None else y + bias

        return forward

    def _forward(self, layer: _Layer, x: Tensor, a: Tensor, b: Tensor, keep: bool) -> Saved:
        arrays = _float32(x), _float32(a), _float32(b)
        call, layer.calls = layer.calls, layer.calls + 1
        before = layer.device_layer.saturations["H"]
        try:
            saved = layer.device_layer.forward(*arrays, self.step, call, record=keep)
        except SchemeError as error:
            raise AttachError(f"{layer.name}: {error}") from None
        operands = saved.plan.operands
        saturated = {**operands.clipped, "H": layer.device_layer.saturations["H"] - before}
        sizes = {"X": operands.xq.size, "A": operands.aq.size, "B": operands.bq.size, "H": len(operands.xq) * len(operands.aq)}
        for tensor, count in saturated.items():
            self.health.values(layer.name, tensor, count, sizes[tensor])
        if self.observer:
            self.observer.forward(layer.index, *arrays, self.step, call, keep, saved)
        if keep:
            self._open[id(saved)] = layer, saved
        else:
            layer.device_layer.release(saved)
        return saved

    def _backward(self, layer: _Layer, saved: Saved, dy: Tensor, a: Tensor, need_dx: bool) -> Gradients:
        if self._open.pop(id(saved), None) is None:
            raise AttachError(f"{layer.name}: this forward pass was released; backward must come once, in the same step")
        array = _float32(dy)
        before = layer.device_layer.saturations["dH"]
        try:
            gradients = layer.device_layer.backward(saved, array, need_dx=need_dx)
        except SchemeError as error:
            raise AttachError(f"{layer.name}: {error}") from None
        dyq, forward = gradients.plan.operands.dyq, saved.plan.operands
        self.health.values(layer.name, "dY", gradients.plan.operands.clipped, dyq.size)
        self.health.values(layer.name, "dH", layer.device_layer.saturations["dH"] - before, len(dyq) * len(forward.aq))
        self.health.gradients(
            layer.name,
            dy=bool(array.any()),
            dyq=bool(dyq.any()),
            b=bool(forward.bq.any()),
            da=bool(gradients.da_acc.any()),
            db=bool(gradients.db_acc.any()),
        )
        if self.observer:
            self.observer.backward(layer.index, saved, array, _float32(a), True, gradients)
        return gradients

    def _release_open(self) -> None:
        for layer, saved in self._open.values():
            layer.device_layer.release(saved)
        self._open.clear()

    def step_begin(self, step: int) -> None:
        """Start of step `step` (0..2**32-1), which stochastic rounding draws from. Forward passes left without backward are dropped."""
        self.step = step
        self._release_open()
        for layer in self.layers:
            layer.calls = 0

    def counters(self) -> dict[str, Any]:
        """Counts since the attachment was made: `cycles`, `macs`, `bytes_read`, `bytes_written`, `saturations`; `utilization`, useful
        MACs over cycles times processing elements; those of `Observer`, where it has `counters`."""
        now = self.device.counters().minus(self._before)
        counts: dict[str, Any] = {
            name: int(getattr(now, name)) for name in ("cycles", "macs", "bytes_read", "bytes_written", "saturations")
        }
        peak = now.cycles * self.device.config.processing_elements
        counts["utilization"] = now.macs / peak if peak else 0.0
        own = getattr(self.observer, "counters", None)
        return counts | (own() if own else {})

    def state_dict(self) -> dict[str, Any]:
        """The history of delayed scales by layer name, as JSON values."""
        return {layer.name: layer.device_layer.numerics.state_dict() for layer in self.layers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over `state_dict`'s value; an equal model continues bit for bit. Raises AttachError for other layers."""
        names = [layer.name for layer in self.layers]
        if sorted(state) != sorted(names):
            odd = sorted(set(state) ^ set(names))
            raise AttachError(f"the state is of other layers; these are in one and not in the other: {', '.join(odd[:5])}")
        for layer in self.layers:
            layer.device_layer.numerics.load_state_dict(state[layer.name])

    def detach(self) -> None:
        """Gives the layers back to torch and frees the device's memory. Detaching twice is not an error."""
        self._release_open()
        for layer in self.layers:
            del layer.module.forward
            layer.device_layer.close()
        self.layers = []
        model = self._model()
        if model is not None:
            _attached.pop(model, None)


def attach(model: nn.Module, device: Device, scheme: FQT | None = None, *, observer: Observer | None = None) -> Attachment:
    """Run a model's PEFT LoRA linears, forward and backward, on a device.

    Parameters: ``model`` with LoRA layers (`peft.get_peft_model`, or diffusers' `add_adapter`), base weights frozen; ``device`` from
    `loralith.open_device`; ``scheme``, by default `FQT()`.

    Raises AttachError, before anything is changed, for a model without LoRA layers, one already attached, and settings that are not
    supported (bias, dropout, variants such as DoRA, several adapters, other than linear layers), naming the layer; later, from the
    forward and backward passes, for values that are not finite.
    """
    if model in _attached:
        raise AttachError("the model is attached already; detach it first")
    attachment = Attachment(model, device, scheme or FQT(), observer)
    _attached[model] = attachment
    return attachment


def detach(model: nn.Module) -> None:
    """Undo `attach`. Raises AttachError for a model that is not attached."""
    if model not in _attached:
        raise AttachError("the model is not attached")
    _attached[model].detach()
