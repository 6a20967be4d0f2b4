"""Names of FLUX's and SD3's layers in the models' own code, which kohya and ComfyUI keep, beside diffusers'.

Both fuse what diffusers has apart: queries, keys and values are the rows of one layer, in FLUX's single blocks those of the feed-forward
network's first layer too. An adapter of a fused layer is one of each part, with the same A and the part's rows of B; adapters of the parts
are one of the fused layer, with their A below each other and their B on the diagonal of one.

The last modulation, and in SD3 the last context block's, gives shift and scale in the models' own code, scale and shift in diffusers: the
halves of B, and of DoRA's magnitudes, change places.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["fused", "halves_exchanged", "own_names", "split_rows"]

FLUX_DOUBLE = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
}
FLUX_SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}
FLUX_ELSEWHERE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
SD3_BLOCK = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn.proj": ("attn.to_out.0",),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "x_block.adaLN_modulation.1": ("norm1.linear",),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "context_block.attn.proj": ("attn.to_add_out",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
    "context_block.adaLN_modulation.1": ("norm1_context.linear",),
}
SD3_ELSEWHERE = {
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}


def own_names(known: set[str]) -> dict[str, tuple[str, ...]]:
    """Diffusers' names of the parts of each layer, by the name of the model's own code; {} for a model that is neither FLUX nor SD3.

    ``known``: diffusers' names of the model's modules.
    """
    blocks = sorted({int(found[1]) for name in known if (found := re.match(r"transformer_blocks\.(\d+)\.", name))})
    singles = sorted({int(found[1]) for name in known if (found := re.match(r"single_transformer_blocks\.(\d+)\.proj_mlp$", name))})
    names: dict[str, tuple[str, ...]] = {}
    if singles and "time_text_embed.timestep_embedder.linear_1" in known:
        for block in blocks:
            names |= _block(f"double_blocks.{block}", f"transformer_blocks.{block}", FLUX_DOUBLE)
        for block in singles:
            names |= _block(f"single_blocks.{block}", f"single_transformer_blocks.{block}", FLUX_SINGLE)
        names |= {own: (name,) for own, name in FLUX_ELSEWHERE.items()}
    elif blocks and {"pos_embed.proj", "transformer_blocks.0.attn.add_q_proj"} <= known:
        for block in blocks:
            names |= _block(f"joint_blocks.{block}", f"transformer_blocks.{block}", SD3_BLOCK)
        names |= {own: (name,) for own, name in SD3_ELSEWHERE.items()}
    return {own: parts for own, parts in names.items() if set(parts) <= known}


def halves_exchanged(name: str, known: set[str]) -> bool:
    """Whether diffusers has the two halves of this layer's outputs in the other order; ``name`` and ``known`` are diffusers'."""
    if name == "norm_out.linear":
        return bool(own_names(known))
    found = re.fullmatch(r"transformer_blocks\.(\d+)\.norm1_context\.linear", name)
    return found is not None and "pos_embed.proj" in known and f"transformer_blocks.{int(found[1]) + 1}.norm1_context.linear" not in known


def _block(own: str, name: str, table: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {f"{own}.{layer}": tuple(f"{name}.{part}" for part in parts) for layer, parts in table.items()}


def split_rows(b: Tensor, rows: Sequence[int]) -> list[Tensor] | None:
    """B of each part, from that of a fused layer; None where the parts' ``rows`` are not its rows."""
    return [part.contiguous() for part in torch.split(b, list(rows))] if b.ndim and sum(rows) == len(b) else None


def fused(parts: Sequence[tuple[Tensor, Tensor]], rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(A, B) of a fused layer from (A, B) of its parts, all of one scale and type, with ``rows`` outputs each.

    Parts of the same A, as `split_rows` leaves them, share it; others have ranks that add up.
    """
    first = parts[0][0]
    if all(a.shape == first.shape and torch.equal(a, first) for a, _ in parts):
        return first, torch.cat([b for _, b in parts])
    b, row, column = first.new_zeros(sum(rows), sum(len(a) for a, _ in parts)), 0, 0
    for (a, own), count in zip(parts, rows, strict=True):
        b[row : row + count, column : column + len(a)] = own
        row, column = row + count, column + len(a)
    return torch.cat([a for a, _ in parts]), b
