"""Fully quantized LoRA training (CDM-QTA): adapters of the attention projections."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from torch import Tensor

from loralith.diffusion.data import IMAGE_SIZE
from loralith.diffusion.objective import batch_loss, step_batch
from loralith.diffusion.peft_adapter import adapter_parameters, add_adapter, load_adapter, save_adapter
from loralith.diffusion.prompt import PROMPT_TOKENS, TOKEN_DIM, PromptEncoder
from loralith.diffusion.unet import load_model
from loralith.formats.run_folder import PEFT_FILE
from loralith.methods.training_method import Bench, Method

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
        return self.loss_of(**self.batch(step))

    def batch(self, step: int) -> dict[str, Tensor]:
        """What `loss_of` takes for a step."""
        return step_batch(self.encoder, self.subject.images, self.settings, step, self.subject.captions)

    def loss_of(self, **batch: Tensor) -> Tensor:
        """The loss of a batch."""
        return batch_loss(self.model, **batch)

    @torch.no_grad()
    def evaluation_model(self) -> tuple[PeftModel, PromptEncoder]:
        state = torch.get_rng_state()
        unet, encoder = load_model(self.settings.model)
        model = self.adapted(self.settings, unet).eval()
        torch.set_rng_state(state)
        for name, tensor in adapter_parameters(model).items():
            tensor.copy_(self.parameters[name])
        return model, encoder

    def save(self, folder: Path) -> None:
        save_adapter(self.model, folder, self.settings.rotation)

    def figures(self) -> dict[str, Any]:
        shapes = lora_shapes(self.evaluation_model()[0], self.settings.batch)
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


@dataclass(frozen=True)
class LoraShape:
    """One LoRA layer in one step: T tokens (batch x sequence), I in_features, O out_features, rank r.

    `leaf`: X needs no gradient, so dX is not computed (the K and V projections of cross attention, whose input is the prompt).
    """

    name: str
    T: int
    I: int
    O: int
    r: int
    leaf: bool

    @property
    def macs(self) -> int:
        """MACs of the six outputs H, Y, dH, dB, dA, dX: two skinny products, two chained ones, two gradients."""
        base = self.T * self.I * self.O
        into, out = self.T * self.I * self.r, self.T * self.O * self.r
        forward = base + into + out
        gradients = out + out + into
        return forward + gradients + (0 if self.leaf else base + into)


def lora_shapes(model: PeftModel, batch: int) -> list[LoraShape]:
    """The shapes of every LoRA layer for a batch of images, in the order of the forward pass (found by running one)."""
    shapes: list[LoraShape] = []
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, Linear):

            def record(module: Linear, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                features = inputs[0].shape[-1]
                prompt = ".attn2." in name and name.endswith(("to_k", "to_v"))
                shapes.append(LoraShape(name, inputs[0].numel() // features, features, output.shape[-1], module.r["default"], leaf=prompt))

            hooks.append(module.register_forward_hook(record))
    try:
        with torch.no_grad():
            image = torch.zeros(batch, 1, IMAGE_SIZE, IMAGE_SIZE)
            model(image, torch.zeros(batch, dtype=torch.int64), torch.zeros(batch, PROMPT_TOKENS, TOKEN_DIM))
    finally:
        for hook in hooks:
            hook.remove()
    return shapes
