"""U-Nets that can be planned by name, as their published configurations have them, and what one image feeds them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loralith.errors import LoralithError
from loralith.files import FileError, read_json

__all__ = ["MODELS", "Source", "build_unet", "find_model", "read_unet_config"]

UNET = "UNet2DConditionModel"

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


@dataclass(frozen=True)
class Source:
    """A U-Net's name, its diffusers configuration, the number of tokens of a prompt, and the file that the configuration is from."""

    name: str
    config: Mapping[str, Any]
    prompt: int = 77
    file: Path | None = None


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


def read_unet_config(path: Path) -> dict[str, Any]:
    """A U-Net's configuration of diffusers. Settings that the U-Net does not have are left out with a warning, as diffusers' loader does.

    Raises LoralithError for a file that cannot be read or is of something else.
    """
    from diffusers import UNet2DConditionModel

    try:
        config = read_json(path)
    except FileError as error:
        raise LoralithError(f"{path} is not a U-Net's configuration: {error.reason}") from None
    if not isinstance(config, dict):
        raise LoralithError(f"{path} is not a U-Net's configuration: it is no JSON object")
    kind = config.get("_class_name", UNET)
    if kind != UNET:
        raise LoralithError(f"{path} is of a {kind}; a {UNET} is what can be used here")
    known = inspect.signature(UNet2DConditionModel.__init__).parameters
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    ignored = [name for name in settings if name not in known]
    if ignored:
        warnings.warn(f"{path}: a {UNET} has no {', '.join(ignored)}; ignored, as diffusers does", stacklevel=2)
    return {name: value for name, value in settings.items() if name in known}


def build_unet(config: Mapping[str, Any], source: object) -> Any:
    """The U-Net with torch's first weights, on torch's device of the moment. Raises LoralithError that names ``source`` where diffusers
    cannot build it."""
    from diffusers import UNet2DConditionModel

    try:
        return UNet2DConditionModel(**config)
    except (ArithmeticError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise LoralithError(f"{source} does not make a U-Net: {error}") from error
