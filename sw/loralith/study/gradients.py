"""A run's gradients beside those of FP64, layer by layer."""

import torch
from torch import Tensor

from loralith.diffusion.peft_adapter import adapter_parameters, add_adapter
from loralith.diffusion.prompt import PromptEncoder
from loralith.diffusion.unet import load_model
from loralith.methods.settings import FinetuneSettings
from loralith.training.loop import step_loss


@torch.no_grad()
def copy_parameters(source: dict[str, torch.nn.Parameter], target: dict[str, torch.nn.Parameter]) -> None:
    for name, tensor in source.items():
        target[name].copy_(tensor)


class ExactModel:
    """The model in FP64, which repeats a step's forward and backward pass. Make and call it inside `repeatable`."""

    def __init__(self, settings: FinetuneSettings) -> None:
        self.settings = settings
        unet, encoder = load_model()
        self.model = add_adapter(unet, **settings.adapter()).double()
        self.encoder: PromptEncoder = encoder.double()
        self.parameters = adapter_parameters(self.model)

    def gradients(self, parameters: dict[str, torch.nn.Parameter], images: Tensor, step: int) -> dict[str, Tensor]:
        """Gradients of step `step` at `parameters`, float64, by name."""
        copy_parameters(parameters, self.parameters)
        self.model.zero_grad()
        step_loss(self.model, self.encoder, images.double(), self.settings, step).backward()
        return {name: tensor.grad for name, tensor in self.parameters.items() if tensor.grad is not None}


def compare_gradients(own: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """(cosine, relative error |own - exact| / |exact|) by parameter; a parameter whose exact gradient is zero is left out."""
    result = {}
    for name, wanted in exact.items():
        size = wanted.norm().item()
        if size > 0.0:
            got = own[name].double()
            cosine = torch.dot(got.flatten(), wanted.flatten()).item() / (max(got.norm().item(), 1e-300) * size)
            result[name] = (cosine, (got - wanted).norm().item() / size)
    return result
