"""The scheduler's own objective: how latents are noised, what the denoiser should say of them, and how much each error counts.

Diffusion (a scheduler with `alphas_cumprod`): x_t = sqrt(a_t) x + sqrt(1 - a_t) n, and the target is n ("epsilon"), sqrt(a_t) n -
sqrt(1 - a_t) x ("v_prediction", Salimans and Ho, 2022) or x ("sample"). Min-SNR weighting (Hang et al., 2023) gives a step of
signal-to-noise ratio S = a_t / (1 - a_t) the weight min(S, gamma), over S for epsilon and over S + 1 for v.

Flow matching (FlowMatchEuler, and DPMSolver with `use_flow_sigmas`): x_s = (1 - s) x + s n, the target is n - x, and the time step 1000 s.
The scheduler's shift moves s toward the noise as it does while sampling.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from loralith.methods.options import SettingsError
from loralith.pipeline.settings import PipelineSettings

__all__ = ["Diffusion", "Flow", "Objective", "objective_of"]


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)


def logit_normal(place: Tensor) -> Tensor:
    """Quantiles ``place`` of 0..1 of the logit-normal distribution (Esser et al., 2024), mean 0 and deviation 1."""
    inside = place.to(torch.float64).clamp(1e-6, 1 - 1e-6)
    return torch.sigmoid(torch.special.ndtri(inside)).to(place.dtype)


class Objective(ABC):
    """``sampling``: "uniform" or "logit-normal", of the time. ``name``: for reports."""

    sampling: str
    name: str

    def times(self, place: Tensor) -> Tensor:
        """Quantiles [N] in 0..1 as times in 0..1, 1 being noise."""
        return logit_normal(place) if self.sampling == "logit-normal" else place

    @abstractmethod
    def prepare(self, latents: Tensor, noise: Tensor, times: Tensor, tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(noised latents, time steps [N] for the denoiser, target, weights [N]); ``tokens`` of one picture, for dynamic shifting."""

    def losses(self, prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """The weighted mean squared errors [N]."""
        errors = (prediction - target).square().flatten(1).mean(1)
        return errors * weights.to(errors.dtype)


class Diffusion(Objective):
    def __init__(self, scheduler: Any, settings: PipelineSettings) -> None:
        self.alphas = scheduler.alphas_cumprod.to(torch.float64)
        self.prediction = str(scheduler.config.prediction_type)
        if self.prediction not in ("epsilon", "v_prediction", "sample"):
            raise SettingsError(f"the scheduler's prediction_type {self.prediction!r} is not known; epsilon, v_prediction and sample are")
        self.gamma = settings.min_snr
        self.sampling = "uniform" if settings.timestep_sampling == "auto" else settings.timestep_sampling
        self.name = {"epsilon": "noise (epsilon)", "v_prediction": "velocity (v)", "sample": "the picture"}[self.prediction]

    def prepare(self, latents: Tensor, noise: Tensor, times: Tensor, tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = len(self.alphas)
        steps = (times.to(torch.float64) * count).to(torch.int64).clamp(0, count - 1)
        alpha = self.alphas[steps]
        signal, spread = _wide(alpha.sqrt(), latents), _wide((1 - alpha).sqrt(), latents)
        targets = {"epsilon": noise, "v_prediction": signal * noise - spread * latents, "sample": latents}
        return signal * latents + spread * noise, steps, targets[self.prediction], self.weights(alpha)

    def weights(self, alpha: Tensor) -> Tensor:
        if self.gamma is None:
            return torch.ones_like(alpha)
        ratio = alpha / (1 - alpha)
        least = ratio.clamp(max=self.gamma)
        if self.prediction == "epsilon":
            return (self.gamma / ratio).clamp(max=1.0)  # least / ratio, defined without signal too
        return least / (ratio + 1) if self.prediction == "v_prediction" else least


class Flow(Objective):
    name = "flow matching"

    def __init__(self, scheduler: Any, settings: PipelineSettings) -> None:
        for name, off in (("min_snr", None), ("noise_offset", 0.0)):
            if getattr(settings, name) != off:
                raise SettingsError(f"{name} is of schedulers that predict noise or velocity; this one matches a flow: leave it out")
        config = scheduler.config
        self.shift = float(config.get("flow_shift") or config.get("shift") or 1.0)
        self.dynamic = bool(config.get("use_dynamic_shifting"))
        self.config = {
            name: float(config.get(name) or usual)
            for name, usual in (("base_image_seq_len", 256), ("max_image_seq_len", 4096), ("base_shift", 0.5), ("max_shift", 1.15))
        }
        self.sampling = "logit-normal" if settings.timestep_sampling == "auto" else settings.timestep_sampling

    def factor(self, tokens: int) -> float:
        """What the odds of s are multiplied by for a picture of so many tokens."""
        if not self.dynamic:
            return self.shift
        own = self.config
        slope = (own["max_shift"] - own["base_shift"]) / (own["max_image_seq_len"] - own["base_image_seq_len"])
        return math.exp(own["base_shift"] + slope * (tokens - own["base_image_seq_len"]))

    def prepare(self, latents: Tensor, noise: Tensor, times: Tensor, tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        factor = self.factor(tokens)
        sigma = factor * times / (1 + (factor - 1) * times)
        share = _wide(sigma, latents)
        return (1 - share) * latents + share * noise, (1000 * sigma).to(latents.dtype), noise - latents, torch.ones_like(sigma)


def objective_of(scheduler: Any, settings: PipelineSettings) -> Objective:
    """The scheduler's objective with the settings' options. Raises SettingsError for options that it does not have."""
    flow = scheduler.config.get("use_flow_sigmas") or scheduler.config.get("prediction_type") == "flow_prediction"
    if flow or not hasattr(scheduler, "alphas_cumprod"):
        return Flow(scheduler, settings)
    return Diffusion(scheduler, settings)
