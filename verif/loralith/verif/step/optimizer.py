"""AdamW on A and B in the device's numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from loralith.spec.step import StepScheme
from loralith.verif.vector.format import VectorFormat, round_to

from . import programs

__all__ = ["StepAdamW"]


class StepAdamW:
    """AdamW without weight decay, as `programs.adamw` has it. A drop-in for what a training loop asks of an optimizer.

    Parameters: ``parameters``, float32, changed in place; ``scheme``; ``lr``. With ``scheme.stochastic_update`` a new value is rounded
    to ``scheme.optimizer_bits`` stochastically; otherwise half to even.
    """

    def __init__(
        self, parameters: Sequence[Tensor], scheme: StepScheme, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ):
        self.parameters, self.scheme, self.lr, self.betas, self.eps = parameters, scheme, lr, betas, eps
        self.v = VectorFormat(scheme.optimizer_bits)
        self.step_count = 0
        count = sum(parameter.numel() for parameter in parameters)
        self.moments = (torch.zeros(count), torch.zeros(count))
        self._random = torch.Generator().manual_seed(scheme.seed + 1)

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One update of all parameters, each of which must have a gradient."""
        self.step_count += 1
        value = torch.cat([parameter.flatten() for parameter in self.parameters])
        grad = self.v.round(torch.cat([parameter.grad.flatten() for parameter in self.parameters]))  # type: ignore[union-attr]
        change, *moments = programs.adamw(self.v, value, grad, *self.moments, self.step_count, self.lr, self.betas, self.eps)
        self.moments = (moments[0], moments[1])
        value = self._stochastic(value, change) if self.scheme.stochastic_update else self.v.sub(value, change)
        for parameter, own in zip(self.parameters, value.split([p.numel() for p in self.parameters]), strict=True):
            parameter.copy_(own.reshape(parameter.shape))

    def _stochastic(self, value: Tensor, change: Tensor) -> Tensor:
        exact = value.double() - change.double()
        _, exponent = torch.frexp(exact)
        unit = torch.ldexp(torch.ones_like(exact), exponent - 1 - self.scheme.optimizer_bits)
        noisy = torch.floor(exact / unit + torch.rand(exact.shape, generator=self._random, dtype=torch.float64)) * unit
        return round_to(noisy, self.scheme.optimizer_bits).float()
