"""Attention that calls torch's `scaled_dot_product_attention`, whatever the module: that call's products run on a device.

FLUX, SD3, Wan, LTX, Qwen-Image and Z-Image reach the function by diffusers' processors, Llama, CLIP and T5 by transformers' attention
interface. Projections, norms and rotary embeddings around the call stay the module's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from loralith.mapping.forward import OpaqueForward
from loralith.mapping.kinds.attention_masks import additive
from loralith.mapping.kinds.attention_modules import Attend, AttentionHeads, MappedAttention, Processor
from loralith.mapping.mapped import Mapped
from loralith.mapping.select import AttachError, Choice, by_processor

if TYPE_CHECKING:
    from loralith.mapping.attachment import Attachment

__all__ = ["CaughtAttention", "MappedFunctionAttention", "mapped_attention", "put_attention"]


class CaughtAttention(TorchFunctionMode):
    """Within it, `scaled_dot_product_attention` computes its products with ``attend``.

    ``name``: of the module, for errors. ``calls`` counts the calls. Of two, one inside the other, the inner one has the call.
    """

    def __init__(self, attend: Attend, name: str) -> None:
        super().__init__()
        self.attend, self.name, self.calls = attend, name, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        return self._attention(*args, **(kwargs or {}))

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """The function's own arguments: query [..., heads, Tq, d], key [..., heads, Tk, d], value [..., heads, Tk, e].

        Raises AttachError for dropout and for masks that `additive` refuses.
        """
        if dropout_p:
            raise AttachError(
                f"{self.name}: attention's dropout must be 0, not {dropout_p}; call eval(), or set it to 0 in the configuration"
            )
        *lead, Tq, d = query.shape
        Tk, heads = key.shape[-2], lead[-1] if lead else 1
        if enable_gqa:
            key, value = (tensor.repeat_interleave(heads // tensor.shape[-3], -3) for tensor in (key, value))
        q, k, v = (tensor.expand(*lead, *tensor.shape[-2:]).reshape(-1, *tensor.shape[-2:]) for tensor in (query, key, value))
        if is_causal:
            attn_mask = torch.ones(Tq, Tk, dtype=torch.bool, device=query.device).tril()
        mask = None
        if attn_mask is not None:
            mask = additive(self._mask(attn_mask, lead, Tq, Tk), self.name, len(q) // heads, heads, Tq, Tk)
        o = self.attend(q, k, v, d**-0.5 if scale is None else scale, mask)
        return o.reshape(*lead, Tq, v.shape[-1])

    def _mask(self, mask: Tensor, lead: list[int], Tq: int, Tk: int) -> Tensor:
        """``mask`` with four dimensions: images, heads, queries, keys, those that it lacks of size 1."""
        try:
            torch.broadcast_shapes(mask.shape, (*lead, Tq, Tk))
        except RuntimeError:
            raise AttachError(f"{self.name}: its mask must broadcast to {[*lead, Tq, Tk]}, not have the shape {list(mask.shape)}") from None
        if len(lead) == 2:
            return mask.reshape((1,) * (4 - mask.dim()) + mask.shape)
        heads = lead[-1] if lead else 1
        return mask.expand(*lead, Tq, Tk).reshape(-1, heads, Tq, Tk)


class MappedFunctionAttention(AttentionHeads):
    """The products of a module that calls torch's attention. A pass that does not call it is refused: it would run in torch unseen."""

    def install(self) -> None:
        self.forward_function = OpaqueForward(self.module, self.run)
        self.forward_function.install()

    def remove(self) -> None:
        self.forward_function.remove()

    def run(self, *args: Any, **kwargs: Any) -> Any:
        with CaughtAttention(self.attend, self.name) as caught:
            result = self.forward_function.plain(*args, **kwargs)
        if not caught.calls:
            raise AttachError(
                f"{self.name}: it computed attention without scaled_dot_product_attention since the model was attached; "
                "choose the native backend (diffusers) or the sdpa implementation (transformers), or detach and attach again"
            )
        return result


def mapped_attention(attachment: Attachment, index: int, choice: Choice) -> Mapped:
    """The class that maps an attention module."""
    return (MappedAttention if by_processor(choice.module) else MappedFunctionAttention)(attachment, index, choice)


def put_attention(module: Any, name: str, attend: Attend) -> Callable[[], None]:
    """Lets an attention module that can be mapped compute its products with ``attend``, until the function that is returned is called."""
    if by_processor(module):
        original, module.processor = module.processor, Processor(attend, name, module.processor)
        return lambda: setattr(module, "processor", original)
    before, inner = module.__dict__.get("forward"), module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with CaughtAttention(attend, name):
            return inner(*args, **kwargs)

    def undo() -> None:
        del module.forward
        if before is not None:
            module.forward = before

    module.forward = forward
    return undo
