"""Which modules of a model run on a device, and why the others do not."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lycoris_utils import LycorisLayer
from torch import nn

from loralith.errors import LoralithError
from loralith.mapping.multiplies import attends, reason
from loralith.mapping.quantized_bases import library

__all__ = [
    "CONTRACTS",
    "CONVOLUTIONS",
    "MODULES",
    "ONLY_LORA",
    "PROCESSORS",
    "AttachError",
    "Choice",
    "by_processor",
    "layer_kind",
    "select",
    "shape_reason",
]

MODULES = ("lora", "all")
"""What may be mapped: the LoRA layers alone, or every frozen linear layer, convolution and attention product too."""


class AttachError(LoralithError):
    """A model, a layer or a value that cannot run on the device; the message names it and what would be right."""


@dataclass(frozen=True)
class Choice:
    """One module that multiplies. ``kind``: "lora", "linear", "conv" (2-D, one group), "windows" (any other convolution), "trained",
    "dora", "attention", or "other". ``reason``: why it
    stays in torch, "" where it runs on the device."""

    name: str
    module: nn.Module
    kind: str
    reason: str = ""


ONLY_LORA = "only LoRA layers are mapped"
ADAPTED = (LoraLayer, LycorisLayer)
"""PEFT's layers with an adapter that multiplies."""
PROCESSORS = (AttnProcessor, AttnProcessor2_0)
"""The attention processors whose products are mapped."""


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Those that are mapped, with any groups."""


def shape_reason(module: nn.Module) -> str:
    """Why the products of a linear layer or a convolution cannot be had, whether it is trained or not; "" where they can."""
    if isinstance(module, nn.Linear):
        return "" if type(module) is nn.Linear or library(module) else f"{type(module).__name__} is a linear layer of its own kind"
    if not isinstance(module, CONVOLUTIONS):
        return f"{type(module).__name__} is no linear layer and no convolution of one to three dimensions"
    if type(module) not in CONVOLUTIONS:
        return f"{type(module).__name__} is a convolution of its own kind"
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return f"padding must be zeros of a given width, not {module.padding_mode} {module.padding!r}"
    return ""


def _frozen(module: nn.Module) -> str:
    return shape_reason(module) or ("its weight is trained" if module.weight.requires_grad else "")  # type: ignore[union-attr]


def _by_processor(module: Attention) -> str:
    """Why one of `PROCESSORS` does not stand for what ``module`` computes, "" where it does."""
    if type(module.processor) not in PROCESSORS:
        return f"its processor is {type(module.processor).__name__}; AttnProcessor and AttnProcessor2_0 are mapped"
    if module.added_kv_proj_dim is not None:
        return "it has projections of its own for added keys and values"
    if module.norm_q is not None or module.norm_k is not None:
        return "it normalizes queries or keys"
    if module.inner_kv_dim != module.inner_dim:
        return f"its keys have another width ({module.inner_kv_dim}) than its queries ({module.inner_dim})"
    return ""


def by_processor(module: nn.Module) -> bool:
    """Whether ``module`` is diffusers' `Attention` with one of `PROCESSORS`, as the two compute it without exceptions. Other attention is
    mapped where it calls torch's `scaled_dot_product_attention`."""
    return isinstance(module, Attention) and not _by_processor(module)


def _attention(module: Attention) -> str:
    why = _by_processor(module)
    if not why:
        return ""
    calls = attends(module)
    return why if calls is None else calls


CONTRACTS = {nn.Linear: ("linear", _frozen), CONVOLUTIONS: ("conv", _frozen), Attention: ("attention", _attention)}
"""The kind of a module's type, and what says why one is not mapped."""


def layer_kind(module: nn.Module) -> str:
    """The kind of a linear layer or a convolution."""
    if isinstance(module, nn.Linear):
        return "linear"
    return "conv" if isinstance(module, nn.Conv2d) and module.groups == 1 else "windows"


def select(model: nn.Module, modules: str) -> list[Choice]:
    """Every module of ``model`` that multiplies: LoRA layers first, then the others, each in order of name.

    Raises AttachError for an unknown ``modules``.
    """
    if modules not in MODULES:
        raise AttachError(f"modules must be {' or '.join(MODULES)}, not {modules!r}")
    named = sorted(model.named_modules(), key=lambda item: item[0])
    lora: list[Choice] = [Choice(name, module, "lora") for name, module in named if issubclass(type(module), ADAPTED)]
    inside = tuple(f"{choice.name}." for choice in lora)
    rest = []
    for name, module in named:
        if isinstance(module, ADAPTED) or name.startswith(inside):
            continue
        for kind, (word, contract) in CONTRACTS.items():
            if isinstance(module, kind):
                why = contract(module) if modules == "all" else ONLY_LORA
                rest.append(Choice(name, module, layer_kind(module) if word == "conv" else word, why))
                break
        else:
            stays = reason(module)
            calls = attends(module) if stays else None
            if calls is not None:
                rest.append(Choice(name, module, "attention", calls if modules == "all" else ONLY_LORA))
            elif stays:
                rest.append(Choice(name, module, "other", stays))
    return lora + rest
