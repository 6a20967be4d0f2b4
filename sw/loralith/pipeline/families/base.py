"""What a family of pipelines is to the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

__all__ = ["Family", "Text"]

Text = dict[str, Tensor]
"""A prompt's embeddings by name, each with a first dimension of prompts."""


class Family(ABC):
    """How one family encodes prompts and pictures, and what its denoiser is called with.

    ``pipe``: the loaded pipeline. Class members: ``targets``, endings of the names of the layers that get an adapter by default;
    ``sample_options``, what its call is told beside the usual.
    """

    targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    sample_options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, pipe: Any, denoiser: str) -> None:
        self.pipe, self.part = pipe, denoiser

    @property
    def denoiser(self) -> nn.Module:
        return getattr(self.pipe, self.part)

    @property
    def config(self) -> Any:
        """The denoiser's."""
        return self.denoiser.config

    @property
    def image_steps(self) -> int:
        """How many latents a picture's edge must be a multiple of."""
        return int(self.config.patch_size)

    @property
    def text_length(self) -> int:
        """Tokens that the call lets a T5 or Gemma encoder read, 0 where there is none; CLIP's are its tokenizer's."""
        return 0

    @property
    def vae_scale(self) -> int:
        """Pixels of a latent's edge."""
        return int(self.pipe.vae_scale_factor)

    @property
    def latent_channels(self) -> int:
        return int(self.pipe.vae.config.latent_channels)

    @property
    def multiple(self) -> int:
        """What a picture's edges must be multiples of, in pixels."""
        return self.vae_scale * self.image_steps

    @property
    def resolution(self) -> int:
        """The edge that the pipeline draws by default, in pixels."""
        size = self.config.sample_size
        return int(size if isinstance(size, int) else max(size)) * self.vae_scale

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Text:
        """Embeddings, as the pipeline's own `encode_prompt` has them without guidance."""

    def encode_pictures(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [N, C, h, w] of pictures [N, 3, H, W] in -1..1, scaled as the denoiser takes them: mean and standard deviation of what
        the VAE draws them from."""
        posterior = self.pipe.vae.encode(pixels).latent_dist
        return self._scaled(posterior.mean), posterior.std * float(self.pipe.vae.config.scaling_factor)

    def _scaled(self, latents: Tensor) -> Tensor:
        config = self.pipe.vae.config
        shift = getattr(config, "shift_factor", None) or 0.0
        return (latents - shift) * float(config.scaling_factor)

    @abstractmethod
    def predict(self, model: nn.Module, latents: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        """The denoiser's prediction [N, C, h, w] of noised latents, at time steps [N] of the scheduler's scale (0 to 1000)."""

    def time_steps(self, told: Tensor) -> Tensor:
        """Time steps of 0..1000, from what the denoiser is told."""
        return told

    def sequence_length(self, latents: Tensor) -> int:
        """Tokens of a picture, which a scheduler with dynamic shifting looks at."""
        patch = int(getattr(self.config, "patch_size", 1))
        return (latents.shape[-2] // patch) * (latents.shape[-1] // patch)

    def adapter_layers(self, targets: Sequence[str]) -> list[str]:
        """Names of the denoiser's modules that the targets mean, in order of name."""
        ends = tuple(f".{target}" for target in targets)
        return sorted(name for name, _ in self.denoiser.named_modules() if name in targets or name.endswith(ends))

    @staticmethod
    def device() -> torch.device:
        return torch.device("cpu")
