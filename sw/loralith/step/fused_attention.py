"""Fused attention as torch has it on a GPU, for counting memory alone: it keeps Q, K, V, O and one number for each row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["fused_attention"]


class _Fused(torch.autograd.Function):
    """Shapes alone: on the meta device nothing is computed."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1]))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, _, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class _Processor:
    """A diffusers attention processor."""

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **kwargs: Any) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        batch = len(hidden_states)
        q, k, v = (
            projection(x).view(batch, -1, attn.heads, projection.out_features // attn.heads)
            for projection, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        out = _Fused.apply(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        out = out.transpose(1, 2).reshape(batch, -1, attn.heads * out.shape[-1])  # type: ignore[union-attr]
        return attn.to_out[0](out)


def fused_attention(model: nn.Module) -> None:
    """Gives every attention of a diffusers ``model`` on the meta device the fused form."""
    from diffusers.models.attention_processor import Attention

    for module in model.modules():
        if isinstance(module, Attention):
            module.set_processor(_Processor())  # type: ignore[arg-type]
