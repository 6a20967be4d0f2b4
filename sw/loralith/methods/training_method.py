"""What a training method is to the training loop, and what the loop lends it."""

from __future__ import annotations

import math
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from loralith.diffusion.prompt import PromptEncoder
from loralith.errors import LoralithError, StopRequested

if TYPE_CHECKING:
    from loralith.diffusion.schedule import Denoiser
    from loralith.diffusion.subject import Subject
    from loralith.mapping.attachment import Maker
    from loralith.methods.settings import FinetuneSettings

__all__ = ["Abandoned", "Attach", "Attachment", "Bench", "Interrupted", "Method", "State", "TrainingError"]


class TrainingError(LoralithError):
    """A step whose loss or gradient is not finite; the last checkpoint stays."""


class Interrupted(StopRequested):
    """A run that was asked to stop and can be resumed; `step` steps are in its checkpoint."""

    def __init__(self, step: int, folder: Path) -> None:
        super().__init__(f"stopped after step {step}; to go on: loralith finetune --resume --output {shlex.quote(str(folder))}")
        self.step = step


class Abandoned(StopRequested):
    """A run that was asked to stop before it had anything to resume from."""


@dataclass(frozen=True)
class State:
    """What a method keeps beside its parameters and the optimizer: tensors by name, and JSON values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What the loop lends to `Method.begin` and `prepare`: a model on the run's device (None in plain torch), progress as text,
    and whether to stop."""

    attached: Callable[[nn.Module], AbstractContextManager[Attachment | None]]
    say: Callable[[str], None]
    stopping: Callable[[], bool]


class Attachment(Protocol):
    """What `attach` returns: the layers run on a device until `detach`.

    An attachment may also have `state_dict()` and `load_state_dict(state)`: a mapping of names to tensors or JSON values that a resumed
    run needs for the same bits (such as the history of delayed scales).
    """

    def step_begin(self, step: int) -> None:
        """Called before the forward pass of each step, counted from 0; stochastic rounding draws from this number."""
        ...

    def counters(self) -> Mapping[str, Any]:
        """Counts since this attachment was made (integers, such as `cycles` and `macs`), and figures (booleans such as `bit_exact`,
        floats such as `utilization`, texts)."""
        ...

    def detach(self) -> None:
        """Gives the layers back to torch. Also called when the run fails."""
        ...


Attach = Callable[[nn.Module, "FinetuneSettings"], Attachment]


class Method(ABC):
    """One way to train, for one run.

    Attributes: ``settings``, ``subject``; ``encoder``, the prompts' embeddings; ``model``, what trains and what a device takes over;
    ``parameters``, trained tensors by name, in order of name; ``optimizer``.

    A subclass makes model and parameters in `__init__`, from the settings' seed alone, and says in ``kinds`` which kinds of module it maps
    in another way than `loralith.attach` does (None: the kind stays in torch), and with ``sparse`` that a step need not reach every
    parameter.
    """

    kinds: ClassVar[Mapping[str, Maker | None]] = {}
    sparse: ClassVar[bool] = False

    def __init__(
        self, settings: FinetuneSettings, subject: Subject, encoder: PromptEncoder, model: nn.Module, parameters: Mapping[str, nn.Parameter]
    ) -> None:
        self.settings, self.subject, self.encoder, self.model = settings, subject, encoder, model
        self.parameters = dict(sorted(parameters.items()))
        self.optimizer = self.make_optimizer()

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters.values(), lr=self.settings.lr, weight_decay=0.0)

    def begin(self, bench: Bench) -> None:
        """First values of a run that is not resumed, and what must hold before anything is written."""
        return

    def prepare(self, bench: Bench) -> None:
        """What comes before the first step of a session; resumable. Raises Interrupted where it was asked to stop."""
        return

    def loss(self, step: int) -> Tensor:
        """A scalar to go back from; its draw is a function of the settings' seed and of ``step`` alone."""
        raise NotImplementedError

    def forward(self, step: int) -> Tensor:
        """The forward pass of a step; without a backward pass to come, it leaves the gradients itself."""
        return self.loss(step)

    def step(self, step: int) -> float:
        """One optimizer step; its loss. Raises TrainingError for a loss or gradient that is not finite."""
        loss = self.loss(step)
        self.finite(loss.item(), f"the loss of step {step}")
        self.optimizer.zero_grad()
        loss.backward()
        for name, tensor in self.parameters.items():
            if (tensor.grad is None and not self.sparse) or (tensor.grad is not None and not tensor.grad.isfinite().all()):
                raise TrainingError(
                    f"step {step} gave no finite gradient for {name}; a lower --lr than {self.settings.lr} may help: "
                    "start again with one and another --output"
                )
        self.optimizer.step()
        return loss.item()

    def finite(self, loss: float, what: str) -> None:
        """Raises TrainingError that says ``what`` is not finite; a resumed run would come to the same."""
        if not math.isfinite(loss):
            lr = self.settings.lr
            raise TrainingError(f"{what} is {loss}; a lower --lr than {lr} may help: start again with one and another --output")

    def state(self) -> State:
        """What a resumed run needs, beside parameters and optimizer."""
        return State({}, {})

    def restore(self, state: State) -> None:
        """The inverse of `state`."""
        return

    @abstractmethod
    def evaluation_model(self) -> tuple[Denoiser, PromptEncoder]:
        """The model as trained so far, in plain FP32 torch, and its prompts' embeddings: of their own, so that a run is not touched."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes the result's files, each whole or not at all."""

    @abstractmethod
    def figures(self) -> dict[str, Any]:
        """What report.json says of the method, JSON values by section."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What it is, in a few words for headings."""

    @property
    @abstractmethod
    def result(self) -> str:
        """The name of the file that holds what was trained."""
