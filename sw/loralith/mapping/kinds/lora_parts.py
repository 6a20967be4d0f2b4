"""Adapters that run in parts: what PEFT computes between the factors of LoRA stays PEFT's, and each product is a module of its own.

A plain LoRA layer is one module on the device (`lora_linears`). With dropout, DoRA, a bias, several active adapters, or around a
convolution its base layer and its factors A and B are mapped each by itself, and PEFT's own forward function calls them. LoKr and LoHa add
a product with a weight that is computed from their factors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from peft.tuners.lora import Linear
from peft.tuners.lora.layer import LoraLayer, _ConvNd
from peft.tuners.lora.variants import DoraConv1dVariant, DoraConv2dVariant, DoraConv3dVariant, DoraLinearVariant
from peft.tuners.lycoris_utils import LycorisLayer
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from loralith.mapping.kinds.lora_linears import MappedLora, refuse
from loralith.mapping.kinds.trained_modules import TrainedProducts
from loralith.mapping.mapped import Mapped
from loralith.mapping.quantized_bases import float_weight
from loralith.mapping.select import AttachError, Choice, layer_kind, shape_reason

if TYPE_CHECKING:
    from loralith.mapping.attachment import Attachment

__all__ = ["MappedDelta", "MappedDora", "MappedParts", "in_parts", "mapped_lora", "parts", "unsupported"]

DORA = (DoraLinearVariant, DoraConv1dVariant, DoraConv2dVariant, DoraConv3dVariant)
NORMS = "DoRA's norms of W + s B A are torch's"
FACTORS = "the product of its factors is torch's; the product with X is the device's"


def _plain(module: Linear) -> bool:
    """Whether one module on the device can be all of the layer: a linear one, with one adapter of A and B alone."""
    if not isinstance(module, Linear):
        return False
    names = [adapter for adapter in module.active_adapters if adapter in module.lora_A]
    return len(names) <= 1 and not any(
        getattr(module.lora_dropout[name], "p", 0) > 0 or name in module.lora_variant or module.lora_B[name].bias is not None
        for name in names
    )


def in_parts(module: nn.Module) -> bool:
    """Whether a LoRA layer is one that runs in parts."""
    return isinstance(module, Linear | _ConvNd) and not _plain(module)  # type: ignore[arg-type]


def _unmapped_variant(module: Any, adapter: str) -> str:
    """The name of a variant that nothing maps, "" where there is none."""
    variant = module.lora_variant.get(adapter)
    return "" if variant is None or type(variant) in DORA else type(variant).__name__.removesuffix("Variant")


def _refuse(name: str, module: Any) -> None:
    """Raises AttachError for settings of a LoRA layer in parts, of LoKr or of LoHa that are not mapped."""
    kind = type(module).__name__
    tuner = type(module).__module__.split(".")[-2]
    if isinstance(module, LycorisLayer) and (tuner not in ("lokr", "loha") or kind not in ("Linear", "Conv2d")):
        raise AttachError(f"{name}: {tuner} on {kind} is not supported; lokr and loha on linear layers and 2-D convolutions are")
    if module.merged:
        raise AttachError(f"{name}: the adapter is merged; unmerge it first")
    if module.disable_adapters:
        raise AttachError(f"{name}: the adapter is disabled; enable it first")
    if getattr(module, "fan_in_fan_out", False):
        raise AttachError(f"{name}: fan_in_fan_out is not supported")
    base = module.get_base_layer()
    if why := shape_reason(base):
        raise AttachError(f"{name}: its base layer stays in torch: {why}")
    if base.weight.requires_grad:
        raise AttachError(f"{name}: the base weight is trainable; freeze it (requires_grad False)")
    factors = module.lora_A if isinstance(module, LoraLayer) else module.scaling
    active = [adapter for adapter in module.active_adapters if adapter in factors]
    if not active:
        raise AttachError(f"{name}: an adapter must be active, not none of {', '.join(factors) or 'none'}")
    for adapter in active if isinstance(module, LoraLayer) else ():
        if variant := _unmapped_variant(module, adapter):
            raise AttachError(f"{name}: the LoRA variant {variant} is not supported; plain LoRA and DoRA are")


def unsupported(choice: Choice) -> str:
    """Why an adapter's settings keep its layer in torch, "" where they do not."""
    try:
        if isinstance(choice.module, LycorisLayer) or in_parts(choice.module):
            _refuse(choice.name, choice.module)
        else:
            refuse(choice.name, choice.module)
    except AttachError as error:
        return str(error).removeprefix(f"{choice.name}: ")
    return ""


def parts(choice: Choice) -> list[Choice]:
    """The modules of an adapter that are mapped each by itself, and what stays in torch, with the reason; none for a plain layer."""
    name, module = choice.name, cast(Any, choice.module)
    found: list[Choice] = []
    if (not isinstance(module, LycorisLayer) and not in_parts(module)) or unsupported(choice):
        return found
    base = module.get_base_layer()
    found.append(Choice(f"{name}.base_layer", base, layer_kind(base)))
    if isinstance(module, LycorisLayer):
        return [*found, Choice(f"{name}.factors", choice.module, "other", FACTORS)]
    for adapter in module.lora_A:
        for factor in ("lora_A", "lora_B"):
            layer = getattr(module, factor)[adapter]
            found.append(Choice(f"{name}.{factor}.{adapter}", layer, "trained", shape_reason(layer)))
        if adapter in module.lora_magnitude_vector:
            layer = module.lora_magnitude_vector[adapter]
            found.append(Choice(f"{name}.lora_magnitude_vector.{adapter}", layer, "dora"))
            found.append(Choice(f"{name}.lora_magnitude_vector.{adapter}.norms", layer, "other", NORMS))
    return found


class _Host(Mapped):
    """A module whose own computation stays in torch, and whose products are modules of their own."""

    def weight_bytes(self) -> tuple[int, int]:
        return 0, 0


class MappedParts(_Host):
    """A LoRA layer whose parts are mapped: PEFT's own forward function calls them."""

    def __init__(self, attachment: Attachment, index: int, choice: Choice) -> None:
        super().__init__(attachment, index, choice)
        _refuse(self.name, self.module)
        self.attached = {adapter: id(self.module.lora_A[adapter]) for adapter in self.module.lora_A}

    def run(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        module = self.module
        if not module.disable_adapters:
            for adapter in module.active_adapters:
                if adapter in module.lora_A and self.attached.get(adapter) != id(module.lora_A[adapter]):
                    raise AttachError(f"{self.name}: adapter {adapter} was added since the model was attached; detach and attach again")
                if adapter in module.lora_A and (variant := _unmapped_variant(module, adapter)):
                    raise AttachError(f"{self.name}: the LoRA variant {variant} is not supported; plain LoRA and DoRA are")
        return self.forward_function.plain(x, *args, **kwargs)


class MappedDora(_Host):
    """DoRA's magnitudes m: (m / |W + s B A| - 1) W x + m / |W + s B A| s B A x, whose products are those of the layer's parts.

    PEFT multiplies an identity by B and A for the norm; here it is B A itself, in torch. The norm has no gradient (DoRA, section 4.3).
    """

    def run(
        self,
        x: Tensor,
        *,
        lora_A: Any,
        lora_B: Any,
        scaling: float,
        base_layer: Any,
        base_result: Tensor | None = None,
        adapter_name: str = "default",
    ) -> Tensor:
        magnitude = self.module.weight
        with torch.no_grad():
            a, b = (factor.weight.flatten(1) for factor in (lora_A, lora_B))
            weight = float_weight(base_layer).to(magnitude.dtype)
            norm = type(self.module).get_weight_norm(self.module, weight, (b @ a).reshape(weight.shape).to(weight.dtype), scaling)
        ratio = magnitude / norm.reshape(magnitude.shape)
        ratio = ratio.reshape(1, -1, *[1] * (weight.dim() - 2))
        result = base_layer(x) if base_result is None else base_result
        if base_layer.bias is not None:
            result = result - base_layer.bias.reshape(1, -1, *[1] * (weight.dim() - 2)).to(result.dtype)
        return (ratio - 1) * result + ratio * lora_B(lora_A(x)) * scaling


class _Caught(TorchFunctionMode):
    """Within it, torch's linear and conv2d multiply on the device."""

    def __init__(self, multiply: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.multiply = multiply

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (functional.linear, functional.conv2d):
            return self.multiply(args[0], args[1])
        return func(*args, **(kwargs or {}))


class MappedDelta(TrainedProducts):
    """A layer of LoKr or LoHa: the product of X with the weight that its factors make."""

    def __init__(self, attachment: Attachment, index: int, choice: Choice) -> None:
        _refuse(choice.name, choice.module)
        super().__init__(attachment, index, choice, choice.module.get_base_layer())  # type: ignore[operator]

    def run(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        module = self.module

        def delta(adapter: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            with _Caught(self.multiply):
                return type(module)._get_delta_activations(module, adapter, x, *args, **kwargs)

        module._get_delta_activations = delta
        try:
            return self.forward_function.plain(x, *args, **kwargs)
        finally:
            del module._get_delta_activations


def mapped_lora(attachment: Attachment, index: int, choice: Choice) -> Mapped:
    """The class that maps an adapter's layer."""
    if isinstance(choice.module, LycorisLayer):
        return MappedDelta(attachment, index, choice)
    return (MappedParts if in_parts(choice.module) else MappedLora)(attachment, index, choice)
