"""PEFT LoRA linears on a device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora import Linear
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from loralith.device.products import Resident
from loralith.lora.frozen import FrozenLinear
from loralith.lora.layer import Activation, DeviceLayer, Gradients, Saved
from loralith.lora.loss import row_loss
from loralith.lora.quantize import Float32, QuantizedWeight
from loralith.mapping.kinds.linears_and_convolutions import FrozenMatmul, FrozenProducts
from loralith.mapping.mapped import Mapped, first_order
from loralith.mapping.pass_records import Pending, Place
from loralith.mapping.select import AttachError, Choice
from loralith.mapping.tensors import finite, float32, output_dtype, tensor, unknown
from loralith.mapping.weight import FrozenWeight
from loralith.spec.scales import remember_maximum
from loralith.spec.scheme import Role, SchemeError

if TYPE_CHECKING:
    from loralith.mapping.attachment import Attachment

__all__ = ["MappedLora", "refuse"]


@dataclass(frozen=True)
class _Pass:
    """One pass: its place and alpha, the generation of W, X where it is on the device already, and whether a backward pass may come."""

    place: Place
    alpha: float
    generation: int
    shared: Activation | None
    needs_backward: bool


class _Product(torch.autograd.Function):
    """y [T, O] = x W^T + s x A^T B^T on the device; its backward pass gives dX (where asked for), dA and dB."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, layer: MappedLora, one: _Pass) -> Tensor:  # type: ignore[override]
        y, token = layer.forward(x, a, b, one)
        if token is not None:
            ctx.layer, ctx.one, ctx.shape, ctx.dtype = layer, one, x.shape, x.dtype
            ctx.save_for_backward(a, b, token)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        a, b, token = ctx.saved_tensors
        need_dx = ctx.needs_input_grad[0]
        gradients = ctx.layer.backward(token, dy, a, b, need_dx, ctx.one)
        if gradients is None:
            dx = unknown(dy.new_empty(ctx.shape), ctx.dtype) if need_dx else None
            return dx, unknown(a), unknown(b), None, None
        dx = None if gradients.dx is None else tensor(gradients.dx, dy, ctx.dtype).reshape(ctx.shape)
        return dx, tensor(gradients.da, a), tensor(gradients.db, b), None, None


def check_adapter(name: str, module: Linear, adapter: str) -> None:
    """Raises AttachError for settings of an adapter that the device does not run."""
    dropout = module.lora_dropout[adapter]
    if isinstance(dropout, nn.Dropout) and dropout.p > 0:
        raise AttachError(f"{name}: lora_dropout must be 0, not {dropout.p}, as when the model was attached; detach and attach again")
    if getattr(module, "use_dora", {}).get(adapter) or getattr(module, "lora_variant", {}).get(adapter) is not None:
        raise AttachError(f"{name}: adapter {adapter} is a LoRA variant, and the layer was attached without; detach and attach again")
    if getattr(module, "lora_bias", {}).get(adapter) or module.lora_B[adapter].bias is not None:
        raise AttachError(f"{name}: lora_bias must be False, as when the model was attached; detach and attach again")


def active(name: str, module: Linear) -> str | None:
    """The adapter that PEFT uses now, None where it uses none. Raises AttachError where the device does not run it."""
    if module.disable_adapters or module.merged:
        return None
    names = [adapter for adapter in module.active_adapters if adapter in module.lora_A]
    if len(names) > 1:
        raise AttachError(
            f"{name}: exactly one adapter may be active, as when the model was attached, not {', '.join(names)}; detach and attach again"
        )
    if not names:
        return None
    check_adapter(name, module, names[0])
    return names[0]


def refuse(name: str, module: nn.Module) -> Linear:
    """Raises AttachError for LoRA settings that the device does not run."""
    assert isinstance(module, LoraLayer)
    if not isinstance(module, Linear):
        raise AttachError(f"{name}: LoRA on {type(module).__name__} is not supported; target linear layers and convolutions")
    if module.merged:
        raise AttachError(f"{name}: the adapter is merged; unmerge it first")
    if module.disable_adapters:
        raise AttachError(f"{name}: the adapter is disabled; enable it first")
    if active(name, module) is None:
        raise AttachError(f"{name}: exactly one adapter must be active, not none of {', '.join(module.lora_A) or 'none'}")
    if getattr(module, "fan_in_fan_out", False):
        raise AttachError(f"{name}: fan_in_fan_out is not supported")
    if not isinstance(module.get_base_layer(), nn.Linear):
        raise AttachError(f"{name}: the base layer must be torch.nn.Linear, not {type(module.get_base_layer()).__name__}")
    if module.get_base_layer().weight.requires_grad:
        raise AttachError(f"{name}: the base weight is trainable; freeze it (requires_grad False)")
    return module


class MappedLora(Mapped):
    """A LoRA layer: Y, dX, dA and dB; without an active adapter, its base layer's Y and dX."""

    def __init__(self, attachment: Attachment, index: int, choice: Choice) -> None:
        super().__init__(attachment, index, choice)
        module = refuse(choice.name, choice.module)
        adapter = active(choice.name, module)
        assert adapter is not None
        rank = module.r[adapter]
        rslora = getattr(module, "use_rslora", {}).get(adapter)
        alpha = module.scaling[adapter] * rank if rslora else float(module.lora_alpha[adapter])
        if abs(alpha / rank - module.scaling[adapter]) > 1e-12 * abs(module.scaling[adapter]):
            alpha = module.scaling[adapter] * rank
        self.attached = module.scaling[adapter], alpha
        # PEFT merges past the count that torch keeps of a tensor's changes.
        self.weight = FrozenWeight(self.name, lambda: self._base.weight, attachment.scheme, lambda: tuple(module.merged_adapters))
        try:
            # Where the scaling is 0 or negative a pass has its own.
            self.device_layer = DeviceLayer(attachment.device, self.weight.quantized(), abs(alpha) or 1.0, rank, attachment.scheme, index)
        except SchemeError as error:
            raise AttachError(f"{self.name}: {error}") from None
        self.own(self.device_layer)
        attachment.health.quantized(self.name, "W", self.weight.loss)
        self.alone: _Base | None = None
        if attachment.observer:
            attachment.observer.layer(index, self.name, self.device_layer)

    @property
    def _base(self) -> Any:
        return self.module.get_base_layer()

    def run(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs:
            raise AttachError(f"{self.name}: an attached layer takes its input only, not {list(kwargs) or len(args)} more arguments")
        module = self.module
        if module.disable_adapters and module.merged:
            module.unmerge()  # as PEFT's own forward does
        adapter = active(self.name, module)
        scaling = float(module.scaling[adapter]) if adapter else 0.0
        if not math.isfinite(scaling):
            raise AttachError(f"{self.name}: the scaling of adapter {adapter} must be finite, not {scaling}")
        place = self.place(x)
        with self.use():
            generation = self.weight.current(self._replace)
            y: Any
            if adapter and scaling:
                y = self._adapted(x, adapter, scaling, place, generation)
            else:
                y = FrozenMatmul.apply(x, self._without(), place, generation)
        if adapter and not scaling:  # gradients of zeros, as torch has them
            a, b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
            if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
                y = y + (0 * (a.sum() + b.sum())).to(y.dtype)
        base = self._base
        return y if base.bias is None else y + base.bias.to(y.dtype)

    def _adapted(self, x: Tensor, adapter: str, scaling: float, place: Place, generation: int) -> Tensor:
        a, b = self.module.lora_A[adapter].weight, self.module.lora_B[adapter].weight
        if len(a) != self.device_layer.rank:
            raise AttachError(
                f"{self.name}: adapter {adapter} has rank {len(a)}, the layer was attached with {self.device_layer.rank}; "
                "detach and attach again"
            )
        needs_backward = torch.is_grad_enabled() and (x.requires_grad or a.requires_grad or b.requires_grad)
        alpha = self.attached[1] if scaling == self.attached[0] else scaling * len(a)
        one = _Pass(place, abs(alpha), generation, self.attachment.shared(x), needs_backward)
        return _Product.apply(x, a, b if alpha > 0 else -b, self, one)  # type: ignore[return-value]

    def _without(self) -> _Base:
        if self.alone is None:
            self.alone = _Base(self)
        return self.alone

    def _replace(self, weight: QuantizedWeight) -> None:
        self.device_layer.replace(weight)
        self.attachment.health.quantized(self.name, "W", self.weight.loss)
        if self.alone:
            self.alone.product.scale = weight.scale
        observer = self.attachment.observer
        if observer:
            observer.layer(self.index, self.name, self.device_layer)
            if self.alone:
                observer.frozen(self.index, self.name, self._base, self.attachment.scheme)

    def weight_bytes(self) -> tuple[int, int]:
        return self.device_layer.weight.nbytes, self.device_layer.numerics.weight.scale.nbytes

    def originals(self) -> list[Tensor]:
        return [self._base.weight]

    def moved(self) -> None:
        self.weight.moved()

    def state_dict(self) -> dict[str, object]:
        return self.device_layer.numerics.state_dict()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.device_layer.numerics.load_state_dict(state)

    def _saved(self, x: Float32 | Activation, a: Float32, b: Float32, one: _Pass) -> Saved:
        """The forward pass on the device. A repeated one has the scale of H that the first had, and is recorded once."""
        history, notes, place = self.device_layer.numerics.history, one.place.notes, one.place
        before = history["H"]
        if place.repeated:
            history["H"] = notes.get("H", before)
        else:
            notes["H"] = before
        record = one.needs_backward and not notes.get("recorded")
        notes["recorded"] = one.needs_backward or notes.get("recorded", False)
        try:
            saved = self.device_layer.forward(x, a, b, place.step, place.call, alpha=one.alpha, record=record)
            latest = history["H"][-1:] if record else []
        finally:
            if place.repeated:
                history["H"] = before
        for maximum in latest if place.repeated else []:
            history["H"] = remember_maximum(before, maximum, self.attachment.scheme)
        return saved

    def forward(self, x: Tensor, a: Tensor, b: Tensor, one: _Pass) -> tuple[Tensor, Tensor | None]:
        """Y of X's shape, and the token of what the backward pass needs, where one may come."""
        owner, layer = self.attachment, self.device_layer
        before = layer.saturations["H"]
        arrays = float32(x).reshape(-1, x.shape[-1]), float32(a), float32(b)
        saved = self._saved(one.shared or arrays[0], *arrays[1:], one)
        operands = saved.plan.operands
        saturated = {**operands.clipped, "H": layer.saturations["H"] - before}
        sizes = {"X": operands.xq.size, "A": operands.aq.size, "B": operands.bq.size, "H": len(operands.xq) * len(operands.aq)}
        for name, count in saturated.items():
            owner.health.values(self.name, name, count, sizes[name])
        scales = {"X": (arrays[0], operands.sx), "A": (arrays[1], operands.sa), "B": (operands.b_units, math.ldexp(1.0, operands.b))}
        for name, (values, scale) in scales.items():
            self._lost(name, Role[name], values, scale, block=1 if name == "B" else layer.numerics.block)
        if owner.observer:
            owner.observer.forward(self.index, *arrays, one.place.step, one.place.call, one.needs_backward, saved)
        y = tensor(saved.y, x, output_dtype(x)).reshape(*x.shape[:-1], -1)
        saved.drop_host_arrays()
        if not one.needs_backward:
            layer.release(saved)
            return y, None
        pending = Pending(self, lambda: layer.release(saved), saved.skinny.nbytes, saved.host_bytes(), saved.x)
        return y, owner.passes.register(saved, pending)

    def _lost(self, name: str, role: Role, values: Float32, scale: float, factor: Float32 | None = None, block: int = 1) -> None:
        stochastic = self.attachment.scheme.is_stochastic(role)
        self.attachment.health.quantized(
            self.name, name, row_loss(values, scale, factor=factor, block=block, stochastic=stochastic), stochastic=stochastic
        )

    def backward(self, token: Tensor, dy: Tensor, a: Tensor, b: Tensor, need_dx: bool, one: _Pass) -> Gradients | None:
        """None where dY is not finite."""
        owner, layer = self.attachment, self.device_layer
        array, adapter = float32(dy).reshape(-1, dy.shape[-1]), (float32(a), float32(b))
        with self.use():
            saved = owner.saved(token, self)
            self.weight.check(one.generation)
            if not finite(array, layer.numerics.weight.scale):
                return None
            before = layer.saturations["dH"]
            gradients = layer.backward(saved, array, adapter, need_dx=need_dx, release=False)
            dyq, forward = gradients.plan.operands.dyq, gradients.plan.operands.forward.operands
            owner.health.values(self.name, "dY", gradients.plan.operands.clipped, dyq.size)
            self._lost("dY", Role.DY, array, gradients.plan.operands.g, layer.numerics.weight.scale)
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


class _Base(FrozenProducts):
    """A LoRA layer's base layer, for passes without an active adapter; its W on the device is the LoRA layer's."""

    def __init__(self, layer: MappedLora) -> None:
        self.layer, self.weight, self.module = layer, layer.weight, layer.module.get_base_layer()
        self.attachment, self.name, self.index, self.use = layer.attachment, layer.name, layer.index, layer.use
        on_device = layer.device_layer
        resident = Resident(on_device.weight.address, 1, on_device.O, on_device.I, on_device.numerics.scheme.weight_bits)
        self.product = FrozenLinear(layer.attachment.device, on_device.numerics.weight, layer.attachment.scheme, layer.index, resident)
        if layer.attachment.observer:
            layer.attachment.observer.frozen(layer.index, layer.name, self.module, layer.attachment.scheme)
