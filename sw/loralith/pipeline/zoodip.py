"""ZOODiP on a pipeline of Stable Diffusion: a textual inversion trained with forward passes alone (Seo et al., 2025)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loralith.formats.checkpoint import write_tensors
from loralith.formats.run_folder import TEXTUAL_INVERSION
from loralith.mapping.kinds.linears_and_convolutions import MappedWideConv, MappedWideLinear
from loralith.methods.options import SettingsError, ZoodipOptions
from loralith.methods.zoodip.finite_differences import FIRST, PAST, directions, estimate
from loralith.methods.zoodip.subspace import Subspace
from loralith.pipeline.draws import Pictures, Sampler
from loralith.pipeline.families.base import Family
from loralith.pipeline.pipeline_method import PipelineMethod
from loralith.pipeline.settings import PipelineSettings

__all__ = ["Zoodip"]

STEPS = 1000
"""Of the schedule that FIRST and PAST are of."""


class Zoodip(PipelineMethod):
    """``model`` is the frozen denoiser. A new word's embedding moves along random directions; nothing is saved for a backward pass.

    On a device linear layers and convolutions take activations of two INT8 words, since INT8 drowns the differences, and attention's own
    products stay in torch.
    """

    result = TEXTUAL_INVERSION
    kinds = {"linear": MappedWideLinear, "conv": MappedWideConv, "attention": None}
    uses_texts = False

    def __init__(self, settings: PipelineSettings, family: Family, captions: Sequence[str]) -> None:
        odd = next((caption for caption in captions if settings.token not in caption), None)
        if odd is not None:
            raise SettingsError(f"token {settings.token!r} must be in every caption, and one is {odd!r}; give --prompt or --token")
        tokenizer, encoder = family.pipe.tokenizer, family.pipe.text_encoder
        self.table: nn.Embedding = encoder.get_input_embeddings()
        first = self._first(tokenizer, settings)
        known = tokenizer.get_vocab()
        if settings.token in known or f"{settings.token}</w>" in known or tokenizer.add_tokens([settings.token]) != 1:
            raise SettingsError(f"token {settings.token!r} is a word of the pipeline's vocabulary; give a new one, such as <subject>")
        self.id = int(tokenizer.convert_tokens_to_ids(settings.token))
        if self.id >= self.table.num_embeddings:
            encoder.resize_token_embeddings(self.id + 1, mean_resizing=False)
            self.table = encoder.get_input_embeddings()
            self.table.weight.requires_grad_(False)
        self.token = nn.Parameter(first)
        self.subspace = Subspace(ZoodipOptions().tau, ZoodipOptions().nu, first.numel())
        super().__init__(settings, family, {"token": self.token})

    def _first(self, tokenizer: Any, settings: PipelineSettings) -> Tensor:
        """The embedding of the initializer, or the table's mean."""
        if not settings.initializer:
            return self.table.weight.detach().mean(dim=0)
        ids = tokenizer(settings.initializer, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise SettingsError(
                f"initializer {settings.initializer!r} must be one token of the pipeline's vocabulary, and it is {len(ids)}"
            )
        return self.table.weight.detach()[ids[0]].clone()

    def make_optimizer(self) -> Any:
        return torch.optim.Adam(self.parameters.values(), lr=self.settings.lr, eps=1e-3)

    @torch.no_grad()
    def token_losses(self, tokens: Tensor, pictures: Pictures, sampler: Sampler) -> Tensor:
        """Losses [n], float64, with each of ``tokens`` [n, D] for the word; all n evaluations are rows of one pass."""
        count, batch = len(tokens), len(pictures.captions)
        found = []
        for token in tokens:
            self.table.weight[self.id] = token
            found.append(self.family.encode_prompts(pictures.captions))
        text = {name: torch.cat([own[name] for own in found]) for name in found[0]}
        latents, noise = (tensor.repeat(count, 1, 1, 1) for tensor in (pictures.latents, pictures.noise))
        rows = replace(pictures, latents=latents, noise=noise, times=pictures.times.repeat(count), text=text)
        return sampler.losses(self.model, rows).double().reshape(count, batch).mean(dim=1)

    def step(self, step: int, sampler: Sampler) -> float:
        settings, token = self.settings, self.token.detach()
        ((pictures,),) = sampler.batches(step)
        pictures = replace(pictures, times=(FIRST + (PAST - FIRST) * pictures.times) / STEPS)  # the paper's partial uniform sampling
        u = directions("pipeline zoodip direction", settings.seed, step, settings.perturbations, token.numel())
        found = self.token_losses(torch.cat([token[None], token + settings.mu * u]), pictures, sampler)
        self.finite(float(found[0]), f"the loss of step {step}")
        slopes = (found[1:] - found[0]) / settings.mu
        self.finite(float(slopes.abs().max()), f"a difference of losses of step {step}")
        self.token.grad = self.subspace.project(estimate(slopes, u))
        self.update(step)
        self.subspace.add(self.token)
        return float(found[0])

    @contextmanager
    def result_weights(self) -> Iterator[None]:
        with torch.no_grad():
            self.table.weight[self.id] = self.token
        yield

    def state(self) -> dict[str, Tensor]:
        basis = {} if self.subspace.basis is None else {"basis": self.subspace.basis}
        return {"buffer": self.subspace.buffer, **basis}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.subspace.buffer, self.subspace.basis = state["buffer"], state.get("basis")

    def save(self, folder: Path) -> list[str]:
        write_tensors({self.settings.token: self.token}, folder / TEXTUAL_INVERSION)
        return [TEXTUAL_INVERSION]

    @property
    def label(self) -> str:
        return f"ZOODiP, the token {self.settings.token!r}"
