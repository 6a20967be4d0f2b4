"""Stable Diffusion 1.x, 2.x and XL: U-Nets that predict noise or velocity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from loralith.pipeline.families.base import Family, Text

__all__ = ["StableDiffusion", "StableDiffusionXL"]


class _UNet(Family):
    @property
    def image_steps(self) -> int:
        """Each level but the last halves the latents."""
        return 1 << (len(self.config.block_out_channels) - 1)


class StableDiffusion(_UNet):
    def encode_prompts(self, prompts: Sequence[str]) -> Text:
        return {"embeds": self.pipe.encode_prompt(list(prompts), self.device(), 1, False)[0]}

    def predict(self, model: nn.Module, latents: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        return model(latents, timesteps, encoder_hidden_states=text["embeds"]).sample


class StableDiffusionXL(_UNet):
    """Size conditions are those of a picture that was neither resized nor cropped."""

    def encode_prompts(self, prompts: Sequence[str]) -> Text:
        embeds, _, pooled, _ = self.pipe.encode_prompt(list(prompts), device=self.device(), do_classifier_free_guidance=False)
        return {"embeds": embeds, "pooled": pooled}

    def predict(self, model: nn.Module, latents: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        size = [edge * self.vae_scale for edge in latents.shape[-2:]]
        ids = torch.tensor([[*size, 0, 0, *size]], dtype=latents.dtype).expand(len(latents), -1)
        conditions = {"text_embeds": text["pooled"], "time_ids": ids}
        return model(latents, timesteps, encoder_hidden_states=text["embeds"], added_cond_kwargs=conditions).sample
