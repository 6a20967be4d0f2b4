"""Masks of attention in every form that diffusers' processors and torch's scaled_dot_product_attention take, as one."""

from __future__ import annotations

import torch
from torch import Tensor

from loralith.mapping.select import AttachError

__all__ = ["additive"]


def additive(mask: Tensor, name: str, batch: int, heads: int, queries: int, keys: int) -> Tensor:
    """What is added to scaled scores: float32 [batch * heads, 1 or queries, keys].

    ``mask``: bool (True keeps a key) or floating point (added), of shape [B, keys], [B, 1 or queries, keys] or
    [B, 1 or heads, 1 or queries, keys] with B of 1, ``batch`` or batch * heads, image by image.

    Raises AttachError, which begins with ``name``, for other types and shapes, for a mask that is trained (its gradient would be lost), and
    where a query has no key left.
    """
    if mask.dtype is not torch.bool and not mask.is_floating_point():
        raise AttachError(f"{name}: its mask must be bool (True keeps) or floating point (added), not {mask.dtype}")
    if mask.requires_grad and torch.is_grad_enabled():
        raise AttachError(
            f"{name}: its mask needs a gradient, which the device does not compute; leave the layer in torch, or detach the mask"
        )
    four = {2: (slice(None), None, None), 3: (slice(None), None), 4: ()}.get(mask.dim())
    shaped = mask if four is None else mask[four]
    if four is not None and heads > 1 and shaped.shape[:2] == (batch * heads, 1):
        shaped = shaped.reshape(batch, heads, *shaped.shape[2:])
    wanted = ((1, batch), (1, heads), (1, queries), (keys,))
    if four is None or any(size not in sizes for size, sizes in zip(shaped.shape, wanted, strict=True)):
        shapes = (
            f"[B, {keys}], [B, 1 or {queries}, {keys}] or [B, 1 or {heads}, 1 or {queries}, {keys}] with B of 1, {batch} or {batch * heads}"
        )
        raise AttachError(f"{name}: its mask must have the shape {shapes}, not {list(mask.shape)}")
    shaped = shaped.detach()
    if mask.dtype is torch.bool:
        shaped = torch.zeros(shaped.shape, device=mask.device).masked_fill(~shaped, -torch.inf)
    if not shaped.is_meta and bool((shaped == -torch.inf).all(dim=-1).any()):
        raise AttachError(f"{name}: its mask leaves a query without any key; keep at least one for each, whose result may be ignored")
    return shaped.float().expand(batch, heads, -1, -1).reshape(batch * heads, -1, keys)
