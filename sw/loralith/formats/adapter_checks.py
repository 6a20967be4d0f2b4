"""What may stand in an adapter's configuration and tensors, field by field: used, without effect, or refused by name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from torch import Tensor

from loralith.errors import LoralithError

__all__ = ["AdapterError", "alpha_of", "check_config", "check_factors", "fitting_magnitude", "readable", "scalar"]


class AdapterError(LoralithError):
    """An adapter that is missing, damaged, not supported, or of another model, rank or choice of layers."""


USED = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules", "exclude_modules", "layers_to_transform"}
USED |= {"layers_pattern", "peft_type", "init_lora_weights", "bias", "use_dora"}
WITHOUT_EFFECT = {
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "lora_dropout"),
    *("megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config"),
    *("qalora_group_size", "ensure_weight_tying"),
}
"""How the adapter was made, trained or found; its tensors hold that already. Settings of first values count with `init_lora_weights`."""

FIRST_VALUES = (True, False, "gaussian", "eva", "orthogonal")
"""`init_lora_weights` that leave the base model's weights as they are."""

HALF = (torch.float8_e4m3fn, torch.float8_e5m2)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Raises AdapterError for a setting that is not supported; warns of one that PEFT does not know either, as PEFT does."""
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise AdapterError(f"{path} is an adapter of the type {kind}, which is not supported; LORA is")
    first = config.get("init_lora_weights", True)
    if first is not None and not any(first is value or (isinstance(value, str) and first == value) for value in FIRST_VALUES):
        raise AdapterError(
            f"{path} has init_lora_weights {first!r}, which changes the base model's weights, and is not supported; "
            "PEFT's save_pretrained writes plain LoRA of it with path_initial_model_for_weight_conversion"
        )
    if config.get("bias", "none") != "none":
        raise AdapterError(f"{path} has bias {config['bias']!r}, which is not supported; 'none' is")
    known = {field.name for field in fields(LoraConfig)}
    for name, value in config.items():
        if name in USED or name in WITHOUT_EFFECT or value in (None, False) or value == {} or value == []:
            continue
        if name in known:
            raise AdapterError(f"{path} has {name} {value!r}, which is not supported")
        warnings.warn(f"{path} has {name} {value!r}, which PEFT does not know; ignored, as PEFT does", stacklevel=2)
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(name) or {}, dict):
            raise AdapterError(f"{path} has {name} {config[name]!r}, which is no JSON object")


def alpha_of(name: str, rank: int, config: Mapping[str, Any], path: Path) -> float:
    """A layer's alpha by its configuration, whose defaults are PEFT's.

    Raises AdapterError where the configuration has another rank for the layer, or no adapter.
    """
    usual = LoraConfig()
    ranks, alphas = (config.get(key) or {} for key in ("rank_pattern", "alpha_pattern"))
    wanted = ranks.get(get_pattern_key(list(ranks), name), config.get("r", usual.r))
    if wanted != rank:
        raise AdapterError(f"{path}: {name} has A of rank {rank}, the configuration has {wanted!r}")
    targets = {
        key: config[key] for key in ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern") if config.get(key)
    }
    try:
        named = targets.get("target_modules") in (None, "all-linear") or check_target_module_exists(LoraConfig(**targets), name)
    except (TypeError, ValueError) as error:
        raise AdapterError(f"{path} has target_modules that PEFT refuses: {error}") from None
    if not named:
        raise AdapterError(f"{path} has the layer {name}, which its configuration's target_modules do not name")
    return number(alphas.get(get_pattern_key(list(alphas), name), config.get("lora_alpha", usual.lora_alpha)), f"alpha of {name}", path)


def number(value: Any, what: str, path: Path) -> float:
    """A finite number that is not zero, by which an adapter can be scaled."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value == 0:
        raise AdapterError(f"{path} has the {what} {value!r}; it must be a number other than 0")
    return float(value)


def scalar(tensor: Tensor, name: str, path: Path) -> float:
    """The value of an `.alpha` tensor."""
    if tensor.numel() != 1:
        raise AdapterError(f"{path} has {name} of shape {tuple(tensor.shape)}; an alpha is one number")
    return number(tensor.item(), name, path)


def readable(tensor: Tensor, name: str, path: Path) -> Tensor:
    """A tensor of floats; FP8 as FP16, which holds each of its values. Raises AdapterError for other types, NaN and infinity."""
    if tensor.dtype in HALF:
        tensor = tensor.to(torch.float16)
    if tensor.dtype not in FLOATS:
        raise AdapterError(f"{path} has {name} of type {str(tensor.dtype).removeprefix('torch.')}, which is not supported; floats are")
    if not tensor.isfinite().all():
        raise AdapterError(f"{path} has values in {name} that are not finite")
    return tensor


def check_factors(name: str, a: Tensor, b: Tensor, weight: tuple[int, ...], path: Path) -> None:
    """Raises AdapterError unless A [r, I, ...] and B [O, r, ...] fit the layer's weight [O, I, ...], of a Linear or a convolution."""
    if len(weight) not in (2, 4):
        raise AdapterError(f"{path} has the layer {name}, which is no Linear and no convolution of this model")
    rank = a.shape[0] if a.ndim else 0
    if rank < 1 or b.numel() == 0:
        raise AdapterError(f"{path}: {name} has an adapter of rank 0")
    if b.ndim > 1 and b.shape[1] != rank and (a.shape[0], b.shape[1]) != (weight[0], weight[1]):
        raise AdapterError(f"{path}: {name} has A of rank {rank} and B of rank {b.shape[1]}")
    ones = (1,) * (len(weight) - 2)
    if tuple(a.shape) == (rank, *weight[1:]) and tuple(b.shape) == (weight[0], rank, *ones):
        return
    exchanged = a.ndim > 1 and b.ndim > 1 and (a.shape[0], b.shape[1]) == (weight[0], weight[1]) and a.shape[1] == b.shape[0]
    hint = "A and B are exchanged" if exchanged else f"A must be [r, {', '.join(map(str, weight[1:]))}] and B [{weight[0]}, r]"
    raise AdapterError(f"{path}: {name} has A of shape {list(a.shape)} and B of shape {list(b.shape)}: {hint}")


def fitting_magnitude(name: str, magnitude: Tensor | None, weight: tuple[int, ...], path: Path) -> Tensor | None:
    """DoRA's magnitudes, one for each output, as PEFT has them: [O], for a convolution [1, O, 1, 1]. kohya's are [O, 1, ...].

    Raises AdapterError for other shapes, such as [1, I] of LyCORIS without `wd_on_output`.
    """
    if magnitude is None:
        return None
    ours = (weight[0],) if len(weight) == 2 else (1, weight[0], 1, 1)
    if tuple(magnitude.shape) not in ((weight[0],), ours, (weight[0], *[1] * (len(weight) - 1))):
        raise AdapterError(
            f"{path}: {name} has magnitudes of shape {list(magnitude.shape)}; one for each output is supported, {list(ours)}"
        )
    return magnitude.reshape(ours)
