"""LoRA adapters of a model through stock PEFT: made, saved and loaded."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor

from loralith.diffusion.determinism import seed_global
from loralith.formats.adapter_file import (
    Adapter,
    AdapterError,
    Layer,
    read_adapter,
    scheme_header,
    write_diffusers,
    write_peft,
)
from loralith.formats.adapter_layers import PEFT_PREFIX

__all__ = [
    "AdapterError",
    "adapter_of",
    "adapter_parameters",
    "add_adapter",
    "check_tensors",
    "load_adapter",
    "module_shapes",
    "save_adapter",
    "with_adapter",
]


def add_adapter(
    unet: UNet2DConditionModel,
    *,
    rank: int,
    alpha: float,
    targets: tuple[str, ...],
    seed: int,
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, float] | None = None,
    rslora: bool = False,
) -> PeftModel:
    """The U-Net with a fresh LoRA adapter on its attention projections; only the adapter's parameters are trainable.

    PEFT's own first values: A from Kaiming's uniform distribution, seeded by `seed`, and B zero. Call it inside `repeatable`. Patterns give
    layers whose names end in a key a rank or alpha of their own. Raises AdapterError for a pattern that fits no layer.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=_whole(alpha),
        rank_pattern=dict(rank_pattern or {}),
        alpha_pattern={name: _whole(value) for name, value in (alpha_pattern or {}).items()},
        use_rslora=rslora,
        lora_dropout=0.0,
        bias="none",
        target_modules=sorted(targets),
    )
    ends = tuple(f".{target}" for target in targets)
    names = [name for name, _ in unet.named_modules() if name in targets or name.endswith(ends)]
    for key in (*(rank_pattern or {}), *(alpha_pattern or {})):
        if not any(name == key or name.endswith(f".{key}") for name in names):
            raise AdapterError(f"the pattern {key!r} fits no layer with an adapter; one is {names[0] if names else 'missing'}")
    seed_global("adapter", seed)
    return get_peft_model(unet, config)  # type: ignore[arg-type]


def _whole(value: float) -> Any:
    """PEFT declares alpha an integer but scales by any number."""
    return int(value) if float(value).is_integer() else value


def adapter_parameters(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """The trainable parameters by name, in order of name."""
    return dict(sorted((name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad))


def adapter_of(model: PeftModel) -> Adapter:
    """The model's adapter; its tensors are the parameters themselves."""
    layers: dict[str, Layer] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and "default" in module.lora_A:
            a, b = (factors["default"].weight.detach() for factors in (module.lora_A, module.lora_B))  # type: ignore[union-attr]
            vectors = module.lora_magnitude_vector
            magnitude = vectors["default"].weight.detach() if "default" in vectors else None  # type: ignore[union-attr]
            layers[name.removeprefix(PEFT_PREFIX)] = Layer(a, b, float(module.lora_alpha["default"]), magnitude)  # type: ignore[arg-type]
    return Adapter(layers, _config(model).use_rslora)


def _config(model: PeftModel) -> LoraConfig:
    config = model.peft_config["default"]
    assert isinstance(config, LoraConfig)
    return config


def save_adapter(model: PeftModel, folder: Path, rotation: int = 0) -> None:
    """Writes the adapter as PEFT's two files and as diffusers' file; the same adapter gives the same bytes. ``rotation`` of the scheme that
    trained it stands in their headers."""
    adapter = replace(adapter_of(model), metadata=scheme_header(rotation))
    write_diffusers(adapter, folder, _config(model))
    write_peft(adapter, folder, _config(model))


def module_shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of a U-Net's modules by name, with or without an adapter in it; () for a module without."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        shapes[name.removesuffix(".base_layer")] = tuple(weight.shape) if isinstance(weight, Tensor) else ()
    return shapes


def with_adapter(unet: UNet2DConditionModel, adapter: Adapter) -> PeftModel:
    """The U-Net with an adapter that was read, of whatever ranks, alphas and layers it has."""
    model = get_peft_model(unet, adapter.config())  # type: ignore[arg-type]
    _copy(adapter, adapter_of(model))
    return model


@torch.no_grad()
def _copy(source: Adapter, target: Adapter) -> None:
    for name, layer in target.layers.items():
        layer.a.copy_(source.layers[name].a)
        layer.b.copy_(source.layers[name].b)
        magnitude = source.layers[name].magnitude
        if layer.magnitude is not None and magnitude is not None:
            layer.magnitude.copy_(magnitude)


def load_adapter(model: PeftModel, path: Path, *, unet_only: bool = False) -> None:
    """Copies an adapter, of PEFT, diffusers or kohya (see `adapter_file.read_adapter`, ``unet_only`` too), into a model that has one of the
    same ranks, alphas and layers.

    Raises AdapterError, before anything is changed, for a missing or damaged file, other ranks or alphas, or tensors of other names or
    shapes.
    """
    own = adapter_of(model)
    found = read_adapter(path, module_shapes(model.base_model.model), unet_only=unet_only)  # type: ignore[arg-type]
    if found.rslora != own.rslora:
        raise AdapterError(f"the adapter in {path} has use_rslora {found.rslora}, this run has {own.rslora}; give the same")
    if found.dora != own.dora:
        raise AdapterError(f"the adapter in {path} has use_dora {found.dora}, this run has {own.dora}; give an adapter of the same kind")
    for name in sorted({*found.layers} & {*own.layers}):
        there, here = found.layers[name], own.layers[name]
        for setting, one, two in (("r", there.rank, here.rank), ("lora_alpha", _whole(there.alpha), _whole(here.alpha))):
            if one != two:
                raise AdapterError(f"the adapter in {path} has {setting} {one}, this run has {two!r} ({name}); give the same")
    check_tensors(found.tensors(PEFT_PREFIX), own.tensors(PEFT_PREFIX), path)
    _copy(found, own)


def check_tensors(tensors: dict[str, Tensor], wanted: dict[str, Tensor], source: Path) -> None:
    """Raises AdapterError for the first name that is missing, unknown, of another shape or not finite."""
    for name in sorted({*tensors, *wanted}):
        if name not in tensors:
            raise AdapterError(f"{source} lacks the tensor {name}, which this model's adapter has")
        if name not in wanted:
            raise AdapterError(f"{source} has the tensor {name}, which this model's adapter does not have")
        if tensors[name].shape != wanted[name].shape:
            there, here = tuple(tensors[name].shape), tuple(wanted[name].shape)
            raise AdapterError(f"{source} has {name} of shape {there}, this model's adapter has {here}")
        if not tensors[name].isfinite().all():
            raise AdapterError(f"{source} has values in {name} that are not finite")
