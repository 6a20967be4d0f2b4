"""Denoisers that can be planned by name, as their published configurations have them, and what one image feeds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loralith.errors import LoralithError
from loralith.formats.unet_config import UNET, Source, read_model_config

__all__ = ["MODELS", "TRANSFORMERS", "find_model"]

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

SD3: dict[str, Any] = {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
PIXART: dict[str, Any] = {"norm_type": "ada_norm_single", "caption_channels": 4096, "use_additional_conditions": False}
TRANSFORMERS = {
    name: Source(name, config, kind=kind)
    for name, kind, config in (
        ("flux", "FluxTransformer2DModel", {"guidance_embeds": True}),
        ("flux2", "Flux2Transformer2DModel", {}),
        ("sd3", "SD3Transformer2DModel", SD3),
        ("sana", "SanaTransformer2DModel", {}),
        ("qwen-image", "QwenImageTransformer2DModel", {}),
        ("wan", "WanTransformer3DModel", {}),
        ("ltx", "LTXVideoTransformer3DModel", {}),
        ("z-image", "ZImageTransformer2DModel", {}),
        ("pixart", "PixArtTransformer2DModel", PIXART),
    )
}
"""FLUX.1-dev, FLUX.2-dev, Stable Diffusion 3 medium, Sana 1.6B, Qwen-Image, Wan 2.1 14B, LTX-Video 2B, Z-Image, PixArt-Sigma: diffusers'
classes with what the published configuration changes."""


def find_model(name: str, *, transformers: bool = False) -> Source:
    """The project's own by "small", one of `MODELS` by its name, or a folder of diffusers (a U-Net's, or a pipeline's with unet/).

    ``transformers``: those of `TRANSFORMERS` too, and folders of their classes (or a pipeline's with transformer/). Raises LoralithError
    for anything else.
    """
    named = MODELS | TRANSFORMERS if transformers else MODELS
    if name in named:
        return named[name]
    if name == "small":
        from loralith.diffusion.prompt import PROMPT_TOKENS
        from loralith.diffusion.unet import UNET_CONFIG

        return Source("small", UNET_CONFIG, PROMPT_TOKENS)
    path = Path(name)
    kinds = (UNET, *(source.kind for source in TRANSFORMERS.values())) if transformers else (UNET,)
    folders = ("unet", "transformer") if transformers else ("unet",)
    places = [path] if path.suffix == ".json" else [path / "config.json", *(path / folder / "config.json" for folder in folders)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        what = "a U-Net's or a transformer's" if transformers else "a U-Net's"
        raise LoralithError(f"the model must be small, {', '.join(named)}, or a folder with {what} config.json, not {name!r}")
    kind, config = read_model_config(found, kinds)
    return Source(path.name, config, file=found, kind=kind)
