"""ZOODiP (Seo et al., 2025): the embedding of one token by zeroth-order optimization, with the model quantized and forward only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from loralith.diffusion.objective import Draw
from loralith.diffusion.prompt import TOKENS, PromptEncoder, tokenize
from loralith.diffusion.schedule import noise_schedule
from loralith.diffusion.unet import load_model
from loralith.formats.run_folder import TOKEN
from loralith.mapping.kinds.linears_and_convolutions import MappedWideConv, MappedWideLinear
from loralith.methods.options import SettingsError, ZoodipOptions
from loralith.methods.training_method import Abandoned, Bench, Method, State
from loralith.methods.zoodip.finite_differences import (
    CorrelationError,
    Probe,
    correlation,
    differences,
    directions,
    draw_evaluation,
    estimate,
    probes,
)
from loralith.methods.zoodip.subspace import Subspace
from loralith.methods.zoodip.token import Token, load_token, save_token

if TYPE_CHECKING:
    from loralith.diffusion.subject import Subject
    from loralith.methods.settings import FinetuneSettings

__all__ = ["Zoodip"]

CANDIDATES = (1e-3, 1e-2, 1e-1)
"""Perturbations that are tried where none is given, the paper's first."""


class Zoodip(Method):
    """``model`` is the frozen U-Net. On a device its linear layers and convolutions take activations of two INT8 words; attention's own
    products, which no frozen weight is part of, stay in torch: INT8 there would drown the differences."""

    kinds = {"linear": MappedWideLinear, "conv": MappedWideConv, "windows": None, "attention": None}
    model: UNet2DConditionModel

    def __init__(self, settings: FinetuneSettings, subject: Subject) -> None:
        assert isinstance(settings.options, ZoodipOptions)
        self.own = settings.options
        self.word = self.own.token or ("" if subject.digit is None else str(subject.digit))
        _check_word(self.word, subject)
        self.id = TOKENS.index(self.word)
        unet, encoder = load_model(settings.model)
        self.token = nn.Parameter(encoder.table.weight[self.id].detach().clone())
        self.ids = torch.stack([tokenize(caption) for caption in subject.captions])  # [images, tokens]
        super().__init__(settings, subject, encoder, unet, {"token": self.token})
        self.subspace = Subspace(self.own.tau, self.own.nu, self.token.numel())
        self.mu = self.own.mu or 0.0
        self.measured: dict[str, float] = {}

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters.values(), lr=self.settings.lr, eps=1e-3)

    def begin(self, bench: Bench) -> None:
        if self.settings.start_from:
            token = load_token(self.settings.start_from, self.token.numel())
            if token.word != self.word:
                raise SettingsError(f"{self.settings.start_from} is a token for {token.word!r}, this run trains {self.word!r}")
            self.token.data.copy_(token.value)
        self._measure(bench)

    def _measure(self, bench: Bench) -> None:
        """Chooses mu, or checks the one that was given. Raises CorrelationError with all that was measured."""
        images, settings = self.subject.images, self.settings
        exact = load_model(settings.model)[0]
        count = self.own.prepared(settings.steps, settings.batch)
        given = {"seed": settings.seed, "batch": settings.batch, "images": images}
        token = self.token.detach()

        found = probes(lambda tokens, draw: self.losses(exact, tokens, draw), token, count, self.own.perturbations, **given)
        with bench.attached(self.model) as attachment:
            whole: Callable[[Zoodip, Probe, float], Tensor] | None = getattr(attachment, "slopes", None)  # of one that takes whole steps

            def slopes(probe: Probe, mu: float) -> Tensor:
                if bench.stopping():
                    raise Abandoned("stopped while the correlation was measured; start the run again")
                if whole is not None:
                    return whole(self, probe, mu)
                return differences(lambda tokens, draw: self.losses(self.model, tokens, draw), token, probe.u, mu, probe.draw)[1]

            for mu in (self.own.mu,) if self.own.mu else CANDIDATES:
                if attachment:
                    attachment.step_begin(0)
                value = correlation(partial(slopes, mu=mu), found)
                self.measured[f"{mu:g}"] = value
                bench.say(f"mu {mu:g}: correlation {value:.4f}")
                if value >= self.own.correlation:
                    self.mu = mu
                    return
        tried = ", ".join(f"{value:.3f} at mu {mu}" for mu, value in self.measured.items())
        raise CorrelationError(
            f"the finite difference correlates with the true derivative by {tried}; it must by at least {self.own.correlation} "
            f"(over {count * self.own.perturbations} directions)"
        )

    def losses(self, model: UNet2DConditionModel, tokens: Tensor, draw: Draw) -> Tensor:
        """Losses [n], float64, with each of ``tokens`` [n, D] for the word; all n evaluations are rows of one pass."""
        count, batch = len(tokens), len(draw.picks)
        ids = self.ids[draw.picks].repeat(count, 1)  # [n * batch, tokens]
        own = tokens.repeat_interleave(batch, dim=0)[:, None]
        condition = torch.where((ids == self.id)[:, :, None], own, self.encoder(ids))
        images = self.subject.images[draw.picks]
        noised = noise_schedule().add_noise(images, draw.noise, draw.timesteps)  # type: ignore[arg-type]
        y = model(noised.repeat(count, 1, 1, 1), draw.timesteps.repeat(count), condition).sample
        error = (y - draw.noise.repeat(count, 1, 1, 1)).double().square()
        return error.reshape(count, -1).mean(dim=1)

    def evaluation(self, draw: Draw, directions: Tensor) -> dict[str, Tensor]:
        """What `predictions` takes: of one draw, the word's place in each prompt left empty, and ``directions`` [n, D] from the token."""
        ids = self.ids[draw.picks]
        own = (ids == self.id)[:, :, None]
        noised = noise_schedule().add_noise(self.subject.images[draw.picks], draw.noise, draw.timesteps)  # type: ignore[arg-type]
        condition = self.encoder(ids).detach().masked_fill(own, 0.0)
        return {"noised": noised, "timesteps": draw.timesteps, "condition": condition, "mask": own.float(), "directions": directions}

    def predictions(self, noised: Tensor, timesteps: Tensor, condition: Tensor, mask: Tensor, directions: Tensor) -> Tensor:
        """The predicted noise [(n + 1) N, 1, 16, 16] with the token and with the token and each direction; rows of one pass."""
        tokens = torch.cat([self.token[None], self.token + directions])[:, None, None]

        def each(x: Tensor) -> Tensor:
            return x[None].expand(len(tokens), *x.shape).clone().reshape(-1, *x.shape[1:])

        prompts = tokens * mask[None] + condition[None]
        return self.model(each(noised), each(timesteps), prompts.reshape(-1, *condition.shape[1:])).sample

    @torch.no_grad()
    def forward(self, step: int) -> Tensor:
        settings = self.settings
        draw = draw_evaluation("zoodip", settings.seed, step, batch=settings.batch, images=self.subject.images)
        u = directions("zoodip direction", settings.seed, step, self.own.perturbations, self.token.numel())
        loss, slopes = differences(lambda tokens, at: self.losses(self.model, tokens, at), self.token.detach(), u, self.mu, draw)
        self.finite(loss, f"the loss of step {step}")
        self.finite(float(slopes.abs().max()), f"a difference of losses of step {step}")
        self.token.grad = self.subspace.project(estimate(slopes, u))
        return torch.tensor(loss, dtype=torch.float64)

    def step(self, step: int) -> float:
        loss = self.forward(step)
        self.optimizer.step()
        self.subspace.add(self.token)
        return float(loss)

    def state(self) -> State:
        basis = {} if self.subspace.basis is None else {"basis": self.subspace.basis}
        return State({"buffer": self.subspace.buffer, **basis}, {"mu": self.mu, "measured": self.measured})

    def restore(self, state: State) -> None:
        self.subspace.buffer, self.subspace.basis = state.tensors["buffer"], state.tensors.get("basis")
        self.mu, self.measured = state.values["mu"], dict(state.values["measured"])

    @torch.no_grad()
    def evaluation_model(self) -> tuple[UNet2DConditionModel, PromptEncoder]:
        unet, encoder = load_model(self.settings.model)
        encoder.table.weight[self.id] = self.token
        return unet, encoder

    def save(self, folder: Path) -> None:
        save_token(Token(self.word, self.token.detach()), folder / TOKEN)

    def figures(self) -> dict[str, Any]:
        kept = self.token.numel() if self.subspace.basis is None else len(self.subspace.basis)
        return {"prepared": {"word": self.word, "mu": self.mu, "correlation": dict(self.measured)}, "subspace": kept}

    @property
    def label(self) -> str:
        return f"ZOODiP, the token {self.word!r}"

    @property
    def result(self) -> str:
        return TOKEN


def _check_word(word: str, subject: Subject) -> None:
    """Raises SettingsError for a word that is not in every caption."""
    if not word:
        raise SettingsError("token must be a word of the captions, since they name no digit; give --token")
    odd = next((caption for caption in subject.captions if word not in caption.split()), None)
    if odd is not None:
        raise SettingsError(f"token must be a word of every caption, not {word!r}: one is {odd!r}")
