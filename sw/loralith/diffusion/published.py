"""U-Nets that can be planned by name, as their published configurations have them, and what one image feeds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loralith.errors import LoralithError
from loralith.formats.unet_config import Source, read_unet_config

__all__ = ["MODELS", "find_model"]

SD15: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


MODELS = {"sd15": Source("sd15", SD15), "sdxl": Source("sdxl", SDXL)}
"""Stable Diffusion 1.5 at 512 x 512 and SDXL at 1024 x 1024."""


def find_model(name: str) -> Source:
    """The project's own by "small", one of `MODELS` by its name, or a folder of diffusers (a U-Net's, or a pipeline's with unet/).

    Raises LoralithError for anything else.
    """
    if name in MODELS:
        return MODELS[name]
    if name == "small":
        from loralith.diffusion.prompt import PROMPT_TOKENS
        from loralith.diffusion.unet import UNET_CONFIG

        return Source("small", UNET_CONFIG, PROMPT_TOKENS)
    path = Path(name)
    places = [path] if path.suffix == ".json" else [path / "config.json", path / "unet" / "config.json"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise LoralithError(f"the model must be small, {', '.join(MODELS)}, or a folder with a U-Net's config.json, not {name!r}")
    return Source(path.name, read_unet_config(found), file=found)
