"""The memory of a fine-tuning step of the small diffusion model, by method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loralith.device import open_device
from loralith.diffusion.determinism import repeatable
from loralith.mapping.attach_model import attach
from loralith.mapping.planning.saved_memory import Account, measure
from loralith.methods import make_method
from loralith.methods.options import HollowOptions, Options, TuneqdmOptions, ZoodipOptions
from loralith.methods.settings import FinetuneSettings
from loralith.methods.training_method import Bench
from loralith.spec.config import Config
from loralith.spec.scheme import FQT

__all__ = ["MEASURED_STEPS", "MeasuredStep", "measure_method"]

BASELINE = "fp32-lora"
INNER = "down_blocks.2,mid_block,up_blocks.0"


@dataclass(frozen=True)
class MeasuredStep:
    """A training step to measure. ``text``: what it is, for a table. ``step``: measures one, on a device of the configuration.
    ``maps``: kinds of modules that it maps, whose saved tensors are compared with FP32's."""

    text: str
    step: Callable[[FinetuneSettings, Config], Account]
    maps: tuple[str, ...] = ("lora", "linear", "conv", "attention")


def step_of(settings: FinetuneSettings, config: Config, modules: str | None, weight_bits: int = 8) -> Account:
    """The second step of the settings' method, in torch where ``modules`` is None."""
    with repeatable(), TemporaryDirectory() as folder:
        method = make_method(replace(settings, output=Path(folder)), settings.subject())
        method.prepare(Bench(lambda model: nullcontext(), lambda note: None, lambda: False))
        method.model.train()
        if modules is None:
            method.step(0)
            return measure(method.model, lambda: method.forward(1), method.optimizer)
        with open_device("reference", config) as device:
            scheme = FQT(seed=settings.seed, weight_bits=weight_bits)
            attachment = attach(method.model, device, scheme, modules=modules, kinds=method.kinds)
            try:
                method.step(0)
                return measure(method.model, lambda: method.forward(1), method.optimizer, attachment)
            finally:
                attachment.detach()


def _method(name: str, text: str, options: Options | None = None, weight_bits: int = 8) -> MeasuredStep:
    """A method with all that multiplies on the device, and settings that make one step of it."""

    def step(settings: FinetuneSettings, config: Config) -> Account:
        return step_of(replace(settings, method=name, options=options), config, "all", weight_bits)

    return MeasuredStep(text, step)


MEASURED_STEPS: Mapping[str, MeasuredStep] = {
    BASELINE: MeasuredStep("LoRA in FP32 torch", lambda settings, config: step_of(settings, config, None)),
    "lora": MeasuredStep(
        "INT8 LoRA layers on the device, the rest in torch", lambda settings, config: step_of(settings, config, "lora"), ("lora",)
    ),
    "lora-all": _method("lora", "INT8 LoRA, all that multiplies on the device"),
    "lora-all-int4": _method("lora", "the same with W as INT4, two to a byte", weight_bits=4),
    "hollowed-net": _method("hollowed-net", "INT8 LoRA without the inner blocks", HollowOptions(INNER, samples=1)),
    "tuneqdm": _method("tuneqdm", "scales of 4 bit codes, one expert", TuneqdmOptions(experts=1)),
    "zoodip": _method("zoodip", "one token, forward only, 3 evaluations in a pass", ZoodipOptions(mu=1e-2)),
}


def measure_method(name: str, settings: FinetuneSettings, config: Config) -> dict[str, Any]:
    """Figures of one method as JSON values."""
    step = MEASURED_STEPS[name]
    return {"text": step.text, "maps": list(step.maps), **step.step(settings, config).figures()}
