"""A run's state, its device, and how the state goes to a checkpoint and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from loralith.diffusion.peft_adapter import check_tensors
from loralith.formats.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from loralith.formats.run_folder import PIPELINE_CHECKPOINT
from loralith.methods.options import HollowOptions
from loralith.methods.training_method import Attachment
from loralith.pipeline.pipeline_method import PipelineMethod
from loralith.pipeline.settings import PipelineSettings
from loralith.training.session import merge_counters, split_state

__all__ = ["Attach", "Run", "checkpoint_of"]

Attach = Callable[[nn.Module, PipelineSettings], Attachment]


class Run:
    """``step`` counts completed steps; ``losses`` has one entry for each; ``seconds`` is their time. ``pictures``: uint8 [N, H, W, 3] drawn
    after so many steps, of the validation prompts."""

    def __init__(self, settings: PipelineSettings, method: PipelineMethod) -> None:
        self.settings, self.method = settings, method
        self.step = 0
        self.losses: list[float] = []
        self.seconds = 0.0
        self.pictures: dict[int, Tensor] = {}
        self.attachment: Attachment | None = None
        self._earlier: dict[str, Any] = {}
        self._attached: dict[str, Any] = {}

    def counters(self) -> dict[str, Any]:
        """The attachments' counters over the whole run."""
        return merge_counters(self._earlier, self.attachment.counters()) if self.attachment else dict(self._earlier)

    @contextmanager
    def attached(self, attach: Attach | None) -> Iterator[None]:
        """Inside, the method's model runs on what ``attach`` gives, from the state that the last attachment of the run had."""
        self.attachment = attach(self.method.model, self.settings) if attach else None
        try:
            load = getattr(self.attachment, "load_state_dict", None)
            if load and self._attached:
                load(self._attached)
            yield
        finally:
            if self.attachment:
                tensors, values = split_state(self.attachment)
                self._attached = {**tensors, **values}
                self._earlier = self.counters()
                self.attachment.detach()
                self.attachment = None

    def state(self) -> Checkpoint:
        method = self.method
        tensors: dict[str, Tensor] = {f"parameter/{name}": tensor for name, tensor in method.parameters.items()}
        values: dict[str, dict[str, Any]] = {}
        for name, tensor in method.parameters.items():
            for key, value in method.optimizer.state[tensor].items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{key}/{name}"] = value
                else:
                    values.setdefault(key, {})[name] = value
        tensors |= {f"average/{name}": tensor for name, tensor in method.averages.items()}
        tensors |= {f"method/{name}": tensor for name, tensor in method.state().items()}
        tensors |= {f"pictures/{step}": images for step, images in self.pictures.items()}
        kept = split_state(self.attachment) if self.attachment else _split(self._attached)
        tensors |= {f"attachment/{name}": tensor for name, tensor in kept[0].items()}
        extra = {
            "settings": self.settings.record(),
            "losses": self.losses,
            "seconds": self.seconds,
            "counters": self.counters(),
            "attachment": kept[1],
            "optimizer": values,
        }
        return Checkpoint(self.step, tensors, extra)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over a checkpoint's state; raises AdapterError, before anything is changed, where a tensor does not fit."""
        groups = checkpoint.groups()
        method, extra = self.method, checkpoint.extra
        check_tensors(groups.get("parameter", {}), dict(method.parameters), self.settings.output / PIPELINE_CHECKPOINT)
        for name, tensor in method.parameters.items():
            tensor.copy_(groups["parameter"][name])
        for name, average in method.averages.items():
            average.copy_(groups["average"][name])
        for place, value in groups.get("optimizer", {}).items():
            key, _, name = place.partition("/")
            method.optimizer.state[method.parameters[name]][key] = value.clone()
        for key, own in extra["optimizer"].items():
            for name, value in own.items():
                method.optimizer.state[method.parameters[name]][key] = value
        method.restore(groups.get("method", {}))
        self.step, self.losses, self.seconds = checkpoint.step, list(extra["losses"]), extra["seconds"]
        self.pictures = {int(step): images for step, images in sorted(groups.get("pictures", {}).items(), key=lambda item: int(item[0]))}
        self._earlier = dict(extra["counters"])
        self._attached = {**groups.get("attachment", {}), **extra["attachment"]}


def _split(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in state.items() if name not in tensors}


def checkpoint_of(settings: PipelineSettings, identity: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint in the settings' folder, of a run whose settings are these, but for the number of steps where the learning rate does
    not depend on it. Raises CheckpointError."""
    path = settings.output / PIPELINE_CHECKPOINT
    checkpoint = load_checkpoint(path, identity, may_differ=("steps",))
    there = checkpoint.settings["steps"]
    if there != settings.steps and settings.lr_schedule != "constant":
        raise CheckpointError(f"steps is {there} there and {settings.steps} here, and the {settings.lr_schedule} learning rate follows it")
    if settings.method == "hollowed-net":
        options = HollowOptions(samples=settings.samples_stored)
        stored, needed = (options.prepared(steps, settings.batch) for steps in (there, settings.steps))
        if stored != needed:
            raise CheckpointError(f"a run of {there} steps stores {stored} batches and one of {settings.steps} {needed}; start a new run")
    if settings.steps < checkpoint.step:
        raise CheckpointError(f"{checkpoint.step} steps are done in {settings.output}; --steps must be at least that, not {settings.steps}")
    return checkpoint
