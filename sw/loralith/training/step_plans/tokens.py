"""ZOODiP's step: forward passes of all evaluations, differences of their losses, Adam on the token, all on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from loralith.diffusion.objective import Draw
from loralith.methods.zoodip.finite_differences import Probe, directions, draw_evaluation
from loralith.methods.zoodip.zoodip_method import Zoodip
from loralith.spec.step import StepScheme
from loralith.step.capture import capture_forward
from loralith.step.host import frozen_values, host_inputs, to_words
from loralith.step.lowering import lower
from loralith.step.optimizer import AdamW, with_optimizer
from loralith.step.program import StepProgram
from loralith.step.zeroth_order import HISTORY, PROJECTOR, TARGET, WEIGHT, with_estimate, with_history
from loralith.training.step_plans.plan import StepPlan, kept_moments, restore_moments

__all__ = ["SCHEME", "EvaluationPlan", "Slopes", "TokenPlan"]

TOKEN = "token"
EPS = 1e-3
"""The method's own, of Adam."""


SCHEME = StepScheme(storage="vector", operand_words=2)
"""Words between operators and two INT8 tensors for an operand: docs/step.md has the differences with less."""


class EvaluationPlan:
    """The evaluations of a step and the differences of their losses, in the numbers of ``scheme`` or of `SCHEME`.

    ``graph`` has the outputs ``loss``, ``differences`` [n, 1] and ``gradient.token``; `evaluation_inputs` says what the host writes.
    """

    def __init__(self, method: Zoodip, seed: int, draw: Draw, u: Tensor, scheme: StepScheme | None = None) -> None:
        self.method = method
        method.token.data.copy_(to_words(method.token))
        self.capture = capture_forward(method.model, {TOKEN: method.token}, method.predictions, method.evaluation(draw, u))
        self.lowered = lower(self.capture, scheme or replace(SCHEME, seed=seed))
        placeholders = [node for node in self.capture.graph.graph.nodes if node.op == "placeholder"]
        place = placeholders[self.capture.inputs.index("directions")]
        name = next(name for name, node in self.lowered.host.items() if node is place)
        self.graph = with_estimate(self.lowered.graph, name, TOKEN, tuple(draw.noise.shape))
        self.frozen = frozen_values(self.capture, self.graph)
        self.states: dict[str, Tensor] = {TOKEN: method.token.detach(), PROJECTOR: self.projector()}

    def evaluation_inputs(self, draw: Draw, u: Tensor, mu: float) -> dict[str, Tensor]:
        """Inputs by node: one draw, evaluated at the token and at ``mu`` times each of ``u`` [n, D] beside it."""
        inputs = host_inputs(self.capture, self.lowered, self.method.evaluation(draw, mu * u))
        return inputs | {TARGET: to_words(draw.noise), WEIGHT: to_words(torch.tensor(1.0 / (len(u) * mu * mu)))}

    def projector(self) -> Tensor:
        """Onto the method's subspace, words [D, D]."""
        basis = self.method.subspace.basis
        return torch.eye(self.method.token.numel()) if basis is None else to_words((basis.T @ basis).float())


class TokenPlan(StepPlan):
    """Of a `Zoodip`. The host writes one draw and the directions of a step, and reads the loss. The device keeps the token, its moments and
    its past; after every tau steps the host reads the past and writes the projector onto the subspace that comes of it."""

    def __init__(self, method: Zoodip, seed: int, step: int, lr: float) -> None:
        self.method, self.optimizer = method, AdamW(lr, eps=EPS)
        self.plan = EvaluationPlan(method, seed, *self._draw(step))
        self.graph = with_history(with_optimizer(self.plan.graph, self.optimizer), TOKEN, method.own.tau)
        self.frozen = self.plan.frozen
        past = torch.zeros(method.own.tau, method.token.numel())
        buffer = method.subspace.buffer
        past[len(past) - len(buffer) :] = buffer
        self.states = {**self.plan.states, **kept_moments(method.optimizer, TOKEN, method.token), HISTORY: past}

    def _draw(self, step: int) -> tuple[Draw, Tensor]:
        method, settings = self.method, self.method.settings
        draw = draw_evaluation("zoodip", settings.seed, step, batch=settings.batch, images=method.subject.images)
        return draw, directions("zoodip direction", settings.seed, step, method.own.perturbations, method.token.numel())

    def inputs(self, step: int) -> dict[str, Tensor]:
        given = self.plan.evaluation_inputs(*self._draw(step), self.method.mu)
        return given | {name: torch.tensor(value) for name, value in self.optimizer.scalars(step + 1).items()}

    def steps_left(self, step: int) -> int:
        tau = self.method.own.tau
        return tau - step % tau

    def after_submission(self, program: StepProgram, steps: int) -> None:
        if steps % self.method.own.tau:
            return
        past = torch.from_numpy(program.state(HISTORY))
        subspace = self.method.subspace
        subspace.buffer = subspace.buffer[:0]
        for token in past:
            subspace.add(token)
        onto = self.plan.projector()
        program.set_state(PROJECTOR, onto.numpy())
        program.traffic.read += past.nbytes
        program.traffic.written += onto.nbytes

    def collect(self, states: Mapping[str, Tensor], steps: int) -> None:
        method = self.method
        method.token.copy_(states[TOKEN])
        restore_moments(method.optimizer, self.optimizer, TOKEN, method.token, states, steps)
        count = steps % method.own.tau
        method.subspace.buffer = states[HISTORY][method.own.tau - count :].clone()


class Slopes:
    """Slopes of the loss in the step's numbers, as ZOODiP measures them before a run starts: by the graph's interpretation, whose bits are
    every device's, since the RTL would take minutes for each."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.plan: EvaluationPlan | None = None

    def __call__(self, method: Zoodip, probe: Probe, mu: float) -> Tensor:
        """[n], float64, along the probe's directions."""
        from loralith.training.verification import interpreted

        if self.plan is None:
            self.plan = EvaluationPlan(method, self.seed, probe.draw, probe.u)
        graph = self.plan.graph
        given = {**self.plan.frozen, **self.plan.states, **self.plan.evaluation_inputs(probe.draw, probe.u, mu)}
        return interpreted(graph, given, self.seed, "differences").flatten().double() / mu
