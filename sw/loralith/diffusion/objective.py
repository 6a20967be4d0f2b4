"""The training objective: mean squared error of the predicted noise (DDPM, Ho et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn import functional

from loralith.diffusion.determinism import generator
from loralith.diffusion.prompt import PromptEncoder, digit_prompt
from loralith.diffusion.schedule import TRAIN_TIMESTEPS, Denoiser, noise_schedule
from loralith.progress import Steps


class StepSettings(Protocol):
    """What a step's draw depends on, of a run's settings."""

    @property
    def seed(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def dropout(self) -> float: ...
    @property
    def digit(self) -> int: ...


@dataclass(frozen=True)
class Draw:
    """What one step draws: images' numbers, time steps and dropped prompts [N], noise [N, 1, 16, 16]."""

    picks: Tensor
    timesteps: Tensor
    dropped: Tensor
    noise: Tensor


def draw_step(purpose: str, seed: int, step: int, *, batch: int, images: Tensor, dropout: float) -> Draw:
    """The draw of one training step, a function of (purpose, seed, step) alone.

    Time steps are stratified: one from each of `batch` equal parts of the schedule, which lowers the loss's variance. A prompt is
    dropped with probability `dropout`, so that guidance has an unconditional prediction to start from.
    """
    random = generator(purpose, seed, step)
    picks = torch.randint(len(images), (batch,), generator=random)
    place = (torch.randperm(batch, generator=random) + torch.rand(batch, generator=random)) / batch
    timesteps = (place * TRAIN_TIMESTEPS).to(torch.int64).clamp(max=TRAIN_TIMESTEPS - 1)
    dropped = torch.rand(batch, generator=random) < dropout
    noise = torch.randn((batch, *images.shape[1:]), generator=random)
    return Draw(picks, timesteps, dropped, noise)


def denoising_loss(unet: Denoiser, schedule: DDIMScheduler, images: Tensor, timesteps: Tensor, noise: Tensor, condition: Tensor) -> Tensor:
    """Mean squared error between `noise` and its prediction from the noised images; images, noise [N, 1, 16, 16], a scalar."""
    noised = schedule.add_noise(images, noise, timesteps)  # type: ignore[arg-type]
    return functional.mse_loss(unet(noised, timesteps, condition).sample, noise)


def step_loss(
    model: Denoiser,
    encoder: PromptEncoder,
    images: Tensor,
    settings: StepSettings,
    step: int,
    captions: tuple[str, ...] | None = None,
) -> Tensor:
    """The loss of one training step, a scalar: its draw is a function of the settings' seed and of `step` alone.

    ``captions``: of the images; by default all have the prompt of the settings' digit.
    """
    return batch_loss(model, **step_batch(encoder, images, settings, step, captions))


def batch_loss(unet: Denoiser, noised: Tensor, timesteps: Tensor, condition: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error between `noise` and its prediction from what `step_batch` gives."""
    return functional.mse_loss(unet(noised, timesteps, condition).sample, noise)


def step_batch(
    encoder: PromptEncoder, images: Tensor, settings: StepSettings, step: int, captions: tuple[str, ...] | None = None
) -> dict[str, Tensor]:
    """What one training step is computed from: noised images, time steps, the prompts' embeddings, the noise; see `step_loss`."""
    draw = draw_step("finetune", settings.seed, step, batch=settings.batch, images=images, dropout=settings.dropout)
    null = encoder.encode("")
    if captions is None:
        prompt = encoder.encode(digit_prompt(settings.digit))
    else:
        prompt = torch.cat([encoder.encode(captions[pick]) for pick in draw.picks.tolist()])
    condition = torch.where(draw.dropped[:, None, None], null, prompt)  # [batch, tokens, dim]
    noised = noise_schedule().add_noise(images[draw.picks], draw.noise, draw.timesteps)  # type: ignore[arg-type]
    return {"noised": noised, "timesteps": draw.timesteps, "condition": condition, "noise": draw.noise}


@torch.no_grad()
def held_out_loss(unet: Denoiser, schedule: DDIMScheduler, images: Tensor, condition: Tensor, *, rounds: int) -> float:
    """Loss on images that were not trained on, over a fixed grid of time steps and fixed noise, so that two models compare.

    images [N, 1, 16, 16], condition [1, tokens, dim] or one for each image [N, tokens, dim]. Round k takes all images once, each at another
    of N x rounds evenly spaced time steps; the noise depends on k alone.
    """
    count = len(images)
    total, progress = 0.0, Steps("held-out loss", rounds)
    for index in range(rounds):
        place = torch.arange(count) * rounds + index
        timesteps = ((place.to(torch.float64) + 0.5) * TRAIN_TIMESTEPS / (count * rounds)).to(torch.int64)
        order = torch.randperm(count, generator=generator("held-out order", index))
        noise = torch.randn(images.shape, generator=generator("held-out noise", index))
        total += float(denoising_loss(unet, schedule, images[order], timesteps, noise, condition.expand(count, -1, -1)[order]))
        progress.step()
    return total / rounds
