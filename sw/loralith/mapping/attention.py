"""Attention on a device: its products there, softmax and its gradient in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from loralith.lora.attention import AttentionProducts, Heads
from loralith.mapping.attachment import Mapped, Pending, float32
from loralith.mapping.masks import additive
from loralith.mapping.select import AttachError, Choice
from loralith.spec.scheme import SchemeError

if TYPE_CHECKING:
    from loralith.mapping.attachment import Attachment

__all__ = ["Attend", "MappedAttention", "Processor", "exponentials", "score_gradient"]

Attend = Callable[[Tensor, Tensor, Tensor, float, Tensor | None], Tensor]
"""(q [n, Tq, d], k, v [n, Tk, d], scale, mask or None) to softmax(scale q k^T + mask) v, [n, Tq, d]."""


class Processor:
    """diffusers' AttnProcessor and AttnProcessor2_0 with their two products and their softmax given as one function.

    ``name``: of the module, for errors. ``original``: the module's own processor, which decides the scale of the scores.
    """

    def __init__(self, attend: Attend, name: str, original: object) -> None:
        self.attend, self.name = attend, name
        self.torchs_scale = isinstance(original, AttnProcessor2_0)  # which does not look at the module's

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        residual, shape = hidden_states, hidden_states.shape
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if len(shape) == 4:
            hidden_states = hidden_states.view(shape[0], shape[1], -1).transpose(1, 2)
        if attention_mask is not None:
            keys = (hidden_states if encoder_hidden_states is None else encoder_hidden_states).shape[1]
            attention_mask = additive(attention_mask, self.name, len(hidden_states), attn.heads, hidden_states.shape[1], keys)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        if encoder_hidden_states is None:
            encoder_hidden_states = hidden_states
        elif attn.norm_cross:
            encoder_hidden_states = attn.norm_encoder_hidden_states(encoder_hidden_states)
        query, key, value = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        query, key, value = (attn.head_to_batch_dim(tensor) for tensor in (query, key, value))
        scale = query.shape[-1] ** -0.5 if self.torchs_scale else attn.scale
        hidden_states = attn.batch_to_head_dim(self.attend(query, key, value, scale, attention_mask))
        hidden_states = attn.to_out[1](attn.to_out[0](hidden_states))
        if len(shape) == 4:
            hidden_states = hidden_states.transpose(-1, -2).reshape(shape)
        if attn.residual_connection:
            hidden_states = hidden_states + residual
        return hidden_states / attn.rescale_output_factor


def exponentials(s: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """exp(z - its row's largest) of z = s scale + mask: softmax before rows are divided by their sums. float32 [n, Tq, Tk]."""
    masks = None if mask is None else mask.expand_as(s)
    result = torch.empty_like(s)
    for n, z in enumerate(result):  # one head at a time: the caches hold it
        torch.mul(s[n], scale, out=z)
        if masks is not None:
            z += masks[n]
        z -= z.amax(dim=-1, keepdim=True)
        z.exp_()
    return result


def score_gradient(p: Tensor, dp: Tensor, scale: float) -> Tensor:
    """dS from P and dP [n, Tq, Tk]. float32."""
    result = torch.empty_like(p)
    for ds, p_head, dp_head in zip(result, p, dp, strict=True):
        torch.sub(dp_head, (p_head * dp_head).sum(dim=-1, keepdim=True), out=ds)
        ds *= p_head
        ds *= scale
    return result


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, layer: MappedAttention, keep: bool) -> Tensor:  # type: ignore[override]
        need_q, need_k, need_v = (keep and need for need in ctx.needs_input_grad[:3])
        # dQ reads K, dK reads Q, both read P and V; dV reads P.
        names = ("K" if need_q else "") + ("Q" if need_k else "") + ("V" if need_q or need_k else "")
        heads, o = layer.forward(q, k, v, scale, mask, names + ("P" if names or need_v else ""))
        ctx.layer, ctx.heads, ctx.scale = layer, heads, scale
        return o

    @staticmethod
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        need_q, need_k, need_v = ctx.needs_input_grad[:3]
        return *ctx.layer.backward(ctx.heads, do, ctx.scale, need_q, need_k, need_v), None, None, None, None


class MappedAttention(Mapped):
    """The products of an attention module. Its projections are modules of their own."""

    def __init__(self, attachment: Attachment, index: int, choice: Choice) -> None:
        super().__init__(attachment, index, choice)
        assert isinstance(choice.module, Attention)
        self.module = choice.module
        self.original = choice.module.processor
        try:
            self.products = AttentionProducts(attachment.device, attachment.scheme, index)
        except SchemeError as error:
            raise AttachError(f"{self.name}: {error}") from None
        if attachment.observer:
            attachment.observer.frozen(index, self.name, choice.module, attachment.scheme)

    def install(self) -> None:
        def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
            return _Attend.apply(q, k, v, scale, mask, self, torch.is_grad_enabled())  # type: ignore[return-value]

        self.module.processor = Processor(attend, self.name, self.original)  # type: ignore[assignment]

    def remove(self) -> None:
        self.module.processor = self.original

    def close(self) -> None:
        self.products.close()

    def weight_bytes(self) -> tuple[int, int]:
        return 0, 0

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, names: str) -> tuple[Heads, Tensor]:
        """What the backward pass needs, and O. ``names``: what it reads, letters of QKVP."""
        owner, products = self.attachment, self.products
        heads = Heads(owner.step, self.call())
        qkv = float32(q), float32(k), float32(v)
        try:
            with self.use():
                scores = products.scores(qkv[0], qkv[1], heads)
            e = exponentials(torch.from_numpy(scores.s), scale, None if mask is None else mask.cpu()).numpy()
            with self.use():
                p, values = products.values(e, qkv[2], heads)
        except BaseException:
            products.release(heads)
            raise
        if owner.observer:
            owner.observer.scores(self.index, qkv[0], qkv[1], heads.step, heads.call, scores)
            owner.observer.values(self.index, e, qkv[2], heads.step, heads.call, p, values)
        products.keep(heads, names)
        if names:
            owner.keep(heads, Pending(self, lambda: products.release(heads), *products.saved_bytes(heads)))
        return heads, torch.from_numpy(values.value).to(q.dtype)

    def backward(self, heads: Heads, do: Tensor, scale: float, need_q: bool, need_k: bool, need_v: bool) -> tuple[Tensor | None, ...]:
        """dQ, dK and dV where they are asked for."""
        owner, products = self.attachment, self.products
        owner.taken(heads, self)
        array = float32(do)
        results: list[Tensor | None] = [None, None, None]

        def seen(place: int, name: str, inputs: dict[str, Any], values: Any) -> None:
            if owner.observer:
                owner.observer.attention_backward(self.index, name, inputs, values, heads.step, heads.call)
            if place < 3:
                results[place] = torch.from_numpy(values.value).to(do.dtype)

        try:
            with self.use():
                if need_v:
                    seen(2, "dV", {"dO": array}, products.value_gradient(array, heads))
                if need_q or need_k:
                    dp = products.probability_gradient(array, heads)
                    seen(3, "dP", {"dO": array}, dp)
                    p = torch.from_numpy(products.probabilities(heads))
                    ds = score_gradient(p, torch.from_numpy(dp.value), scale).numpy()
                    _, dq, dk = products.score_gradients(ds, heads, need_q=need_q, need_k=need_k)
                    for place, name, values in ((0, "dQ", dq), (1, "dK", dk)):
                        if values is not None:
                            seen(place, name, {"dS": ds}, values)
        finally:
            products.release(heads)
        return tuple(results)
