"""`finetune --map step`: a whole training step on the device, with the optimizer; the host has the batch, the loss and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from loralith.device.device import Device
from loralith.device.reference import ReferenceDevice
from loralith.errors import LoralithError
from loralith.methods.lora import Lora
from loralith.methods.training_method import Method
from loralith.progress import every, tell
from loralith.spec.graph import Graph, Op
from loralith.spec.step import StepScheme
from loralith.step.capture import Capture, capture_step
from loralith.step.host import frozen_values, host_inputs, to_words
from loralith.step.lowering import Lowered, lower
from loralith.step.optimizer import AdamW, Optimizer, moments_of, with_optimizer
from loralith.step.program import StepProgram

__all__ = ["StepObserver", "StepTraining"]


class StepObserver(Protocol):
    """Sees each submission with all that it was computed from."""

    def submission(
        self, program: StepProgram, given: Sequence[Mapping[str, Tensor]], seed: int, step: int, losses: Sequence[float]
    ) -> None:
        """``given``: inputs and frozen tensors of each step, of the first one states too, as they were before step ``step``."""
        ...

    def counters(self) -> Mapping[str, Any]: ...


TOLD = 10.0
"""Seconds between two messages while a submission runs."""


class StepTraining:
    """An attachment that takes whole steps: `train` in place of a method's own step.

    Parameters: ``device``; ``seed`` of stochastic rounding; ``lr`` of AdamW; ``observer``, or none; ``most``, steps of one submission;
    ``optimizer``, in place of AdamW; ``memory_budget``, bytes of device memory that tensors may take, or all that is free.
    `collect` brings AdamW's moments to the method's own optimizer, of another optimizer the adapter alone.
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
        self.optimizer = optimizer or AdamW(lr)
        self.program: StepProgram | None = None
        self._before = device.counters()
        self._method: Method | None = None
        self._steps = 0
        self._compiled_for: dict[str, str] = {}

    def step_begin(self, step: int) -> None:
        """Nothing is to be done: `train` knows the step."""

    def train(self, method: Method, step: int, count: int = 1) -> list[float]:
        """Up to ``count`` steps of ``method`` from one submission, from step ``step`` on, which counts from 0; their losses.

        Raises LoralithError, before anything runs, where the step cannot be compiled or does not fit, and where the model has changed.
        """
        if not isinstance(method, Lora):
            raise LoralithError(f"--map step trains LoRA adapters, not {method.label}")
        batches = [method.batch(step + i) for i in range(min(count, self.most))]
        if self.program is None:
            self._compile(method, batches[0])
        assert self.program is not None
        self._same_graph(method)
        given = []
        for i, batch in enumerate(batches):
            inputs = host_inputs(self.capture, self.lowered, batch)
            inputs |= {name: torch.tensor(value) for name, value in self.optimizer.scalars(step + i + 1).items()}
            given.append({name: inputs[name] for name in self.program.compiled.inputs})
        states = self._states() if self.observer else {}
        arrays = [{name: value.numpy() for name, value in inputs.items()} for inputs in given]
        with every(TOLD, lambda seconds: self._told(step, len(batches), seconds)):
            losses = self.program.steps(arrays, step)
        self._steps = step + len(batches)
        if self.observer:
            seen = [{**self.frozen, **inputs} for inputs in given]
            self.observer.submission(self.program, [seen[0] | states, *seen[1:]], self.seed, step, losses)
        return losses

    def _told(self, step: int, count: int, seconds: float) -> str:
        steps = f"step {step}" if count == 1 else f"steps {step} to {step + count - 1}"
        return f"{steps} on the device: {seconds:.0f} s so far; Ctrl-C ends the run after the submission, a second one at once"

    def _same_graph(self, method: Lora) -> None:
        """Raises LoralithError where the model that was compiled is not the one that is to be trained any more."""
        state = _state_of(method)
        for name in (*state, *self._compiled_for):
            now, before = state.get(name), self._compiled_for.get(name)
            if now != before:
                raise LoralithError(
                    f"{name} is {now or 'gone'} and was {before or 'not there'} when the step was compiled; attach the model anew"
                )

    def _compile(self, method: Lora, batch: Mapping[str, Tensor]) -> None:
        tell("compiling the step: from seconds for a tiny model to minutes")
        with torch.no_grad():
            for parameter in method.parameters.values():
                parameter.copy_(to_words(parameter))
        self._compiled_for = _state_of(method)
        self.capture: Capture = capture_step(method.model, method.loss_of, batch)
        self.lowered: Lowered = lower(self.capture, StepScheme(seed=self.seed))
        graph: Graph = with_optimizer(self.lowered.graph, self.optimizer)
        self.frozen = frozen_values(self.capture, graph)
        states: dict[str, Tensor] = {}
        for name in self.capture.trained:
            kept = method.optimizer.state[method.parameters[name]]
            states[name] = method.parameters[name].detach()
            if isinstance(self.optimizer, AdamW):
                for moment, key in zip(moments_of(name), ("exp_avg", "exp_avg_sq"), strict=True):
                    states[moment] = kept[key] if kept else torch.zeros_like(states[name])
        # The reference device runs commands one by one, in list order.
        tokens = None
        if not isinstance(self.device, ReferenceDevice):
            from loralith.compiler.tokens.sync import synchronize

            tokens = synchronize
        self.program = StepProgram(
            self.device,
            graph,
            self.seed,
            {name: value.numpy() for name, value in self.frozen.items()},
            {name: value.numpy() for name, value in states.items()},
            verify=self.observer is not None,
            tokens=tokens,
            most=self.most,
            memory_budget=self.memory_budget,
        )
        self._method = method

    def _states(self) -> dict[str, Tensor]:
        assert self.program is not None
        return {node.name: torch.from_numpy(self.program.state(node.name)) for node in self.program.graph.of(Op.STATE)}

    @torch.no_grad()
    def collect(self) -> None:
        """Brings adapter and optimizer state to the model and its optimizer, for a checkpoint or a look."""
        if self.program is None or self._method is None or not self._steps:
            return
        states = self._states()
        for name in self.capture.trained:
            parameter = self._method.parameters[name]
            parameter.copy_(states[name])
            if not isinstance(self.optimizer, AdamW):
                continue
            first, second = (states[moment] for moment in moments_of(name))
            self._method.optimizer.state[parameter] = {"step": torch.tensor(float(self._steps)), "exp_avg": first, "exp_avg_sq": second}

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
                "compile_seconds": self.program.compile_seconds,
            }
        return counts | dict(self.observer.counters() if self.observer else {})

    def detach(self) -> None:
        """The model has what was trained; device memory is free again."""
        self.collect()
        if self.program is not None:
            self.program.free()
            self.program = None


def _state_of(method: Lora) -> dict[str, str]:
    """What a compiled step depends on of the model, in words: which parameters are trained, of which shape, and modules' modes."""
    found = {
        name: f"{'trained' if parameter.requires_grad else 'frozen'} {list(parameter.shape)}"
        for name, parameter in method.model.named_parameters()
    }
    return found | {
        name or "the model": "in training mode" if module.training else "in evaluation mode"
        for name, module in method.model.named_modules()
    }
