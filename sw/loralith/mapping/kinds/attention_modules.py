"""Attention on a device: its products there, softmax and its gradient in torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

from loralith.lora.attention import AttentionProducts, Heads
from loralith.lora.direct_attention import DirectAttention
from loralith.lora.quantize import Float32
from loralith.mapping.forward import DeviceForward
from loralith.mapping.kinds.attention_masks import additive
from loralith.mapping.mapped import Mapped, first_order
from loralith.mapping.pass_records import Pending, Place
from loralith.mapping.select import PROCESSORS, AttachError, Choice
from loralith.mapping.tensors import finite, float32, output_dtype, tensor, unknown
from loralith.spec.scheme import Role, SchemeError

if TYPE_CHECKING:
    from loralith.mapping.attachment import Attachment

__all__ = ["Attend", "AttentionHeads", "MappedAttention", "Processor", "exponentials", "score_gradient"]

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


def exponentials(s: Tensor, scale: float, mask: Tensor | None, out: Tensor | None = None) -> Tensor:
    """exp(z - its row's largest) of z = s scale + mask: softmax before rows are divided by their sums. float32 [n, Tq, Tk].

    ``out`` may be ``s``, which then is gone."""
    masks = None if mask is None else mask.expand_as(s)
    result = torch.empty_like(s) if out is None else out
    for n, z in enumerate(result):  # one head at a time: the caches hold it
        torch.mul(s[n], scale, out=z)
        if masks is not None:
            z += masks[n]
        z -= z.amax(dim=-1, keepdim=True)
        z.exp_()
    return result


def score_gradient(p: Tensor, dp: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """dS from P and dP [n, Tq, Tk]. float32. ``out`` may be ``dp``, which then is gone."""
    result = torch.empty_like(p) if out is None else out
    for ds, p_head, dp_head in zip(result, p, dp, strict=True):
        torch.sub(dp_head, (p_head * dp_head).sum(dim=-1, keepdim=True), out=ds)
        ds *= p_head
        ds *= scale
    return result


class DeviceProcessor(Processor):
    """That of a mapped module; ``original`` is what stood there. A copy or a pickle of it is one of ``original``."""

    def __init__(self, attend: Attend, name: str, original: Any) -> None:
        super().__init__(attend, name, original)
        self.original = original

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.original, memo)

    def __reduce__(self) -> Any:
        return copy.copy, (self.original,)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, layer: AttentionHeads, keep: bool, place: Place
    ) -> Tensor:  # type: ignore[override]
        need_q, need_k, need_v = (keep and need for need in ctx.needs_input_grad[:3])
        # dQ reads K, dK reads Q, both read P and V; dV reads P.
        names = ("K" if need_q else "") + ("Q" if need_k else "") + ("V" if need_q or need_k else "")
        o, token = layer.forward(q, k, v, scale, mask, names + ("P" if names or need_v else ""), place)
        if token is not None:
            ctx.layer, ctx.scale, ctx.shapes, ctx.dtypes = layer, scale, (q.shape, k.shape, v.shape), (q.dtype, k.dtype, v.dtype)
            ctx.save_for_backward(token)
        return o

    @staticmethod
    @first_order
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (token,) = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        found = ctx.layer.backward(token, do, ctx.scale, *needed)
        results: list[Tensor | None] = []
        for need, shape, dtype, values in zip(needed, ctx.shapes, ctx.dtypes, found or (None,) * 3, strict=True):
            if not need:
                results.append(None)
            else:
                results.append(unknown(do.new_empty(shape), dtype) if values is None else tensor(values, do, dtype))
        return *results, None, None, None, None, None


class AttentionHeads(Mapped):
    """The products of an attention module, whatever calls them. Its projections are modules of their own."""

    def __init__(self, attachment: Attachment, index: int, choice: Choice) -> None:
        super().__init__(attachment, index, choice)
        try:
            streamed = attachment.device.direct and not attachment.observer
            self.products = (DirectAttention if streamed else AttentionProducts)(attachment.device, attachment.scheme, index)
        except SchemeError as error:
            raise AttachError(f"{self.name}: {error}") from None
        self.own(self.products)
        if attachment.observer:
            attachment.observer.frozen(index, self.name, choice.module, attachment.scheme)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
        place = self.place(q)
        with self.attachment.device.lock:
            return _Attend.apply(q, k, v, scale, mask, self, torch.is_grad_enabled(), place)  # type: ignore[return-value]

    def _losses(self, heads: Heads) -> None:
        scheme = self.attachment.scheme
        for name, loss in heads.losses.items():
            role = {"Q": Role.Q, "K": Role.K, "V": Role.V, "dO": Role.DY, "dO / rows": Role.DY_ROWS, "dS": Role.DS}.get(name)
            self.attachment.health.quantized(self.name, name, loss, stochastic=role is not None and scheme.is_stochastic(role))
        heads.losses.clear()

    def weight_bytes(self) -> tuple[int, int]:
        return 0, 0

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, names: str, place: Place
    ) -> tuple[Tensor, Tensor | None]:
        """O, and the token of what the backward pass reads: ``names``, letters of QKVP."""
        owner, products = self.attachment, self.products
        heads = Heads(place.step, place.call)
        qkv = float32(q), float32(k), float32(v)
        try:
            if isinstance(products, DirectAttention):
                o = self._streamed(products, qkv, scale, mask, heads)
            else:
                o = self._whole(qkv, scale, mask, heads)
        except BaseException:
            products.release(heads)
            raise
        self._losses(heads)
        products.free_except(heads, names)
        token = None
        if names:
            token = owner.passes.register(heads, Pending(self, lambda: products.release(heads), *products.saved_bytes(heads)))
        return tensor(o, q, output_dtype(q)), token

    def _whole(self, qkv: tuple[Float32, Float32, Float32], scale: float, mask: Tensor | None, heads: Heads) -> Float32:
        """O by products of whole matrices, each of which an observer sees."""
        owner, products = self.attachment, self.products
        with self.use():
            scores = products.scores(qkv[0], qkv[1], heads)
        e = exponentials(torch.from_numpy(scores.s), scale, None if mask is None else mask.cpu()).numpy()
        with self.use():
            p, values = products.values(e, qkv[2], heads)
        if owner.observer:
            owner.observer.scores(self.index, qkv[0], qkv[1], heads.step, heads.call, scores)
            owner.observer.values(self.index, e, qkv[2], heads.step, heads.call, p, values)
        return values.value

    def _streamed(
        self, products: DirectAttention, qkv: tuple[Float32, Float32, Float32], scale: float, mask: Tensor | None, heads: Heads
    ) -> Float32:
        """O by some rows of one head after the other."""
        shape = len(qkv[0]), qkv[0].shape[1], qkv[1].shape[1]
        masks = None if mask is None else mask.cpu().expand(shape)

        def softmax(s: Float32, head: int, rows: slice) -> Float32:
            own = torch.from_numpy(s)[None]
            return exponentials(own, scale, None if masks is None else masks[head, rows][None], own)[0].numpy()

        with self.use():
            return products.attend(*qkv, heads, softmax)

    def backward(
        self, token: Tensor, do: Tensor, scale: float, need_q: bool, need_k: bool, need_v: bool
    ) -> tuple[Float32 | None, Float32 | None, Float32 | None] | None:
        """dQ, dK and dV where they are asked for; None where they are not finite."""
        owner, products = self.attachment, self.products
        array = float32(do)
        results: dict[str, Float32] = {}

        with self.use():
            heads: Heads = owner.saved(token, self)

            def seen(name: str, inputs: dict[str, Any], values: Any) -> None:
                if owner.observer:
                    owner.observer.attention_backward(self.index, name, inputs, values, heads.step, heads.call)
                results[name] = values.value

            if not finite(array):
                return None
            if need_v:
                seen("dV", {"dO": array}, products.value_gradient(array, heads))
            if need_q or need_k:
                if isinstance(products, DirectAttention):

                    def gradient(p: Float32, dp: Float32) -> Float32:
                        own = torch.from_numpy(dp)[None]
                        return score_gradient(torch.from_numpy(p)[None], own, scale, own)[0].numpy()

                    ds = products.score_gradient(array, heads, gradient)
                else:
                    dp = products.probability_gradient(array, heads)
                    seen("dP", {"dO": array}, dp)
                    p = torch.from_numpy(products.probabilities(heads))
                    ds = score_gradient(p, torch.from_numpy(dp.value), scale).numpy()
                if not finite(ds):
                    return None
                _, dq, dk = products.score_gradients(ds, heads, need_q=need_q, need_k=need_k)
                for name, values in (("dQ", dq), ("dK", dk)):
                    if values is not None:
                        seen(name, {"dS": ds}, values)
            self._losses(heads)
        return results.get("dQ"), results.get("dK"), results.get("dV")


class MappedAttention(AttentionHeads):
    """diffusers' `Attention` with one of `PROCESSORS`."""

    def install(self) -> None:
        self.forward_function = DeviceForward(self.module, self.run)
        self.forward_function.install()
        self._process(self.module.processor)

    def _process(self, original: Any) -> None:
        self.processor = DeviceProcessor(cast(Attend, torch.compiler.disable(self.attend)), self.name, original)
        self.module.processor = self.processor

    def remove(self) -> None:
        if self.module.processor is self.processor:
            self.module.processor = self.processor.original
        self.forward_function.remove()

    def run(self, *args: Any, **kwargs: Any) -> Any:
        found = self.module.processor
        if found is not self.processor:
            if type(found) not in PROCESSORS:
                raise AttachError(
                    f"{self.name}: its processor is {type(found).__name__} since the model was attached; "
                    f"set {' or '.join(kind.__name__ for kind in PROCESSORS)}, or detach and attach again"
                )
            self._process(found)
        return self.forward_function.plain(*args, **kwargs)
