"""What trains on a pipeline: the base of its methods, and LoRA."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from loralith.diffusion.determinism import seed_global
from loralith.diffusion.peft_adapter import module_shapes
from loralith.formats.adapter_file import Adapter, Layer, scheme_header, write_diffusers, write_kohya, write_peft
from loralith.formats.run_folder import DIFFUSERS_FILE, KOHYA_FILE, PEFT_FILE
from loralith.mapping.attachment import Maker
from loralith.methods.options import SettingsError
from loralith.methods.training_method import TrainingError
from loralith.pipeline.draws import Pictures, Sampler
from loralith.pipeline.families.base import Family
from loralith.pipeline.memory import check_adapter
from loralith.pipeline.optimizer import learning_rate, make_optimizer
from loralith.pipeline.settings import PipelineSettings

__all__ = ["Lora", "PipelineMethod"]


class PipelineMethod(ABC):
    """One way to train a pipeline, for one run.

    Attributes: ``model``, which a device takes over; ``parameters``, trained tensors by name, in order of name; ``optimizer``;
    ``averages``, the parameters' moving averages by name, empty without `ema`.
    """

    result: ClassVar[str]
    """The name of the file that holds what was trained."""
    kinds: ClassVar[Mapping[str, Maker | None]] = {}
    """What maps a kind of module in another way than `loralith.attach` does; None: it stays in torch."""
    sparse: ClassVar[bool] = False
    """Whether a step need not reach every parameter."""
    uses_texts: ClassVar[bool] = True
    """Whether captions are encoded once, before the first step."""

    def __init__(self, settings: PipelineSettings, family: Family, parameters: Mapping[str, nn.Parameter]) -> None:
        self.settings, self.family = settings, family
        self.model = family.denoiser
        self.parameters = dict(sorted(parameters.items()))
        self.optimizer = self.make_optimizer()
        self.averages: dict[str, Tensor] = {}
        if settings.ema is not None:
            self.averages = {name: tensor.detach().clone() for name, tensor in self.parameters.items()}

    def make_optimizer(self) -> Any:
        return make_optimizer(self.settings, list(self.parameters.values()))

    def step(self, step: int, sampler: Sampler) -> float:
        """One optimizer step; its loss, of which every draw is a function of the seed and of ``step``. Raises TrainingError for a loss or
        gradient that is not finite."""
        self.optimizer.zero_grad()
        total = 0.0
        batches = self.drawn(step, sampler)
        for batch in batches:
            loss = self._loss(batch, sampler) / len(batches)
            self.finite(loss.item(), f"the loss of step {step}")
            loss.backward()
            total += loss.item()
        for name, tensor in self.parameters.items():
            if (tensor.grad is None and not self.sparse) or (tensor.grad is not None and not tensor.grad.isfinite().all()):
                raise TrainingError(
                    f"step {step} gave no finite gradient for {name}; a lower --lr than {self.settings.lr} may help: "
                    "start again with one and another --output"
                )
        self.update(step)
        return total

    def drawn(self, step: int, sampler: Sampler) -> list[list[Pictures]]:
        """The batches of a step, see `Sampler.batches`."""
        return sampler.batches(step)

    def prepare(self, sampler: Sampler, stopping: Callable[[], bool]) -> None:
        """What comes before the first step of a session; resumable. Raises Interrupted where it was asked to stop."""
        return

    def _loss(self, batch: list[Pictures], sampler: Sampler) -> Tensor:
        """Of a batch, and of the class's pictures with their weight."""
        own, *others = (self.losses(pictures, sampler).mean() for pictures in batch)
        return own + sum(self.settings.prior_weight * loss for loss in others)

    def losses(self, pictures: Pictures, sampler: Sampler) -> Tensor:
        """The objective of each picture [N], in whatever order."""
        return sampler.losses(self.model, pictures)

    @contextmanager
    def result_weights(self) -> Iterator[None]:
        """Inside, the pipeline has what will be saved: the averages, where there are such."""
        kept = {name: tensor.detach().clone() for name, tensor in self.parameters.items()} if self.averages else {}
        with torch.no_grad():
            for name, average in self.averages.items():
                self.parameters[name].copy_(average)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, own in kept.items():
                    self.parameters[name].copy_(own)

    def update(self, step: int) -> None:
        """The optimizer's step, with the schedule's learning rate, and the averages'."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, step) * group.get("factor", 1.0)
        self.optimizer.step()
        if self.settings.ema is not None:
            decay = min(self.settings.ema, (1 + step) / (10 + step))  # early averages follow quickly
            with torch.no_grad():
                for name, average in self.averages.items():
                    average.lerp_(self.parameters[name], 1 - decay)

    def finite(self, loss: float, what: str) -> None:
        """Raises TrainingError that says ``what`` is not finite."""
        if not math.isfinite(loss):
            raise TrainingError(
                f"{what} is {loss}; a lower --lr than {self.settings.lr} may help: start again with one and another --output"
            )

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs, beside parameters, averages and optimizer."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        return

    @abstractmethod
    def save(self, folder: Path) -> list[str]:
        """Writes the result's files, each whole or not at all; their names."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What it is, in a few words for headings."""


class Lora(PipelineMethod):
    """Adapters of the denoiser's attention projections, by PEFT."""

    result = PEFT_FILE

    def __init__(self, settings: PipelineSettings, family: Family) -> None:
        self.settings, self.family = settings, family
        denoiser = family.denoiser
        targets = settings.targets or family.targets
        self.names = names = self.layer_names(settings, family)
        for target in targets:
            if not any(name == target or name.endswith(f".{target}") for name in names):
                linear = sorted({name.rpartition(".")[2] for name, own in denoiser.named_modules() if isinstance(own, nn.Linear)})
                raise SettingsError(f"targets {target!r} is the end of no module's name; linear layers here end in {', '.join(linear)}")
        for key in (*settings.rank_pattern, *settings.alpha_pattern):
            if not any(name == key or name.endswith(f".{key}") for name in names):
                raise SettingsError(f"the pattern {key!r} fits no layer with an adapter; one is {names[0]}")
        check_adapter(settings, family, names)
        self.config = LoraConfig(
            r=settings.rank,
            lora_alpha=_whole(settings.alpha),
            rank_pattern=dict(settings.rank_pattern),
            alpha_pattern={name: _whole(value) for name, value in settings.alpha_pattern.items()},
            use_rslora=settings.rslora,
            lora_dropout=0.0,
            bias="none",
            target_modules=self.target_modules,
        )
        seed_global("adapter", settings.seed)
        inject_adapter_in_model(self.config, denoiser)
        if settings.checkpointing:
            if not hasattr(denoiser, "enable_gradient_checkpointing"):
                raise SettingsError(f"a {type(denoiser).__name__} has no gradient checkpointing; leave it out")
            denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
        super().__init__(settings, family, {name: own for name, own in denoiser.named_parameters() if own.requires_grad})

    def layer_names(self, settings: PipelineSettings, family: Family) -> list[str]:
        """The layers that get an adapter, in order of name."""
        return family.adapter_layers(settings.targets or family.targets)

    @property
    def target_modules(self) -> list[str]:
        """What PEFT's configuration names the layers by."""
        return sorted(self.settings.targets or self.family.targets)

    def adapter(self) -> Adapter:
        """Its tensors are those that `result_weights` has."""
        layers: dict[str, Layer] = {}
        for name, module in self.model.named_modules():
            if isinstance(module, LoraLayer):
                a, b = (factors["default"].weight.detach() for factors in (module.lora_A, module.lora_B))  # type: ignore[union-attr]
                layers[name] = Layer(a, b, float(module.lora_alpha["default"]))  # type: ignore[arg-type]
        return Adapter(layers, self.settings.rslora, metadata=scheme_header(self.settings.rotation))

    def save(self, folder: Path) -> list[str]:
        with self.result_weights():
            adapter = self.adapter()
            written = [PEFT_FILE]
            if hasattr(self.family.pipe, "load_lora_weights"):
                write_diffusers(adapter, folder, self.config, prefix=f"{self.family.part}.")
                written.append(DIFFUSERS_FILE)
            if self.family.part == "unet":
                sdxl = getattr(self.family.config, "addition_embed_type", None) == "text_time"
                write_kohya(adapter, set(module_shapes(self.model)), folder / KOHYA_FILE, stability_names=sdxl)
                written.append(KOHYA_FILE)
            write_peft(adapter, folder, self.config, type(self.model))
        return written

    @property
    def label(self) -> str:
        return f"LoRA rank {self.settings.rank}"


def _whole(value: float) -> Any:
    """PEFT declares alpha an integer but scales by any number."""
    return int(value) if float(value).is_integer() else value
