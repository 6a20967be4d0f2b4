"""The training loop of `loralith finetune` for a pipeline of diffusers.

Plain FP32 torch. `attach` may hand the denoiser's products to an accelerator. Every draw is a function of (seed, step), so that a run with
and one without it see the same pictures, times and noise, and a resumed run ends with the same bits as one that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from loralith.device.device import Device
from loralith.diffusion.determinism import repeatable
from loralith.files import write_json, write_text
from loralith.formats.checkpoint import Checkpoint, save_checkpoint
from loralith.formats.run_folder import HTML, PIPELINE_CHECKPOINT, REPORT, check_folder, locked
from loralith.mapping.attach_model import attach
from loralith.methods.training_method import Interrupted
from loralith.pipeline.cache import Cache
from loralith.pipeline.draws import Sampler
from loralith.pipeline.encode import Encoder, Material
from loralith.pipeline.families.base import Family
from loralith.pipeline.hollow import HollowedNet
from loralith.pipeline.load import check_prompts, load_family
from loralith.pipeline.memory import check_activations, check_weights
from loralith.pipeline.model_folder import ModelFolder
from loralith.pipeline.objective import Objective, objective_of
from loralith.pipeline.optimizer import check_optimizer
from loralith.pipeline.photos import Photo, check_sizes, photos_digest, read_photos
from loralith.pipeline.pipeline_method import Lora, PipelineMethod
from loralith.pipeline.report import build_html, build_report, with_settings
from loralith.pipeline.run import Attach, Run, checkpoint_of
from loralith.pipeline.samples import class_pictures, draw
from loralith.pipeline.settings import PipelineSettings
from loralith.pipeline.tuneqdm import TuneQDM
from loralith.pipeline.zoodip import Zoodip
from loralith.reports.run_report import read_report
from loralith.training.loop import Progress

__all__ = ["PipelineResult", "attacher", "finetune_pipeline"]


@dataclass(frozen=True)
class PipelineResult:
    """report: what report.json holds. folder: what the method saved, report.json and report.html."""

    report: dict[str, Any]
    folder: Path


@dataclass(frozen=True)
class _Inputs:
    """What a run reads, checked. ``class_photos``: given ones, or None where they are drawn or there is no class."""

    folder: ModelFolder
    photos: list[Photo]
    class_photos: list[Photo] | None
    identity: dict[str, Any]


def finetune_pipeline(
    settings: PipelineSettings,
    attach: Attach | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    *,
    resume: bool = False,
    origin: Mapping[str, str] | None = None,
) -> PipelineResult:
    """Trains by the settings' method and writes its result to settings.output, with report.html and report.json.

    attach, progress, stop, resume, origin : as `training.loop.finetune` has them.

    Raises PipelineError, PhotoError, FolderError, FileError, SettingsError and CheckpointError before anything is written, TrainingError
    for a loss or gradient that is not finite, Interrupted and Abandoned where it was asked to stop, and whatever the attachment raises.
    Files appear whole or not at all; report.json comes last and marks a finished run.
    """
    stopping = stop or (lambda: False)
    output = settings.output
    inputs = _read(settings, resume=resume)
    checkpoint = None
    if resume:
        checkpoint = checkpoint_of(settings, inputs.identity)
        if (output / REPORT).exists() and checkpoint.settings["steps"] == settings.steps == checkpoint.step:
            return PipelineResult(read_report(output, inputs.identity), output)
    with repeatable(settings.threads):
        family = load_family(inputs.folder)
        objective = objective_of(family.pipe.scheduler, settings)
        method = _method(settings, inputs, family)
        resolution = _check_loaded(settings, inputs, family)
        with locked(output):
            cache = Cache(settings.cache_folder())
            material, prior = _materials(settings, inputs, method, cache, resolution, stopping)
            sampler = Sampler(settings, family, objective, material, prior)
            run = Run(settings, method)
            loop = _Loop(run, sampler, resolution, attach, progress, stopping, inputs.identity)
            loop.run(checkpoint)
            written = method.save(output)
            content = build_report(
                settings, run, inputs.photos, written, _facts(inputs, family, objective, resolution, cache), origin or {}
            )
            content = with_settings(content, inputs.identity)
            write_text(build_html(content, run, inputs.photos), output / HTML)
            write_json(content, output / REPORT)
    return PipelineResult(content, output)


def _read(settings: PipelineSettings, *, resume: bool) -> _Inputs:
    """Everything that can be checked before torch loads the pipeline."""
    check_folder(settings.output, resume=resume)
    check_optimizer(settings)
    folder = ModelFolder.read(settings.model)
    folder.check_method(settings.method)
    check_weights(folder)
    photos = read_photos(settings.data, settings.prompt)
    class_photos = read_photos(settings.class_data, settings.class_prompt, option="class-data") if settings.class_data else None
    digests = {"model": folder.digest(), "data": photos_digest(photos)}
    if class_photos is not None:
        digests["class_data"] = photos_digest(class_photos)
    return _Inputs(folder, photos, class_photos, settings.identity(digests))


def _method(settings: PipelineSettings, inputs: _Inputs, family: Family) -> PipelineMethod:
    """Raises SettingsError for settings that do not fit the pipeline."""
    if settings.method == "zoodip":
        return Zoodip(settings, family, [photo.caption for photo in inputs.photos])
    if settings.method == "tuneqdm":
        return TuneQDM(settings, family, inputs.identity["model"])
    if settings.method == "hollowed-net":
        return HollowedNet(settings, family, inputs.identity)
    return Lora(settings, family)


def _check_loaded(settings: PipelineSettings, inputs: _Inputs, family: Family) -> int:
    """The pictures' resolution; what only the loaded pipeline can say is checked."""
    resolution = settings.resolution or family.resolution
    for photos in (inputs.photos, inputs.class_photos or []):
        check_sizes(photos, resolution, family.multiple, buckets=settings.buckets, upscale=settings.upscale)
    check_activations(settings, family, resolution)
    prompts = [*(photo.caption for photo in inputs.photos), *settings.validation_prompts]
    check_prompts(family, inputs.folder, list(dict.fromkeys([*prompts, *([settings.class_prompt] if settings.class_prompt else [])])))
    return resolution


def _materials(
    settings: PipelineSettings, inputs: _Inputs, method: PipelineMethod, cache: Cache, resolution: int, stopping: Callable[[], bool]
) -> tuple[Material, Material | None]:
    family = method.family
    encoder = Encoder(inputs.folder, family, cache, stopping)
    material = encoder.material(inputs.photos, resolution, buckets=settings.buckets, texts=method.uses_texts)
    if settings.class_prompt is None:
        return material, None
    class_photos = inputs.class_photos
    if class_photos is None:
        sources = [inputs.identity[name] for name in ("model", "class_prompt", "seed", "sample_steps", "guidance")]
        name = hashlib.sha256(json.dumps([*sources, resolution]).encode()).hexdigest()[:32]
        drawn = cache.folder / f"class-{name}"
        class_pictures(family, settings, resolution, drawn, stopping)
        class_photos = read_photos(drawn, settings.class_prompt, option="class-data")[: settings.class_images]
    return material, encoder.material(class_photos, resolution, buckets=settings.buckets)


def _facts(inputs: _Inputs, family: Family, objective: Objective, resolution: int, cache: Cache) -> dict[str, Any]:
    """What the report says of the pipeline."""
    return {
        "pipeline": inputs.folder.kind,
        "denoiser": type(family.denoiser).__name__,
        "objective": objective.name,
        "times": objective.sampling,
        "resolution": resolution,
        "cached": {"computed": cache.computed, "found": cache.found},
    }


class _Loop:
    """Steps, checkpoints and validation pictures."""

    def __init__(
        self,
        run: Run,
        sampler: Sampler,
        resolution: int,
        attach: Attach | None,
        progress: Callable[[Progress], None] | None,
        stopping: Callable[[], bool],
        identity: dict[str, Any],
    ) -> None:
        self._run, self.sampler, self.resolution = run, sampler, resolution
        self.attach, self.progress, self.stopping, self.identity = attach, progress, stopping, identity
        self.path = run.settings.output / PIPELINE_CHECKPOINT
        self._first, self._start = 0, time.monotonic()

    def run(self, checkpoint: Checkpoint | None) -> None:
        run, settings = self._run, self._run.settings
        if checkpoint is None:
            self._report("before")
            self._look()
            self._save()
        else:
            run.restore(checkpoint)
            if settings.validate_every and run.step % settings.validate_every == 0:
                self._look()  # the run was stopped before it drew them
            if settings.steps != checkpoint.settings["steps"]:
                self._save()
            (settings.output / REPORT).unlink(missing_ok=True)
        run.method.prepare(self.sampler, self.stopping)
        self._first, self._start = run.step, time.monotonic()
        while run.step < settings.steps:
            with run.attached(self.attach):
                self._train_to(self._next_look())
            self._look()
            self._save()
        self._report("after")

    def _next_look(self) -> int:
        every, last = self._run.settings.validate_every, self._run.settings.steps
        return min(last, (self._run.step // every + 1) * every) if every else last

    def _train_to(self, end: int) -> None:
        run, settings, method = self._run, self._run.settings, self._run.method
        while run.step < end:
            began, step = time.monotonic(), run.step
            if run.attachment:
                run.attachment.step_begin(step)
            loss = method.step(step, self.sampler)
            run.step = step + 1
            run.losses.append(loss)
            run.seconds += time.monotonic() - began
            stopped = self.stopping() and run.step < settings.steps
            if run.step % settings.checkpoint_every == 0 or stopped:
                self._save()
            self._report("train")
            if stopped:
                raise Interrupted(run.step, settings.output)

    def _look(self) -> None:
        """Draws the validation prompts, without the device."""
        run, settings = self._run, self._run.settings
        if settings.validation_prompts and run.step not in run.pictures:
            with run.method.result_weights():
                drawn = [
                    draw(self.sampler.family, settings, prompt, self.resolution, "validation", number)
                    for number, prompt in enumerate(settings.validation_prompts)
                ]

            run.pictures[run.step] = torch.stack(drawn)

    def _save(self) -> None:
        save_checkpoint(self._run.state(), self.identity, self.path)

    def _report(self, phase: str) -> None:
        if self.progress:
            run = self._run
            rate = (run.step - self._first) / max(time.monotonic() - self._start, 1e-9)
            loss = run.losses[-1] if run.losses else None
            self.progress(Progress(phase, run.step, run.settings.steps, loss, rate, run.counters()))


def attacher(device: Device) -> Callable[[Any, PipelineSettings], Any]:
    """What `finetune_pipeline` calls to put the denoiser on ``device``; where the settings say ``verify``, with the reference beside it."""
    kinds_of = {"tuneqdm": TuneQDM.kinds, "zoodip": Zoodip.kinds}

    def attach_to(model: Any, settings: PipelineSettings) -> Any:
        kinds = kinds_of.get(settings.method)
        observer = None
        if settings.verify:
            from loralith.training.verification import ReferenceObserver  # it needs loralith.verif, which a board does not have

            observer = ReferenceObserver()
        folder = settings.originals
        return attach(model, device, settings.scheme(), observer=observer, modules=settings.modules, kinds=kinds, originals=folder)

    return attach_to
