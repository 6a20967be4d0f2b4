"""kohya's adapter files, which ComfyUI, A1111 and Forge read too, and ComfyUI's own: read and written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from loralith.formats.adapter_checks import AdapterError
from loralith.formats.adapter_layers import (
    COMFY_PREFIX,
    DORA_SCALE,
    KOHYA_ENDS,
    KOHYA_PREFIX,
    LYCORIS_PREFIX,
    PEFT_ENDS,
    Adapter,
    Layer,
    found_layers,
    once,
)
from loralith.formats.checkpoint import write_tensors
from loralith.formats.stability_names import sgm_blocks, sgm_name
from loralith.formats.transformer_names import fused, halves_exchanged, own_names, split_rows

__all__ = ["kohya_adapter", "kohya_tensors", "short_name", "short_names", "write_kohya"]


def kohya_tensors(adapter: Adapter, known: set[str], *, stability_names: bool) -> dict[str, Tensor]:
    """A, B, alpha and DoRA's magnitudes [O, 1, ...] under kohya's names; rsLoRA's scale becomes an alpha of that scale, since kohya divides
    by the rank. ``known``: names of the model's modules. Raises AdapterError for parts of one fused layer that kohya's file cannot hold."""
    own = own_names(known)
    if own:
        return _fused_tensors(_own_order(adapter, known), own)
    blocks = sgm_blocks(known) if stability_names else {}
    tensors: dict[str, Tensor] = {}
    for name, layer in adapter.layers.items():
        key = KOHYA_PREFIX + sgm_name(name, blocks).replace(".", "_")
        alpha = layer.alpha * math.sqrt(layer.rank) if adapter.rslora else layer.alpha
        tensors |= {f"{key}.lora_down.weight": layer.a, f"{key}.lora_up.weight": layer.b, f"{key}.alpha": torch.tensor(float(alpha))}
        if layer.magnitude is not None:
            tensors[key + DORA_SCALE] = layer.magnitude.reshape(-1, *[1] * (layer.a.ndim - 1))
    return tensors


def _own_order(adapter: Adapter, known: set[str]) -> Adapter:
    """With the halves of layers that diffusers has in the other order exchanged; twice is as before."""
    changed = {name: _exchanged(layer) for name, layer in adapter.layers.items() if halves_exchanged(name, known)}
    return replace(adapter, layers={**adapter.layers, **changed})


def _exchanged(layer: Layer) -> Layer:
    magnitude = layer.magnitude
    if magnitude is not None:
        axis = 0 if magnitude.shape[0] > 1 else 1
        magnitude = magnitude.roll(magnitude.shape[axis] // 2, axis)
    return replace(layer, b=layer.b.roll(len(layer.b) // 2, 0), magnitude=magnitude)


def _fused_tensors(adapter: Adapter, own: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """`kohya_tensors` of FLUX or SD3."""
    tensors: dict[str, Tensor] = {}
    waiting = dict(adapter.layers)
    for key, parts in own.items():
        there = [waiting.pop(part, None) for part in parts]
        layers = [layer for layer in there if layer is not None]
        if not layers:
            continue
        if adapter.dora and len(parts) > 1:
            raise AdapterError(f"DoRA of {', '.join(parts)} has no place in kohya's fused layer {key}; write PEFT's or diffusers' files")
        scales = {layer.alpha / (math.sqrt(layer.rank) if adapter.rslora else layer.rank) for layer in layers}
        if len(scales) > 1 or len({layer.a.dtype for layer in layers}) > 1:
            raise AdapterError(f"{', '.join(parts)} have other scales or types, and kohya's {key} is one layer; give them the same")
        if len(there) > 1 and None in there:
            raise AdapterError(f"kohya's {key} is all of {', '.join(parts)}, and not all have an adapter; add it to the others")
        rows = [layer.b.shape[0] for layer in layers]
        a, b = fused([(layer.a, layer.b) for layer in layers], rows)
        name = KOHYA_PREFIX + key.replace(".", "_")
        alpha = torch.tensor(float(scales.pop() * a.shape[0]))
        tensors |= {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b, f"{name}.alpha": alpha}
        if layers[0].magnitude is not None:
            tensors[name + DORA_SCALE] = layers[0].magnitude.reshape(-1, *[1] * (a.ndim - 1))
    if waiting:
        raise AdapterError(f"kohya has no name for {', '.join(sorted(waiting))}; write PEFT's or diffusers' files")
    return tensors


def write_kohya(
    adapter: Adapter | None,
    known: set[str],
    path: Path,
    *,
    stability_names: bool,
    beside: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """kohya's file of a U-Net's adapter, for A1111, Forge and ComfyUI too, whole or not at all. ``stability_names``: of blocks, as kohya
    has them for SDXL. ``beside``: tensors of the text encoders; ``adapter`` is None where there are these alone. ``metadata``: what else
    its header says, by default the adapter's."""
    tensors = dict(beside or {})
    if adapter is not None:
        tensors |= kohya_tensors(adapter, known, stability_names=stability_names)
    kept = metadata if metadata is not None else adapter.metadata if adapter else {}
    write_tensors(tensors, path, {"ss_network_module": "networks.lora", **kept})


def short_names(known: set[str]) -> dict[str, tuple[str, ...]]:
    """Modules, several for a fused layer, by the names of kohya and ComfyUI without their beginning, underscores for dots."""
    blocks, own = sgm_blocks(known), own_names(known)
    short = {sgm_name(name, blocks).replace(".", "_"): (name,) for name in known} | {name.replace(".", "_"): (name,) for name in known}
    return short | {name.replace(".", "_"): parts for name, parts in own.items()}


def short_name(key: str) -> str:
    """A layer's name in a file as `short_names` has it."""
    for prefix in (KOHYA_PREFIX, LYCORIS_PREFIX, COMFY_PREFIX):
        key = key.removeprefix(prefix)
    return key.replace(".", "_")


def kohya_adapter(tensors: Mapping[str, Tensor], modules: Mapping[str, tuple[int, ...]], path: Path) -> Adapter:
    """The adapter of a file's tensors under kohya's or ComfyUI's names; a fused layer's is one of each part, with the same A.

    ``modules``: shapes of the weights of the model's modules by name. Raises AdapterError, which names ``path`` and the layer, for layers
    that the model does not have, rows that are not its parts', DoRA of a fused layer, and layers that are there twice.
    """
    known = set(modules)
    short = short_names(known)
    layers, names = {}, {}
    for key, (a, b, alpha, magnitude) in found_layers(tensors, [KOHYA_ENDS, PEFT_ENDS], path).items():
        parts = short.get(short_name(key))
        if parts is None:
            raise AdapterError(f"{path} has the layer {key}, which this model does not have")
        scale = float(a.shape[0] if a.ndim else 0) if alpha is None else alpha
        if len(parts) == 1:
            names[key] = parts[0]
            layers[parts[0]] = Layer(a, b, scale, magnitude)
            continue
        rows = [modules[part][0] for part in parts]
        outputs = split_rows(b, rows)
        if outputs is None or magnitude is not None:
            what = (
                f"B of shape {list(b.shape)}; its parts have {rows} rows" if outputs is None else "DoRA's magnitudes, whose norm is of all"
            )
            raise AdapterError(f"{path}: {key} has {what}")
        for part, rows_of_part in zip(parts, outputs, strict=True):
            names[f"{key} ({part})"] = part
            layers[part] = Layer(a.clone(), rows_of_part, scale)
    once(names, path)
    return _own_order(Adapter(layers, False, str(path)), known)
