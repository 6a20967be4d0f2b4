"""The LoRA layers of a model's training step."""

from __future__ import annotations

from dataclasses import replace

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.schedules.training_step import Linear, compile_step, place
from loralith.spec.config import Config

__all__ = ["MODELS", "layer_list"]


def _attention(stages: tuple[tuple[int, int, int], ...], text_tokens: int, text_width: int) -> tuple[tuple[Linear, int], ...]:
    """Blocks of (tokens, width, count): q, k, v and out of self attention, q and out of cross attention; k and v of the text."""
    layers = []
    for tokens, width, count in stages:
        layers.append((Linear(f"{tokens} x {width}", tokens, width, width, 1), 6 * count))
        layers.append((Linear(f"text to {width}", text_tokens, text_width, width, 1, dx=False), 2 * count))
    return tuple(layers)


MODELS: dict[str, tuple[tuple[Linear, int], ...]] = {
    # 64 x 64 latents: the U-Net has 2 + 3 transformer blocks at each of three widths, and one in its middle.
    "sd15": _attention(((4096, 320, 5), (1024, 640, 5), (256, 1280, 5), (64, 1280, 1)), 77, 768),
}
"""Adapted linears and how many of each there are, at batch 1: the attention projections, PEFT's usual target modules of a U-Net."""


def layer_list(linear: Linear, rank: int, config: Config) -> CommandList:
    """Forward and backward of one linear at `rank`. Raises DoesNotFit."""
    linear = replace(linear, rank=rank)
    return compile_step([(linear, place(linear, 0, config)[0])], config)
