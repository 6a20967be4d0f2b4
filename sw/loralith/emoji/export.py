"""The pipeline's folder, as stock diffusers reads it."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from loralith.emoji.model_stage import Model
from loralith.emoji.models import new_scheduler, parameters_of
from loralith.emoji.settings import BYTES_AT_MOST, PARAMETERS_AT_MOST
from loralith.errors import LoralithError
from loralith.files import check_output_folder, read_json, write_json, write_text

ABOUT = "training.json"
INDEX = "model_index.json"
CARD = """# loralith's emoji pipeline

A small text-to-image pipeline of 64 x 64 pixels (VAE, CLIP text encoder with a vocabulary of its own, U-Net), trained by `loralith emoji
train` on Noto's emoji on coloured backgrounds. The weights are under the Apache License 2.0, as Noto's pictures are; names of emoji are
from Unicode CLDR by way of emojibase-data (MIT), the table of emoji from emoji-data (MIT).

Prompts: `a photo of a red apple on a blue background`, `a small owl in the top left`, `a black and white photo of a cat`, `a star and a
key on a white background`, `an upside down book`. Guidance of 2 to 5.
"""


def assemble(vae: AutoencoderKL, model: Model) -> StableDiffusionPipeline:
    """The stock pipeline. Raises LoralithError where it has more parameters than it may have."""
    count = parameters_of(vae, model.text_encoder, model.unet)
    if count > PARAMETERS_AT_MOST:
        raise LoralithError(f"the pipeline has {count} parameters; it may have {PARAMETERS_AT_MOST}: choose smaller sizes")
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=new_scheduler(),  # type: ignore[arg-type]
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )


def export(vae: AutoencoderKL, model: Model, folder: Path, about: Mapping[str, Any]) -> int:
    """Writes the pipeline with FP16 weights, in place of what was exported there before; returns its bytes.

    about: written as training.json. Raises LoralithError for a folder of other files, and where the result is larger than it may be.
    """
    check_output_folder(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / INDEX).is_file():
        raise LoralithError(f"output {folder} holds other files than a pipeline; give a new or empty folder")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    pipeline = assemble(vae, model)
    pipeline.to(torch.float16)
    pipeline.save_pretrained(part)
    config = part / "text_encoder" / "config.json"
    write_json({**read_json(config), "dtype": "float32"}, config)  # transformers loads this type; diffusers loads FP32 by itself
    write_text(CARD, part / "README.md")
    write_json(dict(about), part / ABOUT)
    for path in part.rglob("*.safetensors"):
        path.chmod((part / ABOUT).stat().st_mode)  # safetensors keeps its files to their owner
    total = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
    if total > BYTES_AT_MOST:
        shutil.rmtree(part)
        raise LoralithError(f"the pipeline has {total} bytes; it may have {BYTES_AT_MOST}: choose smaller sizes")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return total
