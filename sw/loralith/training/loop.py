"""The training loop of `loralith finetune`: a digit or a folder of images that the diffusion model has never seen, by any method.

Plain FP32 torch. `attach` may hand the model's products to an accelerator; every draw is a function of (seed, step), so that a run with and
one without it see the same images, time steps and noise, and a resumed run ends with the same bits as one that was never stopped.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel

from loralith.diffusion.classifier import load_classifier
from loralith.diffusion.data import personal_images
from loralith.diffusion.determinism import repeatable
from loralith.diffusion.objective import step_loss
from loralith.diffusion.peft_adapter import add_adapter
from loralith.diffusion.unet import load_model
from loralith.files import write_bytes, write_json, write_text
from loralith.formats.checkpoint import save_checkpoint
from loralith.formats.run_folder import CHECKPOINT, HTML, PICTURE, REPORT, check_folder, locked
from loralith.methods import make_method
from loralith.methods.settings import FinetuneSettings
from loralith.methods.training_method import Attach, Attachment, Bench, Interrupted, Method, TrainingError
from loralith.reports.run_html import build_html
from loralith.reports.run_report import Evaluation, build_picture, build_report, read_report
from loralith.training.evaluate import evaluate, look
from loralith.training.resume import checkpoint_to_resume
from loralith.training.session import Session
from loralith.training.sizes import check_sizes


@dataclass(frozen=True)
class Progress:
    """Where a run is. phase: "before", "prepare", "train" or "after" (evaluations before and after); step of steps done; the last step's
    loss, steps per second of this session, and the attachment's counters over the whole run (none without attachment); ``note``, what a
    method says while it prepares."""

    phase: str
    step: int
    steps: int
    loss: float | None
    steps_per_second: float
    counters: dict[str, Any]
    note: str = ""


@dataclass(frozen=True)
class FinetuneResult:
    """report: what report.json holds. folder: what the method saved, report.json and samples.png."""

    report: dict[str, Any]
    folder: Path


def finetune(
    settings: FinetuneSettings,
    attach: Attach | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    *,
    resume: bool = False,
    origin: Mapping[str, str] | None = None,
) -> FinetuneResult:
    """Trains by the settings' method and writes its result to settings.output (of LoRA an adapter for PEFT, adapter_model.safetensors and
    adapter_config.json, and for diffusers, pytorch_lora_weights.safetensors), with samples.png, report.html and report.json.

    attach : called with the model and the settings before the first step; see `Attachment`. None trains in FP32.
    progress : called after each step and at the start of each phase.
    stop : asked after each step; when it says True, a checkpoint is written and Interrupted raised.
    resume : go on from the checkpoint in settings.output. A finished run with the same settings is returned as it is; with more steps it
    goes on from its end, to the same bits as a run of that many, see `resume.checkpoint_to_resume`.
    origin : what the report says of where the run comes from, see `build_report`.

    Raises FolderError, FileError, SettingsError and CheckpointError before anything is changed, TrainingError for a loss, gradient or
    judgement that is not finite, Interrupted, and whatever method and attachment raise. Files appear whole or not at all; report.json
    comes last and marks a finished run. The checkpoint stays, so that more steps can follow.
    """
    folder, identity = settings.output, dict(settings.identity())
    check_folder(folder, resume=resume)
    check_sizes(settings)
    checkpoint = None
    if resume:
        # A folder that an earlier version finished has no checkpoint.
        checkpoint = checkpoint_to_resume(settings, identity) if (folder / CHECKPOINT).exists() else None
        if (folder / REPORT).exists() and (checkpoint is None or checkpoint.settings["steps"] == settings.steps == checkpoint.step):
            return FinetuneResult(read_report(folder, identity), folder)
        assert checkpoint is not None, "check_folder has seen one of the two"
    subject = settings.subject()
    with repeatable():
        method = make_method(settings, subject)
        with locked(folder):
            session = Session(settings, method)
            report = _Reporter(settings, session, progress)
            bench = Bench(
                lambda model: session.attached(model, attach),
                lambda note: report("prepare", note),
                lambda: stop is not None and stop(),
            )
            if checkpoint:
                session.restore(checkpoint)
                if settings.steps != checkpoint.settings["steps"]:
                    save_checkpoint(session.state(), identity, folder / CHECKPOINT)
                (folder / REPORT).unlink(missing_ok=True)
            else:
                method.begin(bench)
                report("before")
                session.before = _judge(method)
                save_checkpoint(session.state(), identity, folder / CHECKPOINT)
            if session.step < settings.steps:
                method.prepare(bench)
                with session.attached(method.model, attach, resumed=True):
                    _train(session, report, stop, identity)
            report("after")
            after = _judge(method)
            run = session.finished(after)
            content = build_report(run, origin or {})
            method.save(folder)
            write_bytes(build_picture(run), folder / PICTURE)
            write_text(build_html(content, run), folder / HTML)
            write_json(content, folder / REPORT)
    return FinetuneResult(content, folder)


def _judge(method: Method) -> Evaluation:
    model, encoder = method.evaluation_model()
    settings = method.settings
    found = evaluate(model, encoder, load_classifier(), settings.digit, settings.evaluation, method.subject)
    method.finite(found.held_out_loss, "the held-out loss")
    return found


class _Reporter:
    """Calls `progress` with the session's state and this session's rate."""

    def __init__(self, settings: FinetuneSettings, session: Session, progress: Callable[[Progress], None] | None) -> None:
        self.settings, self.session, self.progress = settings, session, progress
        self.first, self.start = session.step, time.monotonic()

    def begin(self) -> None:
        self.first, self.start = self.session.step, time.monotonic()

    def __call__(self, phase: str, note: str = "") -> None:
        if self.progress:
            session = self.session
            rate = (session.step - self.first) / max(time.monotonic() - self.start, 1e-9)
            loss = session.losses[-1] if session.losses else None
            self.progress(Progress(phase, session.step, self.settings.steps, loss, rate, session.counters(), note))


def _train(session: Session, report: _Reporter, stop: Callable[[], bool] | None, identity: dict[str, Any]) -> None:
    settings, method, path = session.settings, session.method, session.settings.output / CHECKPOINT
    method.model.train()
    report.begin()

    def look_is_due() -> bool:
        return bool(settings.curve_every) and session.step % settings.curve_every == 0 and 0 < session.step < settings.steps

    if look_is_due() and all(earlier.step != session.step for earlier in session.looks):
        session.looks.append(look(method, session.step))  # the end of a run that now goes on
    while session.step < settings.steps:
        began = time.monotonic()
        step = session.step
        if session.attachment:
            session.attachment.step_begin(step)
        # Not past a checkpoint, a look or the end, which need the model as it is there.
        every = [settings.checkpoint_every, *([settings.curve_every] if settings.curve_every else [])]
        most = min(settings.steps - step, *(n - step % n for n in every))
        losses = session.take_steps(step, most)
        session.step = step + len(losses)
        session.losses += losses
        session.seconds += time.monotonic() - began
        if look_is_due():
            session.collect()
            session.looks.append(look(method, session.step))
            method.finite(session.looks[-1].held_out_loss, f"the held-out loss after step {step}")
        stopping = stop is not None and stop()
        if session.step % settings.checkpoint_every == 0 or session.step == settings.steps or stopping:
            save_checkpoint(session.state(), identity, path)
        report("train")
        if stopping and session.step < settings.steps:
            raise Interrupted(session.step, settings.output)


def seconds_per_step(settings: FinetuneSettings, attach: Attach) -> float:
    """Wall time of one training step with its layers attached, on a model of its own: the second of two, when all is warm."""
    images = personal_images(settings.digit, settings.images, settings.seed)
    elapsed = 0.0
    with repeatable():
        unet, encoder = load_model(settings.model)
        model = add_adapter(unet, **settings.adapter())
        model.train()
        attachment = attach(model, settings)
        try:
            for step in range(2):
                start = time.monotonic()
                attachment.step_begin(step)
                step_loss(model, encoder, images, settings, step).backward()
                elapsed = time.monotonic() - start
        finally:
            attachment.detach()
    return elapsed


def load_finetuned(folder: Path, model: Path | None = None) -> PeftModel:
    """The package's U-Net, or another, with the adapter in `folder`, as stock PEFT loads it, in evaluation mode."""
    return PeftModel.from_pretrained(load_model(model)[0], str(folder)).eval()  # type: ignore[arg-type]


__all__ = [
    "Attachment",
    "FinetuneResult",
    "Interrupted",
    "Progress",
    "TrainingError",
    "finetune",
    "load_finetuned",
    "seconds_per_step",
    "step_loss",
]
