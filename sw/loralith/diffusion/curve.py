"""Looks at an adapter while it trains: in plain FP32, on a model of its own, so that the run is not touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from loralith.diffusion.adapter import adapter_parameters, add_adapter
from loralith.diffusion.objective import held_out_loss
from loralith.diffusion.prompt import PromptEncoder
from loralith.diffusion.schedule import noise_schedule, sample
from loralith.diffusion.session import Look, Session
from loralith.diffusion.settings import FinetuneSettings
from loralith.diffusion.subject import Subject
from loralith.diffusion.unet import load_model

if TYPE_CHECKING:
    from torch import Tensor

SAMPLES = 8


class Curve:
    """Adds a `Look` to the session at each call of `look`."""

    def __init__(self, settings: FinetuneSettings, session: Session, subject: Subject, encoder: PromptEncoder) -> None:
        self.settings, self.session, self.subject = settings, session, subject
        state = torch.get_rng_state()
        self.model = add_adapter(load_model(settings.model)[0], **settings.adapter()).eval()
        torch.set_rng_state(state)
        self.parameters = adapter_parameters(self.model)
        self.condition: Tensor = torch.cat([encoder.encode(caption) for caption in subject.held_captions])
        self.prompt, self.null = encoder.encode(subject.prompt, SAMPLES), encoder.encode("", SAMPLES)

    @torch.no_grad()
    def look(self) -> None:
        """Takes over the adapter's values as they are now."""
        for name, tensor in self.session.parameters.items():
            self.parameters[name].copy_(tensor)
        evaluation = self.settings.evaluation
        loss = held_out_loss(self.model, noise_schedule(), self.subject.held_out, self.condition, rounds=evaluation.rounds)
        drawn = sample(self.model, self.prompt, self.null, seed=0, steps=evaluation.sample_steps, guidance=evaluation.guidance)
        self.session.looks.append(Look(self.session.step, loss, drawn))
