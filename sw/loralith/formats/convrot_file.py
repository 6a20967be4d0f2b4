"""Base models in INT8 with rotated channels, as ComfyUI keeps them ("INT8 ConvRot"): their quantized layers, bit for bit.

A quantized layer NAME is three tensors: `NAME.weight`, int8 [O, I]; `NAME.weight_scale`, float32 [O] or [O, 1], or one for all rows; and
`NAME.comfy_quant`, bytes of a JSON object: `{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 256}`.
W R = scale * weight, R as in docs/numerics.md, section 1, with blocks of `convrot_groupsize` channels. Layers have the names of the model's
own code, before them `model.diffusion_model.` or `diffusion_model.` in some files; other tensors are not quantized.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from loralith.errors import LoralithError
from loralith.formats.transformer_names import own_names

__all__ = ["ConvrotError", "ConvrotWeight", "read_convrot"]

QUANT, SCALE, WEIGHT = ".comfy_quant", ".weight_scale", ".weight"
FORMAT = "int8_tensorwise"
PREFIXES = ("model.diffusion_model.", "diffusion_model.")
GROUPS = (4, 16, 64, 256)


class ConvrotError(LoralithError):
    """A file that is damaged, of another format or of another model; the message names the tensor."""


@dataclass(frozen=True)
class ConvrotWeight:
    """W R of one layer: ``q`` int8 [O, I], ``scale`` float32 [O]; ``block`` channels are rotated together, 1 where none are."""

    q: Tensor
    scale: Tensor
    block: int


def read_convrot(path: Path, modules: Mapping[str, tuple[int, ...]]) -> dict[str, ConvrotWeight]:
    """The quantized layers of a file by the names of the model's modules; a fused layer's rows are those of its parts.

    ``modules``: shapes of the weights of the model's modules by name. Raises ConvrotError that names the file and the tensor: for a file
    that cannot be read or has no such layer, another format, types, shapes or block, scales that are not positive, and layers that the
    model does not have.
    """
    known = {name: (name,) for name in modules} | own_names(set(modules))
    found: dict[str, ConvrotWeight] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for key in sorted(name for name in file.keys() if name.endswith(QUANT)):  # noqa: SIM118
                own = key.removesuffix(QUANT)
                one = _layer(file, own, path)
                name = next((own.removeprefix(prefix) for prefix in PREFIXES if own.startswith(prefix)), own)
                if name not in known:
                    raise ConvrotError(f"{path} has the layer {own}, which this model does not have")
                _place(found, known[name], one, own, modules, path)
    except (OSError, SafetensorError) as error:
        raise ConvrotError(f"{path} cannot be read: {error}") from error
    if not found:
        raise ConvrotError(f"{path} has no layer with {QUANT}; an INT8 file of ComfyUI's has")
    return found


def _layer(file: Any, own: str, path: Path) -> ConvrotWeight:
    names = set(file.keys())
    for end in (WEIGHT, SCALE):
        if own + end not in names:
            raise ConvrotError(f"{path} lacks the tensor {own}{end}")
    try:
        config = json.loads(bytes(file.get_tensor(own + QUANT).flatten().tolist()))
    except ValueError as error:
        raise ConvrotError(f"{path}: {own}{QUANT} is no JSON: {error}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ConvrotError(f"{path}: {own} has the format {config.get('format') if isinstance(config, dict) else config}; {FORMAT} is read")
    block = config.get("convrot_groupsize", 256) if config.get("convrot") else 1
    q, scale = file.get_tensor(own + WEIGHT), file.get_tensor(own + SCALE)
    if q.dtype is not torch.int8 or q.ndim != 2:
        raise ConvrotError(f"{path}: {own}{WEIGHT} must be int8 [O, I], not {str(q.dtype).removeprefix('torch.')} {list(q.shape)}")
    if block != 1 and (block not in GROUPS or q.shape[1] % block):
        raise ConvrotError(f"{path}: {own} has blocks of {block!r}; 4, 16, 64 or 256 that divide its {q.shape[1]} channels are read")
    if scale.numel() not in (1, len(q)) or not scale.dtype.is_floating_point:
        raise ConvrotError(f"{path}: {own}{SCALE} must be one number or one for each of {len(q)} rows, not {list(scale.shape)}")
    scale = scale.float().reshape(-1)
    if not bool(((scale >= torch.finfo(torch.float32).tiny) & scale.isfinite()).all()):
        raise ConvrotError(f"{path}: {own}{SCALE} must be positive and finite")
    return ConvrotWeight(q, scale.expand(len(q)).contiguous(), block)


def _place(
    found: dict[str, ConvrotWeight],
    parts: tuple[str, ...],
    one: ConvrotWeight,
    own: str,
    modules: Mapping[str, tuple[int, ...]],
    path: Path,
) -> None:
    """Gives each part its rows."""
    shapes = [modules[part] for part in parts]
    if any(len(shape) != 2 or shape[1] != one.q.shape[1] for shape in shapes) or sum(shape[0] for shape in shapes) != len(one.q):
        raise ConvrotError(f"{path}: {own} is {list(one.q.shape)}, and the model has {', '.join(map(str, map(list, shapes)))}")
    row = 0
    for part, shape in zip(parts, shapes, strict=True):
        rows = slice(row, row + shape[0])
        found[part] = ConvrotWeight(one.q[rows].contiguous(), one.scale[rows].contiguous(), one.block)
        row += shape[0]
