"""Pictures and prompts as the denoiser sees them: latents and text embeddings, computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loralith.methods.training_method import Abandoned
from loralith.pipeline.cache import Cache
from loralith.pipeline.families.base import Family, Text
from loralith.pipeline.model_folder import ModelFolder
from loralith.pipeline.photos import Photo, bucket_of, cut
from loralith.progress import Steps

__all__ = ["Encoder", "Material", "batch_text"]

EMPTY = ""
"""The caption of a picture whose caption is dropped."""


@dataclass(frozen=True)
class Material:
    """What a run learns from. Of each picture: ``means`` and ``deviations`` [C, h, w] of its latents, and its caption; ``texts`` has the
    captions' embeddings and those of the empty one, each with a first dimension of 1, or none where they change."""

    means: list[Tensor]
    deviations: list[Tensor]
    captions: list[str]
    texts: dict[str, Text]

    def __len__(self) -> int:
        return len(self.means)

    def bucket(self, index: int) -> list[int]:
        """The numbers of the pictures that have the size of picture ``index``."""
        return [other for other, mean in enumerate(self.means) if mean.shape == self.means[index].shape]


def batch_text(texts: dict[str, Text], captions: Sequence[str]) -> Text:
    """The embeddings of some captions as one batch."""
    found = [texts[caption] for caption in captions]
    return {name: torch.cat([text[name] for text in found]) for name in found[0]}


class Encoder:
    """Encodes through the cache. ``stopping``: asked before each tensor; Abandoned is raised where it says True."""

    def __init__(self, folder: ModelFolder, family: Family, cache: Cache, stopping: Callable[[], bool]) -> None:
        self.family, self.cache, self.stopping = family, cache, stopping
        self.vae = folder.digest("vae")
        parts = [part for pair in folder.encoders for part in pair]
        self.text = {"kind": folder.kind, "encoders": folder.digest(*parts)}

    def material(self, photos: Sequence[Photo], resolution: int, *, buckets: bool, texts: bool = True) -> Material:
        """Of pictures with captions, in their sizes' buckets; without ``texts`` no caption is encoded."""
        progress = Steps("latents", len(photos))
        means, deviations = [], []
        for photo in photos:
            size = bucket_of(photo.size, resolution, self.family.multiple, buckets)
            found = self._picture(photo, *size)
            means.append(found["mean"])
            deviations.append(found["deviation"])
            progress.step()
        captions = [photo.caption for photo in photos]
        return Material(means, deviations, captions, self.texts([*captions, EMPTY]) if texts else {})

    def texts(self, prompts: Sequence[str]) -> dict[str, Text]:
        unique = list(dict.fromkeys(prompts))
        progress = Steps("text embeddings", len(unique))
        found = {}
        for prompt in unique:
            self._check()
            found[prompt] = self.cache.get("text", {**self.text, "prompt": prompt}, lambda prompt=prompt: self._text(prompt))
            progress.step()
        return found

    @torch.no_grad()
    def _text(self, prompt: str) -> Text:
        return self.family.encode_prompts([prompt])

    def _picture(self, photo: Photo, height: int, width: int) -> dict[str, Tensor]:
        self._check()

        @torch.no_grad()
        def compute() -> dict[str, Tensor]:
            level = torch.from_numpy(np.asarray(cut(photo, height, width)).copy())  # [H, W, 3]
            pixels = level.permute(2, 0, 1)[None].to(torch.float32) / 127.5 - 1.0
            mean, deviation = self.family.encode_pictures(pixels)
            return {"mean": mean[0], "deviation": deviation[0]}

        return self.cache.get("latents", {"vae": self.vae, "picture": photo.digest, "size": [height, width]}, compute)

    def _check(self) -> None:
        if self.stopping():
            raise Abandoned(
                "stopped while pictures and prompts were encoded; what is done stays in the cache: start the same command again"
            )
