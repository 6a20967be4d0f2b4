"""Whether the parts of a pipeline are of one model: what one gives has the size that the next takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from loralith.pipeline.families.base import Family
from loralith.pipeline.model_folder import ModelFolder, PipelineError

__all__ = ["check_parts"]


def _hidden(encoder: Any) -> int:
    return int(getattr(encoder.config, "d_model", None) or encoder.config.hidden_size)


def _of_sd3(pipe: Any) -> int | None:
    return _hidden(pipe.text_encoder_3) if pipe.text_encoder_3 is not None else None


WIDTHS: Mapping[str, Mapping[str, tuple[str, Callable[[Any], int | None]]]] = {
    "StableDiffusionPipeline": {"cross_attention_dim": ("text_encoder", lambda pipe: _hidden(pipe.text_encoder))},
    "StableDiffusionXLPipeline": {
        "cross_attention_dim": (
            "text_encoder and text_encoder_2",
            lambda pipe: _hidden(pipe.text_encoder) + _hidden(pipe.text_encoder_2),
        ),
    },
    "StableDiffusion3Pipeline": {
        "joint_attention_dim": ("text_encoder_3", _of_sd3),
        "pooled_projection_dim": (
            "text_encoder and text_encoder_2",
            lambda pipe: sum(int(encoder.config.projection_dim) for encoder in (pipe.text_encoder, pipe.text_encoder_2)),
        ),
    },
    "PixArtAlphaPipeline": {"caption_channels": ("text_encoder", lambda pipe: _hidden(pipe.text_encoder))},
    "PixArtSigmaPipeline": {"caption_channels": ("text_encoder", lambda pipe: _hidden(pipe.text_encoder))},
    "SanaPipeline": {"caption_channels": ("text_encoder", lambda pipe: _hidden(pipe.text_encoder))},
    "FluxPipeline": {
        "joint_attention_dim": ("text_encoder_2", lambda pipe: _hidden(pipe.text_encoder_2)),
        "pooled_projection_dim": ("text_encoder", lambda pipe: _hidden(pipe.text_encoder)),
    },
}
"""What a denoiser's configuration says of its text, and which parts give it that, by the class of the pipeline."""
PACKED = 4
"""Latents of a token that FLUX takes."""


def check_parts(family: Family, folder: ModelFolder) -> None:
    """Raises PipelineError that names two parts which are not of one model."""
    path = folder.path
    for name, part in folder.encoders:
        tokenizer, encoder = getattr(family.pipe, name), getattr(family.pipe, part)
        words, known = len(tokenizer), int(encoder.config.vocab_size)
        if words > known:
            raise PipelineError(f"model {path}: {name} has {words} words, and {part} knows {known}: they are of two models")
        reads = getattr(encoder.config, "max_position_embeddings", None) if "CLIP" in type(tokenizer).__name__ else None
        if reads is not None and tokenizer.model_max_length > reads:
            most = f"prompts of up to {tokenizer.model_max_length} tokens"
            raise PipelineError(f"model {path}: {name} gives {most}, and {part} reads {reads}: they are of two models")
    channels, denoiser = family.latent_channels, family.part
    takes = int(family.config.in_channels) // (PACKED if folder.kind == "FluxPipeline" else 1)
    if takes != channels:
        raise PipelineError(
            f"model {path}: the vae gives latents of {channels} channels, and {denoiser} takes {takes}: they are of two models, or the "
            f"{denoiser} takes a mask or a picture too, which is not trained here"
        )
    for setting, (parts, width) in WIDTHS[folder.kind].items():
        wanted, given = getattr(family.config, setting, None), width(family.pipe)
        if isinstance(wanted, int) and given is not None and not getattr(family.config, "encoder_hid_dim", None) and wanted != given:
            raise PipelineError(
                f"model {path}: {parts} gives texts of width {given}, and {denoiser} takes {wanted} ({setting}): they are of two models"
            )
