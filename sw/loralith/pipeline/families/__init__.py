"""The families of pipelines: what of one is known before torch is loaded, and where its adapter class stands.

A further family is a line here and a subclass of `base.Family`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loralith.pipeline.families.base import Family

__all__ = ["FAMILIES", "FamilyEntry"]


@dataclass(frozen=True)
class FamilyEntry:
    """``module``, ``name``: the adapter's class. ``denoiser``: the part that is trained. ``encoders``: pairs of tokenizer and text encoder.
    ``textual_inversion``: whether diffusers' `load_textual_inversion` reads one embedding for it. ``optional``: parts that it does without.
    """

    module: str
    name: str
    denoiser: str
    encoders: tuple[tuple[str, str], ...]
    textual_inversion: bool = False
    optional: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that the pipeline must have."""
        parts = ("vae", "scheduler", self.denoiser, *(part for pair in self.encoders for part in pair))
        return tuple(part for part in parts if part not in self.optional)

    def load(self) -> type[Family]:
        return getattr(import_module(f"loralith.pipeline.families.{self.module}"), self.name)


ONE, TWO, THREE = (tuple((f"tokenizer{end}", f"text_encoder{end}") for end in ("", "_2", "_3")[:count]) for count in (1, 2, 3))

FAMILIES: Mapping[str, FamilyEntry] = {
    "StableDiffusionPipeline": FamilyEntry("unets", "StableDiffusion", "unet", ONE, textual_inversion=True),
    "StableDiffusionXLPipeline": FamilyEntry("unets", "StableDiffusionXL", "unet", TWO),
    "StableDiffusion3Pipeline": FamilyEntry("transformers", "StableDiffusion3", "transformer", THREE, optional=THREE[2]),
    "PixArtAlphaPipeline": FamilyEntry("transformers", "PixArt", "transformer", ONE),
    "PixArtSigmaPipeline": FamilyEntry("transformers", "PixArt", "transformer", ONE),
    "SanaPipeline": FamilyEntry("transformers", "Sana", "transformer", ONE),
    "FluxPipeline": FamilyEntry("transformers", "Flux", "transformer", TWO),
}
"""By the class of the pipeline."""
