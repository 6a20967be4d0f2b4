"""Finite differences along random directions (ZOODiP, Seo et al., 2025; two-point estimates of Duchi et al., 2015)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from loralith.diffusion.determinism import generator
from loralith.diffusion.objective import Draw
from loralith.errors import LoralithError

__all__ = [
    "FIRST",
    "PAST",
    "CorrelationError",
    "Losses",
    "Probe",
    "correlation",
    "differences",
    "directions",
    "draw_evaluation",
    "estimate",
]

FIRST, PAST = 500, 900
"""Time steps are drawn from FIRST up to and without PAST (the paper's partial uniform sampling)."""

Losses = Callable[[Tensor, Draw], Tensor]
"""Of tokens [n, D] on one draw: losses [n], float64."""


class CorrelationError(LoralithError):
    """A finite difference that does not follow the true derivative at any perturbation that may be used."""


def draw_evaluation(purpose: str, seed: int, step: int, *, batch: int, images: Tensor) -> Draw:
    """Images, time steps and noise that all evaluations of a step share; a function of (purpose, seed, step) alone."""
    random = generator(purpose, seed, step)
    picks = torch.randint(len(images), (batch,), generator=random)
    timesteps = torch.randint(FIRST, PAST, (batch,), generator=random)
    noise = torch.randn((batch, *images.shape[1:]), generator=random)
    return Draw(picks, timesteps, torch.zeros(batch, dtype=torch.bool), noise)


def directions(purpose: str, seed: int, step: int, count: int, width: int) -> Tensor:
    """Standard normal directions [count, width]; each from a generator of its own, so that its seed is all that need be kept."""
    return torch.stack([torch.randn(width, generator=generator(purpose, seed, step, index)) for index in range(count)])


def differences(losses: Losses, token: Tensor, u: Tensor, mu: float, draw: Draw) -> tuple[float, Tensor]:
    """(the loss at ``token`` [D], forward differences [n] along ``u`` [n, D]) from n + 1 evaluations of one draw."""
    found = losses(torch.cat([token[None], token + mu * u]), draw)
    return float(found[0]), (found[1:] - found[0]) / mu


def estimate(slopes: Tensor, u: Tensor) -> Tensor:
    """The gradient's estimate [D] in FP32: the mean over directions of slope times direction."""
    return (slopes[:, None] * u.double()).mean(dim=0).float()


@dataclass(frozen=True)
class Probe:
    """One draw with its directions [n, D] and the true slopes [n] along them."""

    draw: Draw
    u: Tensor
    slopes: Tensor


def probes(exact: Losses, token: Tensor, count: int, directions_each: int, *, seed: int, batch: int, images: Tensor) -> list[Probe]:
    """``count`` probes of the true derivative, by autograd through ``exact``."""
    found = []
    for index in range(count):
        draw = draw_evaluation("zoodip probe", seed, index, batch=batch, images=images)
        u = directions("zoodip probe direction", seed, index, directions_each, token.numel())
        with torch.enable_grad():
            leaf = token.detach().clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(exact(leaf[None], draw)[0], leaf)
        found.append(Probe(draw, u, u.double() @ gradient.double()))
    return found


def correlation(measured: Callable[[Probe], Tensor], found: list[Probe]) -> float:
    """Pearson's, between the slopes [n] that are ``measured`` of a probe and the true ones, over all probes and directions; 0 where either
    is constant."""
    own = torch.cat([measured(probe) for probe in found])
    pair = torch.stack([own, torch.cat([probe.slopes for probe in found])])
    pair = pair - pair.mean(dim=1, keepdim=True)
    size = pair.norm(dim=1).prod()
    return float((pair[0] @ pair[1]) / size) if size > 0 else 0.0
