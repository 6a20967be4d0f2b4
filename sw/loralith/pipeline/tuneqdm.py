"""TuneQDM on a pipeline (Ryu et al., 2024): the scales of a denoiser of 4 or 8 bit codes, by groups of time steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loralith.formats.run_folder import SCALES
from loralith.methods.options import SettingsError
from loralith.methods.tuneqdm.code_layers import Router, tune
from loralith.methods.tuneqdm.mapped_codes import MappedTuned, MappedTunedConv
from loralith.methods.tuneqdm.scales_file import load_scales, read_header, save_scales
from loralith.pipeline.draws import Pictures, Sampler
from loralith.pipeline.families.base import Family
from loralith.pipeline.pipeline_method import PipelineMethod
from loralith.pipeline.settings import PipelineSettings

__all__ = ["TuneQDM", "apply_scales"]


def _route(family: Family, router: Router) -> None:
    """Lets every pass of the denoiser take the expert of its time step, which all its pictures must share."""

    def choose(_module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = named["timestep"] if "timestep" in named else args[1]
        steps = family.time_steps(torch.as_tensor(given, dtype=torch.float64).reshape(-1))
        (router.now,) = set(expert_of(steps, router).tolist())

    family.denoiser.register_forward_pre_hook(choose, with_kwargs=True)


def expert_of(timesteps: Tensor, router: Router) -> Tensor:
    """The expert of each time step of 0..1000; the last one's end belongs to it."""
    return router.of(timesteps.to(torch.float64)).to(torch.int64).clamp(0, router.experts - 1)


class TuneQDM(PipelineMethod):
    """Every frozen linear layer and convolution of the denoiser becomes codes with trained scales. A batch whose time steps need several
    experts passes over the model once for each. The learning rate of a tensor is the settings' times its mean magnitude at first, since
    scales of different layers differ a thousandfold."""

    result = SCALES
    kinds = {"linear": MappedTuned, "conv": MappedTunedConv}
    sparse = True

    def __init__(self, settings: PipelineSettings, family: Family, digest: str) -> None:
        self.router, self.digest = Router(settings.experts), digest
        self.layers = tune(family.denoiser, settings.bits, self.router)  # type: ignore[arg-type]
        if not self.layers:
            raise SettingsError("the denoiser has no linear layer or convolution that can have codes")
        _route(family, self.router)
        parameters: dict[str, nn.Parameter] = {}
        for name, tuned in self.layers.items():
            for expert in range(settings.experts):
                parameters[f"{name}.s_out.{expert}"] = tuned.s_out[expert]
                tuned.s_in[expert].requires_grad_(settings.input_scales == "trained")
                if settings.input_scales == "trained":
                    parameters[f"{name}.s_in.{expert}"] = tuned.s_in[expert]
        super().__init__(settings, family, parameters)

    def make_optimizer(self) -> Any:
        groups = [{"params": [own], "factor": float(own.detach().abs().mean())} for own in self.parameters.values()]
        return torch.optim.AdamW(groups, lr=self.settings.lr, weight_decay=self.settings.weight_decay)

    def losses(self, pictures: Pictures, sampler: Sampler) -> Tensor:
        experts = expert_of(sampler.timesteps(pictures), self.router)
        parts = [torch.nonzero(experts == expert)[:, 0] for expert in sorted(set(experts.tolist()))]
        return torch.cat([sampler.losses(self.model, pictures.rows(part)) for part in parts])

    def save(self, folder: Path) -> list[str]:
        with self.result_weights():
            save_scales(self.layers, self.digest, folder / SCALES)
        return [SCALES]

    @property
    def label(self) -> str:
        experts = self.settings.experts
        name = "PEQA" if experts == 1 and self.settings.input_scales == "fixed" else "TuneQDM"
        return f"{name}, {self.settings.bits} bit, {experts} expert{'s' if experts > 1 else ''}"


def apply_scales(family: Family, digest: str, path: Path) -> None:
    """Makes the denoiser of a freshly loaded pipeline what a run trained, from its file of scales.

    digest : of the pipeline's folder, `ModelFolder.digest`. Raises ScalesError for scales of another pipeline.
    """
    header = read_header(path)
    router = Router(int(header["experts"]))
    layers = tune(family.denoiser, int(header["bits"]), router)  # type: ignore[arg-type]
    load_scales(layers, digest, path)
    _route(family, router)
