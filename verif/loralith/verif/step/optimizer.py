"""AdamW on A and B in the device's numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from loralith.spec.step import StepScheme

from . import programs
from .format import VectorFormat, round_to

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
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
        self._random = torch.Generator().manual_seed(scheme.seed + 1)

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        self.step_count += 1
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            m, s = self.moments[index]
            grad = self.v.round(parameter.grad)
            change, m, s = programs.adamw(self.v, parameter, grad, m, s, self.step_count, self.lr, self.betas, self.eps)
            self.moments[index] = (m, s)
            parameter.copy_(self._stochastic(parameter, change) if self.scheme.stochastic_update else self.v.sub(parameter, change))

    def _stochastic(self, value: Tensor, change: Tensor) -> Tensor:
        exact = value.double() - change.double()
        _, exponent = torch.frexp(exact)
        unit = torch.ldexp(torch.ones_like(exact), exponent - 1 - self.scheme.optimizer_bits)
        noisy = torch.floor(exact / unit + torch.rand(exact.shape, generator=self._random, dtype=torch.float64)) * unit
        return round_to(noisy, self.scheme.optimizer_bits).float()
