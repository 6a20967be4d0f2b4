"""What a method's step is to `StepTraining`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from loralith.spec.graph import Graph
from loralith.step.optimizer import AdamW, Optimizer, moments_of
from loralith.step.program import StepProgram

__all__ = ["UNBOUNDED", "StepPlan", "kept_moments", "restore_moments"]

UNBOUNDED = 2**32


class StepPlan(ABC):
    """A step that is compiled for a method.

    Attributes: ``graph``, with the optimizer; ``frozen``, values that are written once; ``states``, first values of what stays on the
    device; ``tables``, of inputs that lie in device memory, values [entries, ...]; each by node.
    """

    tables: Mapping[str, Tensor] = {}

    graph: Graph
    frozen: Mapping[str, Tensor]
    states: Mapping[str, Tensor]

    @abstractmethod
    def inputs(self, step: int) -> dict[str, Tensor]:
        """What the host writes before step ``step``, from 0, by node."""

    def entries(self, step: int) -> dict[str, int]:
        """Which entry of each of ``tables`` step ``step`` reads."""
        return {}

    def steps_left(self, step: int) -> int:
        """Number of steps from ``step`` on that may run before the host needs `after_submission`."""
        return UNBOUNDED

    def after_submission(self, program: StepProgram, steps: int) -> None:
        """What the host does after a submission; ``steps`` are done. What it reads and writes is the steps' traffic."""
        return

    @abstractmethod
    def collect(self, states: Mapping[str, Tensor], steps: int) -> None:
        """Brings what was trained to the method's parameters and optimizer; ``states`` of the device after ``steps`` steps."""


def kept_moments(optimizer: torch.optim.Optimizer, name: str, parameter: Tensor) -> dict[str, Tensor]:
    """First values of AdamW's moments of a parameter: a resumed run's, or zeros."""
    kept = optimizer.state[parameter]
    keys = ("exp_avg", "exp_avg_sq")
    return {moment: kept[key] if kept else torch.zeros_like(parameter) for moment, key in zip(moments_of(name), keys, strict=True)}


def restore_moments(
    optimizer: torch.optim.Optimizer, own: Optimizer, name: str, parameter: Tensor, states: Mapping[str, Tensor], steps: int
) -> None:
    """Writes a parameter's moments from the device's ``states`` into torch's AdamW."""
    if isinstance(own, AdamW):
        first, second = (states[moment] for moment in moments_of(name))
        optimizer.state[parameter] = {"step": torch.tensor(float(steps)), "exp_avg": first, "exp_avg_sq": second}
