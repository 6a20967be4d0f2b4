"""CPU time of a training step of an attached transformer or resnet block, beside the same step in torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from loralith.device import open_device
from loralith.mapping.attach_model import attach
from loralith.mapping.attachment import Attachment

__all__ = ["HEADS", "attached_step_times"]

HEADS = 8
TEXT_TOKENS, TEXT_WIDTH = 77, 768
"""Of SD-1.5's text encoder."""


def attached_step_times(
    devices: Sequence[str], config: str, block: str, tokens: int, width: int, rank: int, steps: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Seconds of the process's CPU time by device and modules, of the first step (which compiles lists) and of a later one.

    The model is a diffusers BasicTransformerBlock of ``width`` channels, a multiple of `HEADS`, with self-attention, cross-attention and
    a GEGLU feed-forward network, LoRA of ``rank`` on all projections, or, where ``block`` is `resnet`, a ResnetBlock2D, which has no LoRA
    layers and a square of ``tokens``; a step is forward and backward passes of one image of ``tokens``.
    Of ``steps`` after the first one the fastest counts. Torch and numpy's BLAS run in one thread. ``say`` gets a line per measurement.
    """
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    limit = threadpool_limits(1)  # numpy's BLAS
    try:
        model, inputs = _resnet(tokens, width) if block == "resnet" else _transformer(tokens, width, rank)
        _, plain = _time(lambda step: _step(model, inputs), steps)
        figures: dict[str, Any] = {"torch_seconds": round(plain, 3)}
        for name in devices:
            for modules in ("all",) if block == "resnet" else ("lora", "all"):
                with open_device(name, config) as device:
                    attachment = attach(model, device, modules=modules)

                    def run(step: int, attachment: Attachment = attachment) -> None:
                        attachment.step_begin(step)
                        _step(model, inputs)

                    first, later = _time(run, steps)
                    attachment.detach()
                stem = f"{name}_{modules}"
                figures |= {f"{stem}_first_seconds": round(first, 3), f"{stem}_seconds": round(later, 3)}
                figures[f"{stem}_over_torch"] = round(later / plain, 2)
                say(f"{name}, modules={modules!r}: {later:.3f} CPU seconds a step, {later / plain:.2f} times torch's")
    finally:
        limit.restore_original_limits()
        torch.set_num_threads(threads)
    return figures


def _transformer(tokens: int, width: int, rank: int) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A transformer block with an adapter whose B is not zero, and its inputs [1, T, C] and text [1, 77, 768]."""
    from diffusers.models.attention import BasicTransformerBlock
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    block: Any = BasicTransformerBlock(width, HEADS, width // HEADS, cross_attention_dim=TEXT_WIDTH)
    block.requires_grad_(False)
    names = ["to_q", "to_k", "to_v", "to_out.0"]
    block = get_peft_model(block, LoraConfig(r=rank, lora_alpha=rank, target_modules=names, init_lora_weights=False))
    return block, (torch.randn(1, tokens, width, requires_grad=True), torch.randn(1, TEXT_TOKENS, TEXT_WIDTH))


def _resnet(tokens: int, width: int) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A frozen resnet block and its inputs: [1, C, H, W] of T places, and the embedding of the diffusion step [1, 4 C]."""
    from diffusers.models.resnet import ResnetBlock2D

    torch.manual_seed(0)
    block: Any = ResnetBlock2D(in_channels=width, temb_channels=4 * width, groups=math.gcd(min(32, width), width))
    side = math.isqrt(tokens)
    return block.requires_grad_(False), (torch.randn(1, width, side, side, requires_grad=True), torch.randn(1, 4 * width))


def _step(block: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
    x, other = inputs  # the text, or the step's embedding
    name = "temb" if x.dim() == 4 else "encoder_hidden_states"
    block(x, **{name: other}).square().mean().backward()
    block.zero_grad()
    x.grad = None


def _time(step: Callable[[int], None], steps: int) -> tuple[float, float]:
    """CPU seconds of the first step, and of the fastest of ``steps`` after it."""
    seconds = []
    for number in range(steps + 1):
        start = time.process_time()
        step(number)
        seconds.append(time.process_time() - start)
    return seconds[0], min(seconds[1:])
