"""Stability's names of a U-Net's blocks, which kohya keeps for SDXL and ComfyUI for every U-Net, beside diffusers' own."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["sgm_blocks", "sgm_name"]

SGM_RESNET = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
SGM_NAMES = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}


def sgm_blocks(known: set[str]) -> dict[str, str]:
    """Stability's names of a U-Net's blocks, which kohya keeps for SDXL, by diffusers' own."""
    layers = len({name for name in known if re.fullmatch(r"down_blocks\.0\.resnets\.\d+", name)})
    blocks = dict(SGM_NAMES)
    for name in known:
        if found := re.fullmatch(r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)", name):
            blocks[name] = f"input_blocks.{1 + int(found[1]) * (layers + 1) + int(found[3])}.{int(found[2] == 'attentions')}"
        elif found := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv", name):
            blocks[name] = f"input_blocks.{(int(found[1]) + 1) * (layers + 1)}.0.op"
        elif found := re.fullmatch(r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)", name):
            blocks[name] = f"output_blocks.{int(found[1]) * (layers + 1) + int(found[3])}.{int(found[2] == 'attentions')}"
        elif found := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", name):
            place = 2 if f"up_blocks.{found[1]}.attentions.0" in known else 1
            blocks[name] = f"output_blocks.{int(found[1]) * (layers + 1) + layers}.{place}.conv"
    return blocks


def sgm_name(name: str, blocks: Mapping[str, str]) -> str:
    """A module's name with Stability's names of blocks."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        block = blocks.get(".".join(parts[:length]))
        if block is not None:
            rest = ".".join(parts[length:])
            rest = SGM_RESNET.get(rest, rest) if "resnets" in parts[:length] else rest
            return f"{block}.{rest}" if rest else block
    return name
