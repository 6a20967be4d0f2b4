"""How a training run puts its model on a device: what the settings say is mapped, and what is compared with the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from loralith.mapping.attach_model import attach
from loralith.methods import method_class

if TYPE_CHECKING:
    from loralith.device.device import Device
    from loralith.methods.settings import FinetuneSettings

__all__ = ["attacher"]


def attacher(device: Device, verify: bool) -> Callable[[Any, FinetuneSettings], Any]:
    """What `training.loop.finetune` calls to put a model on ``device``, as the settings' method maps it; with ``verify`` every product is
    compared with the reference's."""

    def attach_to(model: Any, settings: FinetuneSettings) -> Any:
        if settings.modules == "step":
            from loralith.training.step_training import StepTraining
            from loralith.training.verification import GraphObserver

            observer = GraphObserver() if verify else None
            most, budget = settings.steps_per_submission, settings.memory_budget
            return StepTraining(device, settings.seed, settings.lr, observer, most, memory_budget=budget)
        observer = None
        if verify:
            from loralith.training.verification import ReferenceObserver

            observer = ReferenceObserver()
        kinds = method_class(settings.method).kinds
        return attach(model, device, settings.scheme(), observer=observer, modules=settings.modules, kinds=kinds)

    return attach_to
