"""SD3, PixArt, Sana and FLUX: transformers that predict noise or a flow's velocity."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from loralith.pipeline.families.base import Family, Text

__all__ = ["Flux", "PixArt", "Sana", "StableDiffusion3"]


class StableDiffusion3(Family):
    targets = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")

    @property
    def text_length(self) -> int:
        return 256

    def encode_prompts(self, prompts: Sequence[str]) -> Text:
        own: dict[str, Any] = {"prompt": list(prompts), "prompt_2": None, "prompt_3": None}
        embeds, _, pooled, _ = self.pipe.encode_prompt(**own, device=self.device(), do_classifier_free_guidance=False)
        return {"embeds": embeds, "pooled": pooled}

    def predict(self, model: nn.Module, latents: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        return model(
            hidden_states=latents, timestep=timesteps, encoder_hidden_states=text["embeds"], pooled_projections=text["pooled"]
        ).sample


class PixArt(Family):
    sample_options = {"use_resolution_binning": False}

    @property
    def text_length(self) -> int:
        return 120 if type(self.pipe).__name__ == "PixArtAlphaPipeline" else 300

    def encode_prompts(self, prompts: Sequence[str]) -> Text:
        embeds, mask, _, _ = self.pipe.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, device=self.device(), max_sequence_length=self.text_length
        )
        return {"embeds": embeds, "mask": mask}

    def predict(self, model: nn.Module, latents: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        conditions: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.config.sample_size == 128:  # the size that alpha's 1024-pixel models were trained with conditions for
            height, width = (edge * self.vae_scale for edge in latents.shape[-2:])
            conditions = {
                "resolution": latents.new_tensor([[height, width]]).expand(len(latents), -1),
                "aspect_ratio": latents.new_tensor([[height / width]]).expand(len(latents), -1),
            }
        found = model(
            latents,
            encoder_hidden_states=text["embeds"],
            encoder_attention_mask=text["mask"],
            timestep=timesteps,
            added_cond_kwargs=conditions,
        ).sample
        return found[:, : latents.shape[1]]  # the other half, where there is one, is the variance


class Sana(Family):
    """Prompts stand behind the instruction that the pipeline's call puts before them by default."""

    sample_options = {"use_resolution_binning": False}

    @property
    def text_length(self) -> int:
        return 300

    def encode_prompts(self, prompts: Sequence[str]) -> Text:
        name = "complex_human_instruction"
        instruction = {name: inspect.signature(type(self.pipe).__call__).parameters[name].default}
        embeds, mask, _, _ = self.pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False, device=self.device(), **instruction)
        return {"embeds": embeds, "mask": mask}

    def time_steps(self, told: Tensor) -> Tensor:
        return told / float(self.config.timestep_scale)

    def encode_pictures(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        latents = self._scaled(self.pipe.vae.encode(pixels).latent)
        return latents, torch.zeros_like(latents)  # its autoencoder draws nothing

    def predict(self, model: nn.Module, latents: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        return model(
            latents,
            encoder_hidden_states=text["embeds"],
            encoder_attention_mask=text["mask"],
            timestep=timesteps * float(self.config.timestep_scale),
        ).sample


class Flux(Family):
    targets = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
    guidance = 3.5
    """What distilled models are told, as the pipeline's own default."""

    @property
    def image_steps(self) -> int:
        return 2

    @property
    def text_length(self) -> int:
        return 512

    @property
    def resolution(self) -> int:
        return int(self.pipe.default_sample_size) * self.vae_scale

    def encode_prompts(self, prompts: Sequence[str]) -> Text:
        embeds, pooled, _ = self.pipe.encode_prompt(list(prompts), None, device=self.device())
        return {"embeds": embeds, "pooled": pooled}

    def time_steps(self, told: Tensor) -> Tensor:
        return told * 1000

    def sequence_length(self, latents: Tensor) -> int:
        return (latents.shape[-2] // 2) * (latents.shape[-1] // 2)

    def predict(self, model: nn.Module, latents: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        N, channels, height, width = latents.shape
        device, dtype = latents.device, latents.dtype
        guided = bool(self.config.guidance_embeds)
        found = model(
            hidden_states=self.pipe._pack_latents(latents, N, channels, height, width),
            timestep=timesteps / 1000,
            guidance=torch.full((N,), self.guidance, dtype=dtype) if guided else None,
            pooled_projections=text["pooled"],
            encoder_hidden_states=text["embeds"],
            txt_ids=torch.zeros(text["embeds"].shape[1], 3, dtype=dtype),
            img_ids=self.pipe._prepare_latent_image_ids(N, height // 2, width // 2, device, dtype),
        ).sample
        return self.pipe._unpack_latents(found, height * self.vae_scale, width * self.vae_scale, self.vae_scale)
