"""`finetune --map step`: a whole training step on the device, with the optimizer; the host has the batch, the loss and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from loralith.device.device import Device
from loralith.device.reference import ReferenceDevice
from loralith.errors import LoralithError
from loralith.methods.training_method import Method
from loralith.methods.zoodip.finite_differences import Probe
from loralith.methods.zoodip.zoodip_method import Zoodip
from loralith.progress import every, tell
from loralith.spec.graph import Op
from loralith.step.host import to_words
from loralith.step.optimizer import Optimizer
from loralith.step.program import StepProgram
from loralith.training.step_plans import StepPlan, plan_of
from loralith.training.step_plans.tokens import Slopes

__all__ = ["StepObserver", "StepTraining"]


class StepObserver(Protocol):
    """Sees each submission with all that it was computed from."""

    def submission(
        self, program: StepProgram, given: Sequence[Mapping[str, Tensor]], seed: int, step: int, losses: Sequence[float]
    ) -> None:
        """``given``: inputs and frozen tensors of each step, of the first one states too, as they were before step ``step``."""
        ...

    def counters(self) -> Mapping[str, Any]: ...


PROGRESS_SECONDS = 10.0
"""Seconds between two messages while a submission runs."""


class StepTraining:
    """An attachment that takes whole steps: `train` in place of a method's own step.

    Parameters: ``device``; ``seed`` of stochastic rounding; ``lr``; ``observer``, or none; ``most``, steps of one submission;
    ``optimizer``, of LoRA in place of AdamW; ``memory_budget``, bytes of device memory that tensors may take, or all that is free.
    `collect` brings AdamW's moments to the method's own optimizer, of another optimizer what is trained alone.
    """

    def __init__(
        self,
        device: Device,
        seed: int,
        lr: float,
        observer: StepObserver | None = None,
        most: int = 1,
        *,
        optimizer: Optimizer | None = None,
        memory_budget: int | None = None,
    ) -> None:
        self.device, self.observer, self.seed, self.most, self.memory_budget = device, observer, seed, most, memory_budget
        self.lr, self.optimizer = lr, optimizer
        self.program: StepProgram | None = None
        self._before = device.counters()
        self._slopes: Slopes | None = None
        self._steps = 0
        self._compiled_for: dict[str, str] = {}

    def step_begin(self, step: int) -> None:
        """Nothing is to be done: `train` knows the step."""

    def train(self, method: Method, step: int, count: int = 1) -> list[float]:
        """Up to ``count`` steps of ``method`` from one submission, from step ``step`` on, which counts from 0; their losses.

        Raises LoralithError, before anything runs, where the step cannot be compiled or does not fit, and where the model has changed.
        """
        if self.program is None:
            self._compile(method, step)
        assert self.program is not None
        self._same_graph(method)
        given, arrays = [], []
        for i in range(min(count, self.most, self.plan.steps_left(step))):
            inputs = self.plan.inputs(step + i)
            given.append({name: inputs[name] for name in self.program.compiled.inputs})
            picked = {name: np.array(entry) for name, entry in self.plan.entries(step + i).items()}
            arrays.append({name: value.numpy() for name, value in given[-1].items()} | picked)
        states = self._states() if self.observer else {}
        with every(PROGRESS_SECONDS, lambda seconds: self._progress_line(step, len(given), seconds)):
            losses = self.program.steps(arrays, step)
        self._steps = step + len(given)
        if self.observer:
            seen = [{**self.plan.frozen, **inputs} for inputs in given]
            self.observer.submission(self.program, [seen[0] | states, *seen[1:]], self.seed, step, losses)
        self.plan.after_submission(self.program, self._steps)
        return losses

    def slopes(self, method: Zoodip, probe: Probe, mu: float) -> Tensor:
        """Slopes [n] of the loss along a probe's directions, in the step's numbers, as ZOODiP measures them before it starts."""
        if self._slopes is None:
            self._slopes = Slopes(self.seed)
        return self._slopes(method, probe, mu)

    def _progress_line(self, step: int, count: int, seconds: float) -> str:
        steps = f"step {step}" if count == 1 else f"steps {step} to {step + count - 1}"
        return f"{steps} on the device: {seconds:.0f} s so far; Ctrl-C ends the run after the submission, a second one at once"

    def compiled_for(self, method: Method) -> None:
        """Notes the model that the step is compiled for, which must stay as it is."""
        self._compiled_for = _state_of(method)

    def _same_graph(self, method: Method) -> None:
        """Raises LoralithError where the model that was compiled is not the one that is to be trained any more."""
        state = _state_of(method)
        for name in (*state, *self._compiled_for):
            now, before = state.get(name), self._compiled_for.get(name)
            if now != before:
                raise LoralithError(
                    f"{name} is {now or 'gone'} and was {before or 'not there'} when the step was compiled; attach the model anew"
                )

    def _compile(self, method: Method, step: int) -> None:
        tell("compiling the step: from seconds for a tiny model to minutes")
        with torch.no_grad():
            for parameter in method.parameters.values():
                parameter.copy_(to_words(parameter))
        self.compiled_for(method)
        self.plan: StepPlan = plan_of(method, self.seed, step, self.lr, self.optimizer)
        # The reference device runs commands one by one, in list order.
        tokens = None
        if not isinstance(self.device, ReferenceDevice):
            from loralith.compiler.tokens.sync import synchronize

            tokens = synchronize
        self.program = StepProgram(
            self.device,
            self.plan.graph,
            self.seed,
            {name: value.numpy() for name, value in self.plan.frozen.items()},
            {name: value.numpy() for name, value in self.plan.states.items()},
            verify=self.observer is not None,
            tokens=tokens,
            most=self.most,
            memory_budget=self.memory_budget,
            tables={name: value.numpy() for name, value in self.plan.tables.items()},
        )

    def _states(self) -> dict[str, Tensor]:
        assert self.program is not None
        return {node.name: torch.from_numpy(self.program.state(node.name)) for node in self.program.graph.of(Op.STATE)}

    @torch.no_grad()
    def collect(self) -> None:
        """Brings what was trained and the optimizer's state to the method, for a checkpoint or a look."""
        if self.program is not None and self._steps:
            self.plan.collect(self._states(), self._steps)

    def counters(self) -> dict[str, Any]:
        """As an attachment's; and of the step: commands, bytes of the list and of device memory, seconds to compile, the host's bytes."""
        now = self.device.counters().minus(self._before)
        counts: dict[str, Any] = {name: getattr(now, name) for name in ("cycles", "macs", "bytes_read", "bytes_written", "saturations")}
        elements = self.device.config.processing_elements
        counts |= {"cycle_unit": self.device.cycle_unit, "utilization": now.macs / (now.cycles * elements) if now.cycles else 0.0}
        if self.program is not None:
            traffic, steps = self.program.traffic, max(self.program.traffic.steps, 1)
            counts |= {
                "host_bytes_written_per_step": float(traffic.written / steps),
                "host_bytes_read_per_step": float(traffic.read / steps),
                "list_bytes": float(self.program.list_bytes),
                "step_memory_bytes": float(self.program.memory_bytes),
                **({"table_bytes": float(self.program.table_bytes)} if self.program.tables else {}),
                "compile_seconds": self.program.compile_seconds,
            }
        return counts | dict(self.observer.counters() if self.observer else {})

    def detach(self) -> None:
        """The model has what was trained; device memory is free again."""
        self.collect()
        if self.program is not None:
            self.program.free()
            self.program = None


def _state_of(method: Method) -> dict[str, str]:
    """What a compiled step depends on of the model, in words: which parameters are trained, of which shape, and modules' modes."""
    found = {
        name: f"{'trained' if parameter.requires_grad else 'frozen'} {list(parameter.shape)}"
        for name, parameter in method.model.named_parameters()
    }
    return found | {
        name or "the model": "in training mode" if module.training else "in evaluation mode"
        for name, module in method.model.named_modules()
    }
