"""Pictures drawn by the pipeline itself: of validation prompts, and of the class that must not be lost."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from loralith.diffusion.determinism import generator
from loralith.files import write_bytes
from loralith.methods.training_method import Abandoned
from loralith.pipeline.families.base import Family
from loralith.pipeline.load import quiet
from loralith.pipeline.settings import PipelineSettings
from loralith.progress import Steps

__all__ = ["class_pictures", "draw", "png"]


@torch.no_grad()
def draw(family: Family, settings: PipelineSettings, prompt: str, resolution: int, purpose: str, number: int) -> Tensor:
    """One picture, uint8 [H, W, 3], by the pipeline's own call; its noise is a function of (purpose, seed, number)."""
    known = inspect.signature(type(family.pipe).__call__).parameters
    own = dict(family.sample_options)
    if settings.guidance is not None:
        own["guidance_scale"] = settings.guidance
    with quiet():
        found = family.pipe(
            prompt,
            num_inference_steps=settings.sample_steps,
            height=resolution,
            width=resolution,
            generator=generator(f"pipeline {purpose}", settings.seed, number),
            output_type="np",
            **{name: value for name, value in own.items() if name in known},
        ).images[0]
    return torch.from_numpy((np.asarray(found) * 255).round().clip(0, 255).astype(np.uint8))


def png(picture: Tensor) -> bytes:
    """A picture, uint8 [H, W, 3], as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture.numpy()).save(file, format="PNG")
    return file.getvalue()


def class_pictures(family: Family, settings: PipelineSettings, resolution: int, folder: Path, stopping: Callable[[], bool]) -> None:
    """Draws what ``folder`` lacks of `class_images` pictures of the class, with the untrained pipeline.

    Raises Abandoned where it is asked to stop; what is drawn stays.
    """
    assert settings.class_prompt is not None
    progress = Steps("pictures of the class", settings.class_images)
    for number in range(settings.class_images):
        path = folder / f"{number:05d}.png"
        if not path.exists():
            if stopping():
                raise Abandoned("stopped while pictures of the class were drawn; what is done is in the cache: start the same again")
            write_bytes(png(draw(family, settings, settings.class_prompt, resolution, "class", number)), path)
        progress.step()
