"""LoRA linears of published U-Nets: the attention projections q, k, v and out, one image, one training step.

Sizes are those of the models' published configurations. Cross attention's k and v read the text, before which nothing is trained: they
have no dX.
"""

from __future__ import annotations

from collections import Counter

from loralith.compiler.schedules.training_step import Linear

__all__ = ["BESIDE_LORA", "MODELS", "SUBSETS", "image_linears", "step_linears", "text_linears"]

# (transformer blocks, tokens, channels) of each resolution, and the text: (tokens, channels).
_SD15 = ((5, 4096, 320), (5, 1024, 640), (5, 256, 1280), (1, 64, 1280)), (77, 768)
_SDXL = ((10, 4096, 640), (60, 1024, 1280)), (77, 2048)
MODELS = {"sd15": _SD15, "sdxl": _SDXL}
"""Stable Diffusion 1.5 at 512 x 512 (128 linears), and SDXL at 1024 x 1024 (560)."""
BESIDE_LORA = {"sd15": 778_547_527_680, "sdxl": 5_601_874_411_520}
"""Multiply-accumulates of a training step of one image outside these linears, as `loralith plan` counts them."""
SUBSETS = ("all", "kv")
"""All attention projections, or cross attention's k and v alone, which CDM-QTA trains."""


def image_linears(model: str, rank: int) -> Counter[Linear]:
    """The distinct linears of a step that read the image, and how many of each. Raises ValueError for an unknown model."""
    found: Counter[Linear] = Counter()
    for count, T, C in _blocks(model):
        found[Linear(f"attn {T}x{C}", T, C, C, rank)] += 6 * count
    return found


def step_linears(model: str, rank: int) -> list[Linear]:
    """Every linear that reads the image, by name, in the order of the forward pass. Raises ValueError for an unknown model."""
    found = []
    for count, T, C in _blocks(model):
        for block in range(count):
            for name in ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out", "attn2.to_q", "attn2.to_out"):
                found.append(Linear(f"{T}x{C}.{block}.{name}", T, C, C, rank))
    return found


def text_linears(model: str, rank: int) -> list[Linear]:
    """Cross attention's k and v, block after block. Raises ValueError for an unknown model."""
    blocks, (text, width) = _blocks(model), MODELS[model][1]
    return [Linear(f"text {text}x{width}->{C}", text, width, C, rank, dx=False) for count, _, C in blocks for _ in range(2 * count)]


def _blocks(model: str) -> tuple[tuple[int, int, int], ...]:
    if model not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, not {model!r}")
    return MODELS[model][0]
