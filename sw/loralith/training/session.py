"""The state of a fine-tune, and how it goes to a checkpoint and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from loralith.diffusion.peft_adapter import check_tensors
from loralith.formats.checkpoint import Checkpoint
from loralith.formats.run_folder import CHECKPOINT
from loralith.methods.settings import FinetuneSettings
from loralith.methods.training_method import Attach, Attachment, State
from loralith.reports.run_report import Evaluation, FinishedRun, Look
from loralith.training.resume import settings_record

if TYPE_CHECKING:
    from loralith.methods.training_method import Method

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # Adam's and AdamW's state of one parameter


class Session:
    """One process's part of a run. `step` counts completed steps, `losses` has one entry for each, `seconds` is their time."""

    def __init__(self, settings: FinetuneSettings, method: Method) -> None:
        self.settings, self.method = settings, method
        self.parameters, self.optimizer = method.parameters, method.optimizer
        self.step = 0
        self.losses: list[float] = []
        self.seconds = 0.0
        self.before: Evaluation | None = None
        self.looks: list[Look] = []
        self.attachment: Attachment | None = None
        self._earlier: dict[str, Any] = {}  # counters of earlier sessions
        self._attached: dict[str, Any] = {}  # state for the attachment that this session will make

    def counters(self) -> dict[str, Any]:
        """The attachment's counters over the whole run."""
        return merge_counters(self._earlier, self.attachment.counters()) if self.attachment else dict(self._earlier)

    @contextmanager
    def attached(self, model: nn.Module, attach: Attach | None, *, resumed: bool = False) -> Iterator[Attachment | None]:
        """Inside, ``model`` runs on what ``attach`` gives, and its counters count; ``resumed``: with the state that a checkpoint kept."""
        self.attachment = attach(model, self.settings) if attach else None
        try:
            if resumed:
                self._restore_attachment()
            yield self.attachment
        finally:
            if self.attachment:
                self._earlier = self.counters()
                self.attachment.detach()
                self.attachment = None

    def take_steps(self, step: int, most: int) -> list[float]:
        """A step by the method, or up to ``most`` by an attachment that takes whole steps; their losses."""
        train = getattr(self.attachment, "train", None)
        if train is None:
            return [self.method.step(step)]
        losses: list[float] = train(self.method, step, most)
        for number, loss in enumerate(losses, step):
            self.method.finite(loss, f"the loss of step {number}")
        return losses

    def collect(self) -> None:
        """Brings what an attachment has trained on the device to the method's parameters and optimizer."""
        collect = getattr(self.attachment, "collect", None)
        if collect is not None:
            collect()

    def state(self) -> Checkpoint:
        assert self.before is not None
        self.collect()
        tensors: dict[str, Tensor] = {f"parameter/{name}": tensor for name, tensor in self.parameters.items()}
        for name, tensor in self.parameters.items():
            for key, value in self.optimizer.state[tensor].items():
                tensors[f"{key}/{name}"] = value
        attached, values = split_state(self.attachment)
        tensors |= {f"attachment/{name}": tensor for name, tensor in attached.items()}
        tensors |= {f"look/{look.step}": look.samples for look in self.looks}
        own = self.method.state()
        tensors |= {f"method/{name}": tensor for name, tensor in own.tensors.items()}
        tensors |= {"before/samples": self.before.samples, "before/recognized": self.before.recognized}
        extra = {
            "settings": settings_record(self.settings),
            "losses": self.losses,
            "seconds": self.seconds,
            "counters": self.counters(),
            "attachment": values,
            "method": own.values,
            "looks": [[look.step, look.held_out_loss] for look in self.looks],
            "before": [self.before.held_out_loss, self.before.accuracy],
        }
        return Checkpoint(self.step, tensors, extra)

    def finished(self, after: Evaluation) -> FinishedRun:
        """The run at its end, for its report."""
        assert self.before is not None
        trained = sum(tensor.numel() for tensor in self.parameters.values())
        return FinishedRun(self.method, trained, self.before, after, self.losses, self.looks, self.counters(), self.seconds)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over a checkpoint's state; raises AdapterError, before anything is changed, where a tensor does not fit."""
        groups = checkpoint.groups()
        source = self.settings.output / CHECKPOINT
        check_tensors(groups.get("parameter", {}), dict(self.parameters), source)
        for name, tensor in self.parameters.items():
            tensor.copy_(groups["parameter"][name])
            if name in groups.get(MOMENTS[0], {}):  # what no step has reached has none
                self.optimizer.state[tensor] = {key: groups[key][name].clone() for key in MOMENTS}
        self.step = checkpoint.step
        self.losses = list(checkpoint.extra["losses"])
        self.seconds = checkpoint.extra["seconds"]
        loss, accuracy = checkpoint.extra["before"]
        self.before = Evaluation(loss, accuracy, groups["before"]["samples"], groups["before"]["recognized"])
        self.looks = [Look(at, loss, groups["look"][str(at)]) for at, loss in checkpoint.extra.get("looks", [])]
        self._earlier = dict(checkpoint.extra["counters"])
        self.method.restore(State(groups.get("method", {}), checkpoint.extra.get("method", {})))
        self._attached = {**groups.get("attachment", {}), **checkpoint.extra["attachment"]}

    def _restore_attachment(self) -> None:
        """Gives a new attachment the state that the checkpoint kept for it."""
        load = getattr(self.attachment, "load_state_dict", None)
        if load and self._attached:
            load(self._attached)


def split_state(attachment: Attachment | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The attachment's state as tensors and as JSON values; empty where it has none."""
    read = getattr(attachment, "state_dict", None)
    state: Mapping[str, Any] = read() if read else {}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in state.items() if name not in tensors}


def merge_counters(earlier: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """Counters of a run in several sessions: integers add up, booleans must all hold, those in a dictionary likewise, anything else is the
    latest."""
    merged = dict(earlier)
    for name, value in current.items():
        if isinstance(value, bool):
            merged[name] = value and bool(earlier.get(name, True))
        elif isinstance(value, int):
            merged[name] = value + int(earlier.get(name, 0))
        elif isinstance(value, Mapping):
            merged[name] = merge_counters(earlier.get(name, {}), value)
        else:
            merged[name] = value
    return merged
