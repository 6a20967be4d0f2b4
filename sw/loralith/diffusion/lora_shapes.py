"""What one training step asks of the accelerator: the shapes of its LoRA layers and their multiply-accumulates (MACs)."""

from dataclasses import dataclass

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from torch import Tensor

from loralith.diffusion.data import IMAGE_SIZE
from loralith.diffusion.prompt import PROMPT_TOKENS, TOKEN_DIM


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
