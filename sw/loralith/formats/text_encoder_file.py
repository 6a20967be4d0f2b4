"""Adapters of a pipeline's text encoders, in the same files as the denoiser's or alone.

| tool | names |
|---|---|
| diffusers | text_encoder.NAME.lora_A.weight, text_encoder_2., text_encoder_3.; .lora_linear_layer.down.weight in old files |
| kohya | lora_te_NAME (one text encoder), lora_te1_ (CLIP-L), lora_te2_ (CLIP-G), lora_te3_ (T5) |
| ComfyUI | text_encoders.clip_l.transformer.NAME, .clip_h., .clip_g., .t5xxl. |

NAME of CLIP begins with `text_model.` in files, whatever the module of the transformers version is called.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from loralith.formats.adapter_checks import AdapterError
from loralith.formats.adapter_file import DIFFUSERS_HEADER, fitting, modern_name, named_adapter, plain_config
from loralith.formats.adapter_layers import DORA_SCALE, Adapter, once
from loralith.formats.adapter_tensors import AdapterTensors
from loralith.formats.kohya_file import kohya_adapter

__all__ = ["TextEncoder", "diffusers_text", "kohya_text", "module_names", "read_text_encoders"]

CLIP = "text_model."
NUMBERS: Mapping[str, int] = {"clip_l": 1, "clip_h": 1, "clip_g": 2, "t5xxl": 3}
"""kohya's, by ComfyUI's name of the text encoder."""


@dataclass(frozen=True)
class TextEncoder:
    """One of a pipeline. ``part``: its folder there, `text_encoder_2`. ``comfy``: a key of NUMBERS, "" for one that kohya and ComfyUI have
    no name for. ``shapes`` of its modules' weights, by the names of files. ``kind``: its class, by the name that transformers has.
    ``wrapped``: whether the names of its own modules begin with `text_model.` too. ``alone``: whether the pipeline has no other."""

    part: str
    comfy: str
    shapes: Mapping[str, tuple[int, ...]]
    kind: str
    wrapped: bool = True
    alone: bool = True

    def prefixes(self, others: Sequence[TextEncoder]) -> tuple[str, ...]:
        """What names of its tensors begin with; ``others``: all of the pipeline."""
        found = [f"{self.part}."]
        if self.comfy:
            number = NUMBERS[self.comfy]
            found += [f"text_encoders.{self.comfy}.transformer.", f"lora_te{number}_"]
            found += ["lora_te_"] if number == 1 or self.alone else []
            if self.comfy == "t5xxl" and all(other.comfy != "clip_g" for other in others):
                found.append("lora_te2_")  # OneTrainer's of FLUX
        return tuple(found)


def module_names(encoder: TextEncoder, adapter: Adapter) -> Adapter:
    """With the names of the encoder's own modules."""
    if encoder.wrapped:
        return adapter
    return replace(adapter, layers={name.removeprefix(CLIP): layer for name, layer in adapter.layers.items()})


def read_text_encoders(opened: AdapterTensors, encoders: Sequence[TextEncoder]) -> dict[str, Adapter]:
    """The adapters of ``encoders`` in a file, by part; {} where it has none.

    Raises AdapterError as `read_adapter` does, and for layers of a text encoder that the pipeline does not have.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    kohyas: set[str] = set()
    for name, tensor in opened.of_text_encoders().items():
        found = [(encoder.part, prefix) for encoder in encoders for prefix in encoder.prefixes(encoders) if name.startswith(prefix)]
        if not found:
            there = ", ".join(prefix for encoder in encoders for prefix in encoder.prefixes(encoders)) or "no text encoder"
            raise AdapterError(f"{opened.path} has {name}, of a text encoder that this pipeline does not have; it has {there}")
        part, prefix = found[0]
        short = name.removeprefix(prefix)
        if short in groups.setdefault(part, {}):
            raise AdapterError(f"{opened.path} has {short} of {part} twice")
        groups[part][short] = tensor
        if prefix != f"{part}.":
            kohyas.add(part)
    result = {}
    for encoder in encoders:
        tensors = groups.get(encoder.part)
        if tensors is None:
            continue
        by_kohya = encoder.part in kohyas
        adapter = kohya_adapter(tensors, encoder.shapes, opened.path) if by_kohya else _diffusers(tensors, opened, encoder)
        result[encoder.part] = fitting(adapter, encoder.shapes, opened.path)
    return result


def _diffusers(tensors: Mapping[str, Tensor], opened: AdapterTensors, encoder: TextEncoder) -> Adapter:
    config: dict[str, Any] | None = None
    if DIFFUSERS_HEADER in opened.header:
        try:
            told = json.loads(opened.header[DIFFUSERS_HEADER])
            start = f"{encoder.part}."
            config = {name.removeprefix(start): value for name, value in told.items() if name.startswith(start)} or None
        except (ValueError, AttributeError) as error:
            raise AdapterError(f"{opened.path} has a header that is no JSON object: {error}") from error
    names = {}
    for name in tensors:
        own = modern_name(re.sub(r"\.to_(q|k|v|out)_lora\.(down|up)\.weight$", r".\1_proj.lora.\2.weight", name))
        layer = own.partition(".lora_")[0].removesuffix(".alpha")
        names[name] = own if layer in encoder.shapes or CLIP + layer not in encoder.shapes else CLIP + own
    once(names, opened.path)
    return named_adapter({names[name]: tensor for name, tensor in tensors.items()}, config, opened.path)


# Writing.


def diffusers_text(adapters: Mapping[str, Adapter]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by diffusers' names, and the settings for its header, of the adapters by part.

    The header names layers without `text_model.`: stock diffusers looks for them in a module that begins with it or does not.
    """
    tensors: dict[str, Tensor] = {}
    settings: dict[str, Any] = {}
    for part, adapter in adapters.items():
        tensors |= adapter.tensors(f"{part}.")
        plain = replace(adapter, layers={name.removeprefix(CLIP): layer for name, layer in adapter.layers.items()})
        values = plain_config(plain.config())
        for name in ("rank_pattern", "alpha_pattern"):
            values[name] = {key.removeprefix("^"): value for key, value in values[name].items()}
        settings |= {f"{part}.{name}": value for name, value in values.items()}
    return tensors, settings


def kohya_text(adapters: Mapping[str, Adapter], encoders: Sequence[TextEncoder]) -> dict[str, Tensor]:
    """Tensors by kohya's names of the adapters by part. Raises AdapterError for an encoder that kohya has no name for."""
    tensors: dict[str, Tensor] = {}
    for encoder in encoders:
        adapter = adapters.get(encoder.part)
        if adapter is None:
            continue
        if not encoder.comfy:
            raise AdapterError(f"kohya has no name for {encoder.part}, a {encoder.kind}; write diffusers' file")
        prefix = "lora_te_" if encoder.alone else f"lora_te{NUMBERS[encoder.comfy]}_"
        for name, layer in adapter.layers.items():
            key = prefix + name.replace(".", "_")
            alpha = layer.alpha * math.sqrt(layer.rank) if adapter.rslora else layer.alpha
            tensors |= {f"{key}.lora_down.weight": layer.a, f"{key}.lora_up.weight": layer.b, f"{key}.alpha": torch.tensor(float(alpha))}
            if layer.magnitude is not None:
                tensors[key + DORA_SCALE] = layer.magnitude.reshape(-1, 1)
    return tensors
