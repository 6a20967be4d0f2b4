"""The subspace in which a token moves: directions that hardly vary over its past are taken out of the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Subspace", "principal"]


def principal(tokens: Tensor, nu: float) -> Tensor:
    """Orthonormal rows [k, D]: the fewest principal directions of ``tokens`` [n, D] with a share 1 - nu of their variance.

    All of them, [D, D], where the tokens do not vary.
    """
    centred = tokens.double() - tokens.double().mean(dim=0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    values, vectors = values.flip(0).clamp(min=0.0), vectors.flip(1)
    total = values.sum()
    if total == 0:
        return torch.eye(tokens.shape[1], dtype=torch.float64)
    count = int((values.cumsum(0) < (1.0 - nu) * total).sum()) + 1
    return vectors[:, :count].T.contiguous()


class Subspace:
    """Past tokens of up to ``tau`` steps, and the basis float64 [k, D] of the latest full buffer; None before there was one."""

    def __init__(self, tau: int, nu: float, width: int) -> None:
        self.tau, self.nu = tau, nu
        self.buffer = torch.empty(0, width)
        self.basis: Tensor | None = None

    def add(self, token: Tensor) -> None:
        """The token after a step; every tau steps the basis is made anew and the buffer emptied."""
        self.buffer = torch.cat([self.buffer, token.detach()[None]])
        if len(self.buffer) == self.tau:
            self.basis = principal(self.buffer, self.nu)
            self.buffer = self.buffer[:0]

    def project(self, gradient: Tensor) -> Tensor:
        """``gradient`` [D] without what lies outside the subspace."""
        if self.basis is None:
            return gradient
        return (self.basis.T @ (self.basis @ gradient.double())).to(gradient.dtype)
