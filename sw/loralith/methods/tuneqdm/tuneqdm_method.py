"""TuneQDM (Ryu et al., 2024): the scales of a model of 4 or 8 bit codes, per input and per output channel, by groups of time steps.

PEQA (Kim et al., 2023) is the case of one group whose input scales are fixed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from loralith.diffusion.objective import step_loss
from loralith.diffusion.prompt import PromptEncoder
from loralith.diffusion.unet import assets_digest, load_model, model_digest
from loralith.formats.run_folder import SCALES
from loralith.methods.options import TuneqdmOptions
from loralith.methods.training_method import Bench, Method
from loralith.methods.tuneqdm.code_layers import Router, Tuned, TunedUNet, tune
from loralith.methods.tuneqdm.mapped_codes import MappedTuned, MappedTunedConv
from loralith.methods.tuneqdm.scales_file import load_scales, save_scales

if TYPE_CHECKING:
    from loralith.diffusion.schedule import Denoiser
    from loralith.diffusion.subject import Subject
    from loralith.methods.settings import FinetuneSettings

__all__ = ["TuneQDM"]


class TuneQDM(Method):
    """``model`` is a `TunedUNet`; parameters are named layer.s_out.expert and layer.s_in.expert.

    A batch whose time steps need several experts passes over the model once for each, and trains those. The learning rate of a tensor is
    the settings' times its mean magnitude at first, since scales of different layers differ a thousandfold.
    """

    kinds = {"linear": MappedTuned, "conv": MappedTunedConv, "windows": None}
    sparse = True

    def __init__(self, settings: FinetuneSettings, subject: Subject) -> None:
        assert isinstance(settings.options, TuneqdmOptions)
        self.own = settings.options
        encoder, self.layers, model = self._made(settings)
        self.router = model.router
        parameters: dict[str, nn.Parameter] = {}
        for name, tuned in self.layers.items():
            for expert in range(self.own.experts):
                parameters[f"{name}.s_out.{expert}"] = tuned.s_out[expert]
                tuned.s_in[expert].requires_grad_(self.own.input_scales == "trained")
                if self.own.input_scales == "trained":
                    parameters[f"{name}.s_in.{expert}"] = tuned.s_in[expert]
        super().__init__(settings, subject, encoder, model, parameters)

    def _made(self, settings: FinetuneSettings) -> tuple[PromptEncoder, dict[str, Tuned], TunedUNet]:
        unet, encoder = load_model(settings.model)
        router = Router(self.own.experts)
        return encoder, tune(unet, self.own.bits, router), TunedUNet(unet, router)

    def make_optimizer(self) -> torch.optim.Optimizer:
        groups = [{"params": [p], "lr": self.settings.lr * float(p.detach().abs().mean())} for p in self.parameters.values()]
        return torch.optim.AdamW(groups, weight_decay=0.0)

    @property
    def digest(self) -> str:
        return assets_digest() if self.settings.model is None else model_digest(self.settings.model)

    def begin(self, bench: Bench) -> None:
        if self.settings.start_from:
            load_scales(self.layers, self.digest, self.settings.start_from)

    def loss(self, step: int) -> Tensor:
        model = cast("Denoiser", self.model)
        return step_loss(model, self.encoder, self.subject.images, self.settings, step, self.subject.captions)

    @torch.no_grad()
    def evaluation_model(self) -> tuple[Denoiser, PromptEncoder]:
        encoder, layers, model = self._made(self.settings)
        for name, tuned in layers.items():
            for kind in ("s_out", "s_in"):
                for own, trained in zip(getattr(tuned, kind), getattr(self.layers[name], kind), strict=True):
                    own.copy_(trained)
        return cast("Denoiser", model.eval()), encoder

    def save(self, folder: Path) -> None:
        save_scales(self.layers, self.digest, folder / SCALES)

    def figures(self) -> dict[str, Any]:
        scales = sum(tensor.numel() for tensor in self.parameters.values())
        codes = sum(tuned.code.numel() for tuned in self.layers.values())  # type: ignore[operator]
        return {
            "tuneqdm": {"layers": len(self.layers), "codes": codes, "bits": self.own.bits, "experts": self.own.experts, "scales": scales}
        }

    @property
    def label(self) -> str:
        name = "PEQA" if self.own.experts == 1 and self.own.input_scales == "fixed" else "TuneQDM"
        return f"{name}, {self.own.bits} bit, {self.own.experts} expert{'s' if self.own.experts > 1 else ''}"

    @property
    def result(self) -> str:
        return SCALES
