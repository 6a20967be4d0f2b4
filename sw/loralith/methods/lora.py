"""Fully quantized LoRA training (CDM-QTA): adapters of the attention projections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch import Tensor

from loralith.diffusion.lora_shapes import lora_shapes
from loralith.diffusion.objective import step_loss
from loralith.diffusion.peft_adapter import adapter_parameters, add_adapter, load_adapter, save_adapter
from loralith.diffusion.prompt import PromptEncoder
from loralith.diffusion.unet import load_model
from loralith.formats.run_folder import PEFT_FILE
from loralith.methods.base import Bench, Method

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from loralith.diffusion.subject import Subject
    from loralith.methods.settings import FinetuneSettings

__all__ = ["Lora"]


class Lora(Method):
    """``model`` is the PEFT model."""

    model: PeftModel

    def __init__(self, settings: FinetuneSettings, subject: Subject) -> None:
        unet, encoder = load_model(settings.model)
        model = self.adapted(settings, unet)
        super().__init__(settings, subject, encoder, model, adapter_parameters(model))

    def adapted(self, settings: FinetuneSettings, unet: UNet2DConditionModel) -> PeftModel:
        """``unet`` with a fresh adapter."""
        return add_adapter(unet, **settings.adapter())

    def begin(self, bench: Bench) -> None:
        if self.settings.start_from:
            load_adapter(self.model, self.settings.start_from, unet_only=self.settings.unet_only)

    def loss(self, step: int) -> Tensor:
        return step_loss(self.model, self.encoder, self.subject.images, self.settings, step, self.subject.captions)

    @torch.no_grad()
    def judged(self) -> tuple[PeftModel, PromptEncoder]:
        state = torch.get_rng_state()
        unet, encoder = load_model(self.settings.model)
        model = self.adapted(self.settings, unet).eval()
        torch.set_rng_state(state)
        for name, tensor in adapter_parameters(model).items():
            tensor.copy_(self.parameters[name])
        return model, encoder

    def save(self, folder: Path) -> None:
        save_adapter(self.model, folder)

    def figures(self) -> dict[str, Any]:
        shapes = lora_shapes(self.judged()[0], self.settings.batch)
        return {
            "lora": {
                "layers": len(shapes),
                "parameters": sum(tensor.numel() for tensor in self.parameters.values()),
                "macs_per_step": sum(shape.macs for shape in shapes),
            }
        }

    @property
    def label(self) -> str:
        return f"LoRA rank {self.settings.rank}"

    @property
    def result(self) -> str:
        return PEFT_FILE
