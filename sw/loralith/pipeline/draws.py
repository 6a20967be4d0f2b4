"""What each step draws, and the loss of it: a function of the seed and of the step alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loralith.diffusion.determinism import generator
from loralith.pipeline.encode import EMPTY, Material, batch_text
from loralith.pipeline.families.base import Family, Text
from loralith.pipeline.objective import Objective
from loralith.pipeline.settings import PipelineSettings

__all__ = ["Pictures", "Sampler"]


@dataclass(frozen=True)
class Pictures:
    """One batch: latents and noise [N, C, h, w], times [N] in 0..1, captions and their embeddings."""

    latents: Tensor
    noise: Tensor
    times: Tensor
    captions: list[str]
    text: Text

    def rows(self, places: Tensor) -> Pictures:
        """Some of the batch, by their numbers."""
        captions = [self.captions[place] for place in places.tolist()]
        text = {name: own[places] for name, own in self.text.items()}
        return Pictures(self.latents[places], self.noise[places], self.times[places], captions, text)


class Sampler:
    """``material``: what is learned. ``prior``: pictures of the class that must not be lost, or None."""

    def __init__(
        self, settings: PipelineSettings, family: Family, objective: Objective, material: Material, prior: Material | None
    ) -> None:
        self.settings, self.family, self.objective = settings, family, objective
        self.material, self.prior = material, prior

    def batches(self, step: int) -> list[list[Pictures]]:
        """The batches of a step: each is the learned pictures and, where there are such, as many of the class.

        The times of a step's pictures are stratified: one from each of as many equal parts, which lowers the loss's variance. A batch has
        pictures of one size; a size is drawn as often as it has pictures.
        """
        sources = [("pictures", self.material)] + ([("class pictures", self.prior)] if self.prior else [])
        drawn = [self._draw(purpose, source, step) for purpose, source in sources]
        return [list(batch) for batch in zip(*drawn, strict=True)]

    def _draw(self, purpose: str, source: Material, step: int) -> list[Pictures]:
        settings = self.settings
        random = generator(f"pipeline {purpose}", settings.seed, step)
        count = settings.batch * settings.accumulation
        places = (torch.randperm(count, generator=random) + torch.rand(count, generator=random)) / count
        return [self._batch(source, self.objective.times(place), random) for place in places.split(settings.batch)]

    def _batch(self, source: Material, times: Tensor, random: torch.Generator) -> Pictures:
        def pick(count: int) -> int:
            return int(torch.randint(count, (1,), generator=random))

        bucket = source.bucket(pick(len(source)))
        picks = [bucket[pick(len(bucket))] for _ in range(len(times))]
        dropped = (torch.rand(len(times), generator=random) < self.settings.caption_dropout).tolist()
        mean, deviation = (torch.stack([own[index] for index in picks]) for own in (source.means, source.deviations))
        latents = mean + deviation * torch.randn(mean.shape, generator=random)
        noise = torch.randn(mean.shape, generator=random)
        if self.settings.noise_offset:
            noise = noise + self.settings.noise_offset * torch.randn((*mean.shape[:2], 1, 1), generator=random)
        captions = [EMPTY if without else source.captions[index] for index, without in zip(picks, dropped, strict=True)]
        return Pictures(latents, noise, times, captions, batch_text(source.texts, captions) if source.texts else {})

    def loss(self, model: nn.Module, pictures: Pictures) -> Tensor:
        """The objective of a batch, a scalar."""
        return self.losses(model, pictures).mean()

    def timesteps(self, pictures: Pictures) -> Tensor:
        """The time steps [N] that the denoiser is told, of 0..1000."""
        return self._prepared(pictures)[1]

    def _prepared(self, pictures: Pictures) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tokens = self.family.sequence_length(pictures.latents)
        return self.objective.prepare(pictures.latents, pictures.noise, pictures.times, tokens)

    def losses(self, model: nn.Module, pictures: Pictures) -> Tensor:
        """The objective of each picture [N]."""
        noised, timesteps, target, weights = self._prepared(pictures)
        return self.objective.losses(self.family.predict(model, noised, timesteps, pictures.text), target, weights)
