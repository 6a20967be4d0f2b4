"""Looks at what trains: in plain FP32, on a model of its own, so that the run is not touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from loralith.diffusion.objective import held_out_loss
from loralith.diffusion.schedule import noise_schedule, sample
from loralith.training.session import Look

if TYPE_CHECKING:
    from loralith.methods.base import Method

SAMPLES = 8


@torch.no_grad()
def look(method: Method, step: int) -> Look:
    """The result as it is now, after ``step`` steps."""
    model, encoder = method.judged()
    subject, evaluation = method.subject, method.settings.evaluation
    condition = torch.cat([encoder.encode(caption) for caption in subject.held_captions])
    loss = held_out_loss(model, noise_schedule(), subject.held_out, condition, rounds=evaluation.rounds)
    prompt, null = encoder.encode(subject.prompt, SAMPLES), encoder.encode("", SAMPLES)
    drawn = sample(model, prompt, null, seed=0, steps=evaluation.sample_steps, guidance=evaluation.guidance)
    return Look(step, loss, drawn)
