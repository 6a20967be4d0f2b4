"""The memory of a fine-tuning step of the small diffusion model, by method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from loralith.device import open_device
from loralith.diffusion.adapter import adapter_parameters, add_adapter
from loralith.diffusion.data import personal_images
from loralith.diffusion.determinism import repeatable
from loralith.diffusion.finetune import step_loss
from loralith.diffusion.settings import FinetuneSettings
from loralith.diffusion.unet import load_model
from loralith.mapping.attachment import attach
from loralith.mapping.memory import Account, measure
from loralith.spec.config import Config
from loralith.spec.scheme import FQT

__all__ = ["METHODS", "Method", "measure_method"]

BASELINE = "fp32-lora"


@dataclass(frozen=True)
class Method:
    """A way to train. ``text``: what it is, for a table. ``step``: what measures one step of it, on a device of the configuration.
    ``maps``: kinds of modules that it maps, whose saved tensors are compared with FP32's."""

    text: str
    step: Callable[[FinetuneSettings, Config], Account]
    maps: tuple[str, ...] = ("lora", "linear", "conv", "attention")


def lora_step(settings: FinetuneSettings, config: Config, modules: str | None) -> Account:
    """The second step of LoRA, in torch where ``modules`` is None."""
    images = personal_images(settings.digit, settings.images, settings.seed)
    with repeatable():
        unet, encoder = load_model(settings.model)
        model: nn.Module = add_adapter(unet, **settings.adapter())
        parameters: Any = adapter_parameters(model)  # type: ignore[arg-type]
        optimizer = torch.optim.AdamW(parameters.values(), lr=settings.lr, weight_decay=0.0)
        model.train()

        def loss() -> torch.Tensor:
            return step_loss(model, encoder, images, settings, 1)  # type: ignore[arg-type]

        def warm() -> None:
            loss().backward()
            optimizer.step()

        if modules is None:
            warm()
            return measure(model, loss, optimizer)
        with open_device("reference", config) as device:
            attachment = attach(model, device, FQT(seed=settings.seed), modules=modules)
            try:
                warm()
                return measure(model, loss, optimizer, attachment)
            finally:
                attachment.detach()


METHODS: Mapping[str, Method] = {
    BASELINE: Method("LoRA in FP32 torch", lambda settings, config: lora_step(settings, config, None)),
    "lora": Method(
        "INT8 LoRA layers on the device, the rest in torch", lambda settings, config: lora_step(settings, config, "lora"), ("lora",)
    ),
    "lora-all": Method("INT8 LoRA, all that multiplies on the device", lambda settings, config: lora_step(settings, config, "all")),
}


def measure_method(name: str, settings: FinetuneSettings, config: Config) -> dict[str, Any]:
    """Figures of one method as JSON values."""
    method = METHODS[name]
    return {"text": method.text, "maps": list(method.maps), **method.step(settings, config).figures()}
