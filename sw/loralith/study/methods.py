"""Learning of the training methods: one point is one variant of a method with one seed, trained and judged by its held-out loss.

The methods are those of `finetune`, on a device or in plain torch; what they have learned is judged in FP32, with weights quantized where
the method has them so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from loralith.diffusion.determinism import repeatable
from loralith.diffusion.objective import held_out_loss
from loralith.diffusion.peft_adapter import add_adapter
from loralith.diffusion.schedule import noise_schedule
from loralith.diffusion.unet import load_model
from loralith.errors import LoralithError
from loralith.files import read_json, write_json
from loralith.methods import make_method
from loralith.methods.hollow.hollow_method import HollowedNet, kept_targets
from loralith.methods.hollow.parts import choose
from loralith.methods.lora import Lora
from loralith.methods.options import OPTIONS, HollowOptions, Options, TuneqdmOptions, ZoodipOptions
from loralith.methods.settings import FP32, FinetuneSettings
from loralith.methods.training_method import Attach, Bench, Method
from loralith.methods.zoodip.zoodip_method import Zoodip
from loralith.study.point import Stopped
from loralith.training.session import Session

__all__ = ["STUDIES", "OnKept", "Study", "Backend", "baselines", "load_point", "pending", "run_point"]


@dataclass(frozen=True)
class Backend:
    """What trains: a device by its name, its configuration, and what puts a model on it; FP32 in plain torch where ``attach`` is None."""

    device: str = FP32
    config: str | None = None
    attach: Attach | None = None


@dataclass(frozen=True)
class Study:
    """What is trained, by `FinetuneSettings` beside seed and output; ``variants``, the first being the method itself; ``rounds`` of the
    held-out loss, each of which takes all images that were kept."""

    settings: Mapping[str, Any]
    variants: tuple[str, ...]
    rounds: int

    def settings_for(self, seed: int, folder: Path, backend: Backend) -> FinetuneSettings:
        """The settings of one seed. On a device it runs what `finetune` has it run for the method."""
        if backend.attach is None:
            return FinetuneSettings(folder, seed=seed, **self.settings)
        modules = OPTIONS[self.settings["method"]].usual["modules"]
        return FinetuneSettings(folder, seed=seed, device=backend.device, config=backend.config, modules=modules, **self.settings)


def _hollow(part: str, train: str = "kept") -> Study:
    options = HollowOptions(part, samples=1024, train=train)
    settings = {"method": "hollowed-net", "options": options, "steps": 256, "images": 120}
    return Study(settings, ("hollowed", "lora on the same layers", "h = 0", "h of other samples"), 32)


STUDIES: Mapping[str, Study] = {
    "hollowed-net": _hollow("mid_block"),
    "hollowed-net, 65 %": _hollow("down_blocks.2,mid_block,up_blocks.0"),
    "hollowed-net, 65 %, layers behind": _hollow("down_blocks.2,mid_block,up_blocks.0", "behind"),
    "tuneqdm": Study({"method": "tuneqdm", "options": TuneqdmOptions(), "steps": 80, "lr": 1e-2}, ("4 experts", "PEQA"), 32),
    "zoodip": Study({"method": "zoodip", "options": ZoodipOptions(mu=1e-2), "steps": 6000, "batch": 1, "lr": 1e-2}, ("token",), 32),
}


class OnKept(Lora):
    """LoRA on the full U-Net, on the layers that Hollowed Net keeps."""

    def adapted(self, settings: FinetuneSettings, unet: Any) -> Any:
        options = cast(HollowOptions, settings.options)
        return add_adapter(
            unet, **{**settings.adapter(), "targets": kept_targets(unet, settings.targets, choose(unet, options.hollow), options)}
        )


class _Zero(HollowedNet):
    def boundary(self, batch: int) -> Tensor:
        return torch.zeros_like(super().boundary(batch))


class _Shuffled(HollowedNet):
    """h of the batch half the store away, by one sample on."""

    def boundary(self, batch: int) -> Tensor:
        return super().boundary((batch + self.batches // 2) % self.batches).roll(1, 0)


HOLLOW: Mapping[str, type[Lora]] = {"lora on the same layers": OnKept, "h = 0": _Zero, "h of other samples": _Shuffled}
TUNEQDM: Mapping[str, Options] = {
    "PEQA": TuneqdmOptions(experts=1, input_scales="fixed"),
}


def _make_method(settings: FinetuneSettings, variant: str) -> Method:
    subject = settings.subject()
    if variant in HOLLOW:
        return HOLLOW[variant](settings, subject)
    if variant in TUNEQDM:
        settings = replace(settings, options=TUNEQDM[variant])
    return make_method(settings, subject)


@torch.no_grad()
def _evaluate(method: Method, rounds: int, prompt: str | None = None) -> float:
    model, encoder = method.evaluation_model()
    subject = method.subject
    condition = torch.cat([encoder.encode(caption if prompt is None else prompt) for caption in subject.held_captions])
    return held_out_loss(model, noise_schedule(), subject.held_out, condition, rounds=rounds)


def baselines(rounds: int) -> dict[str, float]:
    """Held-out losses of the FP32 model before any training: with the new word, and with the null prompt."""
    settings = FinetuneSettings(Path("."))
    with repeatable():
        unet, encoder = load_model()
        subject = settings.subject()
        found = {}
        for name, prompt in (("word", None), ("null", "")):
            condition = torch.cat([encoder.encode(caption if prompt is None else prompt) for caption in subject.held_captions])
            found[name] = held_out_loss(unet, noise_schedule(), subject.held_out, condition, rounds=rounds)
    return found


def run_point(
    name: str, variant: str, seed: int, folder: Path, backend: Backend, progress: Callable[[int], None], stop: Callable[[], bool]
) -> dict[str, Any]:
    """Trains and judges one point; JSON values. ``folder`` holds boundary tensors. Raises Stopped."""
    study = STUDIES[name]
    settings = study.settings_for(seed, folder / f"store-{name.replace(' ', '')}-{seed}", backend)
    began = time.monotonic()
    with repeatable():
        method = _make_method(settings, variant)
        session = Session(settings, method)
        bench = Bench(lambda model: session.attached(model, backend.attach), lambda note: None, stop)
        extra: dict[str, Any] = {}
        if isinstance(method, Zoodip):
            method.begin(bench)
            extra["correlation"] = dict(method.measured)
        before = None if isinstance(method, Lora) else _evaluate(method, study.rounds)
        method.prepare(bench)
        method.model.train()
        with session.attached(method.model, backend.attach) as attachment:
            for step in range(settings.steps):
                if stop():
                    raise Stopped(f"stopped at step {step} of {variant}, seed {seed}; run the same command to go on")
                if attachment:
                    attachment.step_begin(step)
                session.losses.append(method.step(step))
                progress(step + 1)
        after = _evaluate(method, study.rounds)
    return {
        "study": name,
        "variant": variant,
        "seed": seed,
        "before": before,
        "after": after,
        "losses": session.losses,
        **extra,
        "seconds": time.monotonic() - began,
    }


def _path(folder: Path, name: str, variant: str, seed: int) -> Path:
    plain = "".join(letter if letter.isalnum() else "-" for letter in f"{name} {variant} {seed}")
    return folder / f"{plain}.json"


def load_point(folder: Path, name: str, variant: str, seed: int, backend: Backend) -> dict[str, Any] | None:
    """A finished point of the same settings, or None. Raises FileError and LoralithError for a file that holds none."""
    path = _path(folder, name, variant, seed)
    if not path.exists():
        return None
    point = read_json(path)
    if not isinstance(point, dict) or "settings" not in point:
        raise LoralithError(f"{path} is no point of this command; remove it or give another --output")
    return point if point["settings"] == _identity(name, seed, backend) else None


def _identity(name: str, seed: int, backend: Backend) -> dict[str, Any]:
    study = STUDIES[name]
    return json.loads(json.dumps({**study.settings_for(seed, Path("."), backend).identity(), "rounds": study.rounds}))


def pending(folder: Path, names: tuple[str, ...], seeds: int, backend: Backend) -> list[tuple[str, str, int]]:
    """(study, variant, seed) of the points that are missing, seed by seed."""
    every = [(name, variant, seed) for seed in range(seeds) for name in names for variant in STUDIES[name].variants]
    return [key for key in every if load_point(folder, *key, backend) is None]


def run(
    folder: Path,
    names: tuple[str, ...],
    seeds: int,
    backend: Backend,
    progress: Callable[[str, str, int, int], None],
    stop: Callable[[], bool],
) -> Iterator[dict[str, Any]]:
    """Computes what is missing and gives each point when it is saved."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, variant, seed in pending(folder, names, seeds, backend):
        point = run_point(name, variant, seed, folder, backend, partial(progress, name, variant, seed), stop)
        write_json({**point, "settings": _identity(name, seed, backend)}, _path(folder, name, variant, seed))
        yield point
