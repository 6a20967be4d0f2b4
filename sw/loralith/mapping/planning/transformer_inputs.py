"""What one training step feeds diffusers' transformers: inputs by the class of a model, from its configuration.

An image of 1024 x 1024 or the model's own size, a video as the published pipeline draws it, prompts as long as the pipeline pads them to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["INPUTS", "Inputs"]

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named arguments of a model's forward function."""

TOKENS = 64
"""Tokens along a side of an image of 1024 x 1024 whose latents are an eighth of it, two by two in a token."""


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


def _side(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _flux(config: Any, batch: int) -> Inputs:
    """512 tokens of T5."""
    image, text = TOKENS * TOKENS, 512
    named = {"hidden_states": _zeros(batch, image, config.in_channels), "timestep": _zeros(batch)}
    named |= {"encoder_hidden_states": _zeros(batch, text, config.joint_attention_dim)}
    named |= {"pooled_projections": _zeros(batch, config.pooled_projection_dim)}
    named |= {"img_ids": _zeros(image, 3), "txt_ids": _zeros(text, 3)}
    return (), named | ({"guidance": _zeros(batch)} if config.guidance_embeds else {})


def _flux2(config: Any, batch: int) -> Inputs:
    """512 tokens of the text model."""
    image, text = TOKENS * TOKENS, 512
    named = {"hidden_states": _zeros(batch, image, config.in_channels), "timestep": _zeros(batch), "guidance": _zeros(batch)}
    named |= {"encoder_hidden_states": _zeros(batch, text, config.joint_attention_dim)}
    return (), named | {"img_ids": _zeros(image, 4), "txt_ids": _zeros(text, 4)}


def _sd3(config: Any, batch: int) -> Inputs:
    """77 tokens of CLIP and 256 of T5."""
    named = {"hidden_states": _zeros(batch, config.in_channels, *_side(config.sample_size)), "timestep": _zeros(batch)}
    named |= {"encoder_hidden_states": _zeros(batch, 333, config.joint_attention_dim)}
    return (), named | {"pooled_projections": _zeros(batch, config.pooled_projection_dim)}


def _sana(config: Any, batch: int) -> Inputs:
    """300 tokens of Gemma."""
    named = {"hidden_states": _zeros(batch, config.in_channels, *_side(config.sample_size)), "timestep": _zeros(batch)}
    named |= {"encoder_hidden_states": _zeros(batch, 300, config.caption_channels)}
    return (), named | {"encoder_attention_mask": torch.ones(batch, 300)}


def _qwen_image(config: Any, batch: int) -> Inputs:
    """512 tokens of the text model."""
    named = {"hidden_states": _zeros(batch, TOKENS * TOKENS, config.in_channels), "timestep": _zeros(batch)}
    named |= {"encoder_hidden_states": _zeros(batch, 512, config.joint_attention_dim)}
    return (), named | {"img_shapes": [[(1, TOKENS, TOKENS)]] * batch}


def _wan(config: Any, batch: int) -> Inputs:
    """81 frames of 480 x 832, 512 tokens of T5."""
    named = {"hidden_states": _zeros(batch, config.in_channels, 21, 60, 104), "timestep": _zeros(batch).long()}
    named |= {"encoder_hidden_states": _zeros(batch, 512, config.text_dim)}
    if config.image_dim is not None:
        named |= {"encoder_hidden_states_image": _zeros(batch, 257, config.image_dim)}
    return (), named


def _ltx(config: Any, batch: int) -> Inputs:
    """161 frames of 480 x 704, 128 tokens of T5."""
    frames, height, width = 21, 15, 22
    named = {"hidden_states": _zeros(batch, frames * height * width, config.in_channels), "timestep": _zeros(batch).long()}
    named |= {"encoder_hidden_states": _zeros(batch, 128, config.caption_channels), "encoder_attention_mask": torch.ones(batch, 128)}
    return (), named | {"num_frames": frames, "height": height, "width": width}


def _z_image(config: Any, batch: int) -> Inputs:
    """512 tokens of the text model."""
    image, text = _zeros(config.in_channels, 1, 2 * TOKENS, 2 * TOKENS), _zeros(512, config.cap_feat_dim)
    return ([image] * batch, _zeros(batch), [text] * batch), {}


def _pixart(config: Any, batch: int) -> Inputs:
    """300 tokens of T5; with sizes and aspect ratios where the model is conditioned on them."""
    named = {"hidden_states": _zeros(batch, config.in_channels, *_side(config.sample_size)), "timestep": _zeros(batch)}
    named |= {"encoder_hidden_states": _zeros(batch, 300, config.caption_channels), "encoder_attention_mask": torch.ones(batch, 300)}
    conditioned = config.use_additional_conditions
    if conditioned is None:  # diffusers' own rule
        conditioned = config.sample_size == 128
    sizes = (_zeros(batch, 2), _zeros(batch, 1)) if conditioned else (None, None)
    return (), named | {"added_cond_kwargs": dict(zip(("resolution", "aspect_ratio"), sizes, strict=True))}


INPUTS: dict[str, Callable[[Any, int], Inputs]] = {
    "FluxTransformer2DModel": _flux,
    "Flux2Transformer2DModel": _flux2,
    "SD3Transformer2DModel": _sd3,
    "SanaTransformer2DModel": _sana,
    "QwenImageTransformer2DModel": _qwen_image,
    "WanTransformer3DModel": _wan,
    "LTXVideoTransformer3DModel": _ltx,
    "ZImageTransformer2DModel": _z_image,
    "PixArtTransformer2DModel": _pixart,
}
"""By class: a function of its configuration and the number of images or videos."""
