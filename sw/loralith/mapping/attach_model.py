"""`attach` and `detach`: which class maps each kind of module, and what becomes of modules that the device does not run."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from peft.tuners.lora.layer import LoraLayer
from torch import nn

from loralith.device.device import Device
from loralith.mapping.attachment import ATTACHED, Attachment, Maker, Observer, attachment_of
from loralith.mapping.kinds.function_attention import mapped_attention
from loralith.mapping.kinds.linears_and_convolutions import MappedConv, MappedLinear
from loralith.mapping.kinds.lora_parts import MappedDora, in_parts, mapped_lora, parts
from loralith.mapping.kinds.lora_parts import unsupported as why_unsupported
from loralith.mapping.kinds.trained_modules import MappedTrained
from loralith.mapping.select import AttachError, Choice, select, shape_reason
from loralith.mapping.torch_kernels import use_torch_kernels
from loralith.spec.scales import rotation_block
from loralith.spec.scheme import FQT, SchemeError

__all__ = ["attach", "detach"]

UNSUPPORTED = ("refuse", "leave")
"""What `attach` does with LoRA layers whose settings the device does not run."""


def makers() -> dict[str, Maker]:
    """What maps each kind of module."""
    return {
        "lora": mapped_lora,
        "linear": MappedLinear,
        "conv": MappedConv,
        "windows": MappedConv,
        "trained": MappedTrained,
        "dora": MappedDora,
        "attention": mapped_attention,
    }


SAVED = ".modules_to_save."
"""In names of modules that PEFT trains beside an adapter, whole."""


def _with_parts(choices: list[Choice], modules: str) -> list[Choice]:
    """With the parts of adapters that run in parts, after the LoRA layers, and modules that PEFT trains whole, where all are mapped."""
    lora = [choice for choice in choices if choice.kind == "lora"]
    inner = [part for choice in lora if not choice.reason for part in parts(choice)]
    rest = [choice for choice in choices if choice.kind != "lora"]
    if modules == "all":
        rest = [
            replace(choice, kind="trained", reason=shape_reason(choice.module))
            if SAVED in choice.name and choice.kind in ("linear", "conv", "windows") and choice.module.weight.requires_grad  # type: ignore[union-attr]
            else choice
            for choice in rest
        ]
    return [*lora, *inner, *rest]


def _kept_in_torch(choice: Choice) -> Choice:
    return replace(choice, reason="the method keeps it in torch")


def _unrotated(choice: Choice, scheme: FQT) -> str:
    """Why a LoRA layer's channels cannot be rotated as ``scheme`` wants, "" where they can; parts that cannot are not rotated."""
    if in_parts(choice.module) or not isinstance(choice.module, LoraLayer) or choice.module.in_features is None:
        return ""
    try:
        rotation_block(scheme.rotation, choice.module.in_features, required=True)
    except SchemeError as error:
        return str(error)
    return ""


def _check_rotation(choices: list[Choice], scheme: FQT) -> None:
    """Raises AttachError that names each LoRA layer whose channels cannot be rotated, before anything is placed on a device."""
    lora = [choice for choice in choices if choice.kind == "lora" and not choice.reason]
    bad = [f"{choice.name}: {why}" for choice in lora if (why := _unrotated(choice, scheme))]
    if bad:
        raise AttachError("; ".join(bad))


def _leave_unsupported(choices: list[Choice], scheme: FQT) -> list[Choice]:
    """LoRA layers whose settings the device does not run have the reason, and a warning names them."""
    judged = [
        replace(choice, reason=why_unsupported(choice) or _unrotated(choice, scheme))
        if choice.kind == "lora" and not choice.reason
        else choice
        for choice in choices
    ]
    leftover = [after for before, after in zip(choices, judged, strict=True) if after.reason != before.reason]
    if leftover:
        names = "; ".join(f"{choice.name}: {choice.reason}" for choice in leftover)
        warnings.warn(f"{len(leftover)} LoRA layers stay in torch ({names})", UserWarning, stacklevel=4)
    return judged


def attach(
    model: nn.Module,
    device: Device,
    scheme: FQT | None = None,
    *,
    observer: Observer | None = None,
    modules: str = "lora",
    kinds: Mapping[str, Maker | None] | None = None,
    unsupported: str = "refuse",
    originals: str | Path | None = None,
) -> Attachment:
    """Run a model's layers, forward and backward, on a device.

    Parameters: ``model``, whose LoRA layers (`peft.get_peft_model`, or diffusers' `add_adapter`) have frozen base weights; ``device`` from
    `loralith.open_device`; ``scheme``, by default `FQT()` (``FQT(rotation=256)`` for models with a few channels of large values);
    ``modules``, "lora" for the LoRA layers alone (LoKr's and LoHa's too), or "all" for every frozen linear layer and convolution, PEFT's
    `modules_to_save` and the products of attention too (what stays in torch is in the result's ``unmapped``); ``kinds``, what maps a kind
    of module ("lora", "linear", "conv", "windows", "trained", "attention", see `Choice`) in place of the usual class of `Mapped`, for other
    methods, or None for a kind that stays in torch; ``unsupported``, what becomes of LoRA layers whose settings the device does not run:
    "refuse" the model, or "leave" them in torch, with a warning that names them and their reasons in ``unmapped``; ``originals``, a folder
    on a disk: the frozen weights that torch keeps of mapped modules lie in a nameless file there, not in memory, until `detach`. They stay
    the same parameters with the same values, read when somebody looks at them; their memory is the system's to take back.

    Each pass has the layers as they are then: which adapter is active (or none, or it is merged), its weights and scaling, the frozen
    weights. A change that the device does not run is an AttachError of the pass, which names the layer. A copy or a pickle of the model is
    a plain one, in torch.

    Raises AttachError, before anything is changed, for a model with nothing to map, one already attached, it or a part of it, LoRA settings
    that are not supported (bias, dropout, variants such as DoRA, several active adapters, other than linear layers), naming the layer, and
    a folder for ``originals`` that has no room, or a weight for it that is not in the CPU's own memory; OutOfMemory, which says how much
    memory the device needs; later, AttachError from forward passes over values that are not finite. A gradient that is not finite goes on
    as one that is not finite anywhere.
    """
    if attachment_of(model) is not None:
        raise AttachError("the model is attached already; detach it first")
    if device.direct:
        use_torch_kernels()
    if unsupported not in UNSUPPORTED:
        raise AttachError(f"unsupported must be {' or '.join(UNSUPPORTED)}, not {unsupported!r}")
    scheme = scheme or FQT()
    table: Mapping[str, Maker | None] = {**makers(), **(kinds or {})}
    found = _with_parts(select(model, modules), modules)
    choices = [_kept_in_torch(choice) if table.get(choice.kind) is None and not choice.reason else choice for choice in found]
    if unsupported == "leave":
        choices = _leave_unsupported(choices, scheme)
    _check_rotation(choices, scheme)
    folder = None if originals is None else Path(originals)
    attachment = Attachment(model, device, scheme, observer, modules, choices, table, folder)
    ATTACHED[model] = weakref.ref(attachment)
    return attachment


def detach(model: nn.Module) -> None:
    """Undo `attach`. Raises AttachError for a model that is not attached."""
    attachment = attachment_of(model)
    if attachment is None:
        raise AttachError("the model is not attached")
    attachment.detach()
