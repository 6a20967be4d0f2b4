"""kohya's file of a U-Net's adapter, for A1111, Forge and ComfyUI too: underscores in names, SDXL's blocks by Stability's names."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from loralith.diffusion.peft_adapter import module_shapes
from loralith.formats.adapter_file import KOHYA_PREFIX, Adapter, sgm_blocks, sgm_name
from loralith.formats.checkpoint import write_tensors

__all__ = ["kohya_tensors", "write_kohya"]

HEADER = {"ss_network_module": "networks.lora"}


def kohya_tensors(adapter: Adapter, unet: nn.Module, *, stability_names: bool) -> dict[str, Tensor]:
    """A, B and alpha under kohya's names; rsLoRA's scale becomes an alpha of that scale, since kohya divides by the rank."""
    blocks = sgm_blocks(set(module_shapes(unet))) if stability_names else {}
    tensors: dict[str, Tensor] = {}
    for name, layer in adapter.layers.items():
        key = KOHYA_PREFIX + sgm_name(name, blocks).replace(".", "_")
        alpha = layer.alpha * math.sqrt(layer.rank) if adapter.rslora else layer.alpha
        tensors |= {f"{key}.lora_down.weight": layer.a, f"{key}.lora_up.weight": layer.b, f"{key}.alpha": torch.tensor(float(alpha))}
    return tensors


def write_kohya(adapter: Adapter, unet: nn.Module, path: Path, *, stability_names: bool) -> None:
    """Writes the file, whole or not at all. ``stability_names``: of blocks, as kohya has them for SDXL."""
    write_tensors(kohya_tensors(adapter, unet, stability_names=stability_names), path, HEADER)
