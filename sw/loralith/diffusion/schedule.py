"""Noise schedule and sampling: stock diffusers DDIM (Song et al., 2021), epsilon prediction, cosine schedule, 1,000 time steps."""

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from peft import PeftModel
from torch import Tensor

from loralith.diffusion.data import IMAGE_SIZE
from loralith.diffusion.determinism import generator
from loralith.progress import Steps

TRAIN_TIMESTEPS = 1000

Denoiser = UNet2DConditionModel | PeftModel  # a U-Net, plain or with an adapter: both are called alike


def noise_schedule() -> DDIMScheduler:
    """The schedule of training and of sampling; images are -1..1 and x0 is clipped to that while sampling."""
    return DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="epsilon",
        clip_sample=True,
        timestep_spacing="trailing",
    )


@torch.no_grad()
def sample(unet: Denoiser, condition: Tensor, null: Tensor, *, seed: int, steps: int, guidance: float) -> Tensor:
    """Deterministic DDIM samples with classifier-free guidance (Ho and Salimans, 2022).

    condition, null: [N, tokens, dim], with and without the prompt. Returns images [N, 1, 16, 16] in -1..1. Sample n starts from
    noise that depends on (seed, n) alone, so more samples extend fewer ones. `guidance` 1 is none.
    """
    schedule = noise_schedule()
    schedule.set_timesteps(steps)
    count = len(condition)
    shape = (1, IMAGE_SIZE, IMAGE_SIZE)
    images = torch.stack([torch.randn(shape, generator=generator("sample noise", seed, index)) for index in range(count)])
    progress = Steps(f"drawing {count} samples", len(schedule.timesteps))
    for timestep in schedule.timesteps:
        if guidance == 1.0:
            noise = unet(images, timestep, condition).sample
        else:
            without, given = unet(torch.cat([images, images]), timestep, torch.cat([null, condition])).sample.chunk(2)
            noise = without + guidance * (given - without)
        images = schedule.step(noise, int(timestep), images, return_dict=False)[0]
        progress.step()
    return images.clamp(-1.0, 1.0)
