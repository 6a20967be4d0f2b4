"""The state of a fine-tune, and how it goes to a checkpoint and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from loralith.diffusion.peft_adapter import check_tensors
from loralith.formats.checkpoint import Checkpoint
from loralith.formats.run_folder import CHECKPOINT
from loralith.methods.attachment_hook import Attach, Attachment, merge_counters, split_state
from loralith.methods.base import State
from loralith.methods.settings import FinetuneSettings
from loralith.training.evaluate import Evaluation
from loralith.training.resume import settings_record

if TYPE_CHECKING:
    from loralith.methods.base import Method

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # Adam's and AdamW's state of one parameter


@dataclass(frozen=True)
class Look:
    """What trains, after `step` steps, in plain FP32: held-out loss, a few samples [N, 1, 16, 16]."""

    step: int
    held_out_loss: float
    samples: Tensor


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

    def state(self) -> Checkpoint:
        assert self.before is not None
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

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over a checkpoint's state; raises AdapterError, before anything is changed, where a tensor does not fit."""
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in checkpoint.tensors.items():
            group, _, own = name.partition("/")
            groups.setdefault(group, {})[own] = tensor
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
