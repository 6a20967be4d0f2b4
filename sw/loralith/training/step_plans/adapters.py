"""LoRA's step, of the whole net or of a hollowed one: forward, backward and AdamW or SGD on the adapter."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from loralith.methods.hollow.hollow_method import HollowedNet
from loralith.methods.lora import Lora
from loralith.spec.step import StepScheme
from loralith.step.capture import capture_step
from loralith.step.host import frozen_values, host_inputs, to_words
from loralith.step.lowering import lower
from loralith.step.optimizer import AdamW, Optimizer, with_optimizer
from loralith.training.step_plans.plan import StepPlan, kept_moments, restore_moments

__all__ = ["AdapterPlan", "HollowPlan"]


class AdapterPlan(StepPlan):
    """Of a `Lora`. The host writes the noised images, the time steps' embedding, the prompts' and the noise."""

    def __init__(self, method: Lora, seed: int, step: int, lr: float, optimizer: Optimizer | None) -> None:
        self.method, self.optimizer = method, optimizer or AdamW(lr)
        self.capture = capture_step(method.model, method.loss_of, method.batch(step))
        self.lowered = lower(self.capture, StepScheme(seed=seed))
        self.graph = with_optimizer(self.lowered.graph, self.optimizer)
        self.frozen = frozen_values(self.capture, self.graph)
        states: dict[str, Tensor] = {}
        for name in self.capture.trained:
            states[name] = method.parameters[name].detach()
            if isinstance(self.optimizer, AdamW):
                states |= kept_moments(method.optimizer, name, method.parameters[name])
        self.states = states

    def inputs(self, step: int) -> dict[str, Tensor]:
        given = host_inputs(self.capture, self.lowered, self.method.batch(step))
        return given | {name: torch.tensor(value) for name, value in self.optimizer.scalars(step + 1).items()}

    def collect(self, states: Mapping[str, Tensor], steps: int) -> None:
        for name in self.capture.trained:
            parameter = self.method.parameters[name]
            parameter.copy_(states[name])
            restore_moments(self.method.optimizer, self.optimizer, name, parameter, states, steps)


class HollowPlan(AdapterPlan):
    """Of a `HollowedNet`: all its boundary tensors lie in device memory, and a step reads that of its batch."""

    method: HollowedNet

    def __init__(self, method: HollowedNet, seed: int, step: int, lr: float, optimizer: Optimizer | None) -> None:
        super().__init__(method, seed, step, lr, optimizer)
        placeholders = [node for node in self.capture.graph.graph.nodes if node.op == "placeholder"]
        place = placeholders[self.capture.inputs.index("boundary")]
        self.boundary = next(name for name, node in self.lowered.host.items() if node is place)
        batches = range(method.batches)
        self.tables = {self.boundary: to_words(torch.stack([method.image(batch) for batch in batches]))}

    def entries(self, step: int) -> dict[str, int]:
        return {self.boundary: self.method.batch_of(step)}
