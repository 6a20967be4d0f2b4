"""The text encoders of a pipeline, by name or folder, without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from loralith.diffusion.peft_adapter import module_shapes
from loralith.errors import LoralithError
from loralith.files import FileError, read_json
from loralith.formats.text_encoder_file import CLIP, TextEncoder

__all__ = ["encoder_class", "find_text_encoders"]

CLIP_L = {
    "model_type": "clip_text_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
CLIP_G = {"model_type": "clip_text_model", "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
CLIP_G |= {"num_attention_heads": 20, "projection_dim": 1280}
T5_XXL = {"model_type": "t5", "d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu"}
PUBLISHED: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "sd15": (("CLIPTextModel", CLIP_L),),
    "sdxl": (("CLIPTextModel", CLIP_L), ("CLIPTextModelWithProjection", CLIP_G)),
    "sd3": (("CLIPTextModelWithProjection", CLIP_L), ("CLIPTextModelWithProjection", CLIP_G), ("T5EncoderModel", T5_XXL)),
    "flux": (("CLIPTextModel", CLIP_L), ("T5EncoderModel", T5_XXL)),
}
"""Classes of transformers and configurations, in the order of `text_encoder`, `text_encoder_2` and `text_encoder_3`."""


def encoder_class(kind: str) -> type:
    """The class of transformers with this name."""
    import transformers

    return getattr(transformers, kind)


def find_text_encoders(name: str) -> list[TextEncoder]:
    """Of a published pipeline by name, or of a folder that diffusers' `save_pretrained` wrote; [] where there is none.

    Raises LoralithError for a configuration that transformers cannot build.
    """
    if name in PUBLISHED:
        return _described([(part, *one) for part, one in zip(_parts(3), PUBLISHED[name], strict=False)])
    path = Path(name)
    try:
        index = read_json(path / "model_index.json")
    except FileError:
        return []
    found = []
    for part in _parts(3):
        library, kind = (index.get(part) if isinstance(index, dict) else None) or (None, None)
        if library == "transformers" and (path / part / "config.json").is_file():
            found.append((part, kind, read_json(path / part / "config.json")))
    return _described(found)


def _parts(count: int) -> list[str]:
    return ["text_encoder", *(f"text_encoder_{number}" for number in range(2, count + 1))]


def _described(found: list[tuple[str, str, dict[str, Any]]]) -> list[TextEncoder]:
    encoders, clips = [], 0
    for part, kind, config in found:
        shapes = _shapes(part, kind, config)
        clip = kind.startswith("CLIPText")
        comfy = ("clip_h" if config.get("hidden_size") == 1024 else "clip_l", "clip_g")[clips] if clip and clips < 2 else ""
        comfy = "t5xxl" if kind == "T5EncoderModel" and len(found) > 1 else comfy
        clips += clip
        wrapped = not clip or any(name.startswith(CLIP) for name in shapes)
        named = shapes if wrapped else {CLIP + module: shape for module, shape in shapes.items() if module}
        encoders.append(TextEncoder(part, comfy, named, kind, wrapped, alone=len(found) == 1))
    return encoders


def _shapes(part: str, kind: str, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    from transformers import AutoConfig

    try:
        settings = {name: value for name, value in config.items() if name not in ("architectures", "transformers_version", "dtype")}
        with torch.device("meta"):
            model: Any = encoder_class(kind)(AutoConfig.for_model(**settings))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise LoralithError(f"{part} does not make a {kind}: {error}") from error
    return module_shapes(model)
