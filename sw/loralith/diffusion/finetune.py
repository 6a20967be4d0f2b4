"""The training loop of `loralith finetune`: a LoRA adapter for a digit that the diffusion model has never seen, from a few images.

Plain FP32 torch. `attach` may hand the LoRA layers to an accelerator; every draw is a function of (seed, step), so that a run with and
one without it see the same images, time steps and noise, and a resumed run ends with the same bits as one that was never stopped.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from loralith.diffusion.adapter import add_adapter, load_adapter, save_adapter
from loralith.diffusion.attachment import Attach, Attachment
from loralith.diffusion.checkpoint import load_checkpoint, save_checkpoint, write_bytes, write_json
from loralith.diffusion.classifier import load_classifier
from loralith.diffusion.curve import Curve
from loralith.diffusion.determinism import repeatable
from loralith.diffusion.evaluate import evaluate
from loralith.diffusion.folder import CHECKPOINT, HTML, PICTURE, REPORT, check_folder, locked
from loralith.diffusion.html import build_html
from loralith.diffusion.objective import denoising_loss, draw_step
from loralith.diffusion.prompt import PromptEncoder, digit_prompt
from loralith.diffusion.report import build_picture, build_report, read_report
from loralith.diffusion.schedule import noise_schedule
from loralith.diffusion.session import Session
from loralith.diffusion.settings import FinetuneSettings
from loralith.diffusion.subject import Subject
from loralith.diffusion.unet import load_model
from loralith.errors import LoralithError


class TrainingError(LoralithError):
    """A step whose loss or gradient is not finite; the last checkpoint stays."""


class Interrupted(LoralithError):
    """A run that was asked to stop and can be resumed; `step` steps are in its checkpoint."""

    def __init__(self, step: int, folder: Path) -> None:
        super().__init__(f"stopped after step {step}; go on with --resume --output {folder}")
        self.step = step


@dataclass(frozen=True)
class Progress:
    """Where a run is. phase: "before", "train" or "after" (the two evaluations); step of steps done; the last step's loss, steps per
    second of this session, and the attachment's counters over the whole run (none without attachment)."""

    phase: str
    step: int
    steps: int
    loss: float | None
    steps_per_second: float
    counters: dict[str, Any]


@dataclass(frozen=True)
class FinetuneResult:
    """report: what report.json holds. folder: the adapter in PEFT's format, report.json and samples.png."""

    report: dict[str, Any]
    folder: Path


def finetune(
    settings: FinetuneSettings,
    attach: Attach | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    *,
    resume: bool = False,
) -> FinetuneResult:
    """Trains an adapter and writes it for PEFT (adapter_model.safetensors, adapter_config.json) and for diffusers
    (pytorch_lora_weights.safetensors), with samples.png, report.html and report.json, to settings.output.

    attach : called with the PEFT model and the settings before the first step; see `Attachment`. None trains in FP32.
    progress : called after each step and at the start of each phase.
    stop : asked after each step; when it says True, a checkpoint is written and Interrupted raised.
    resume : go on from the checkpoint in settings.output. A finished run with the same settings is returned as it is.

    Raises FolderError and CheckpointError before anything is changed, TrainingError for a loss or gradient that is not finite, Interrupted,
    and whatever the attachment raises. Files appear whole or not at all; report.json comes last and marks a finished run.
    """
    folder, identity = settings.output, dict(settings.identity())
    check_folder(folder, resume=resume)
    if resume and (folder / REPORT).exists():
        return FinetuneResult(read_report(folder, identity), folder)
    checkpoint = load_checkpoint(folder / CHECKPOINT, identity) if resume else None
    subject = settings.subject()
    with locked(folder), repeatable():
        unet, encoder = load_model(settings.model)
        classifier = load_classifier()
        model = add_adapter(unet, **settings.adapter())
        session = Session(settings, model)
        report = _Reporter(settings, session, progress)
        if checkpoint:
            session.restore(checkpoint)
        else:
            if settings.start_from:
                load_adapter(model, settings.start_from)
            report("before")
            session.before = evaluate(model, encoder, classifier, settings.digit, settings.evaluation, subject)
            save_checkpoint(session.state(), identity, folder / CHECKPOINT)
        if session.step < settings.steps:
            session.attachment = attach(model, settings) if attach else None
            try:
                session.restore_attachment()
                _train(
                    session,
                    encoder,
                    subject,
                    report,
                    stop,
                    identity,
                    Curve(settings, session, subject, encoder) if settings.curve_every else None,
                )
            finally:
                session.detach()
        report("after")
        after = evaluate(model, encoder, classifier, settings.digit, settings.evaluation, subject)
        assert session.before is not None
        content = build_report(settings, session, session.before, after, subject)
        save_adapter(model, folder)
        write_bytes(build_picture(settings, subject, session.before, after), folder / PICTURE)
        write_bytes(build_html(content, subject, session, after).encode(), folder / HTML)
        write_json(content, folder / REPORT)
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return FinetuneResult(content, folder)


class _Reporter:
    """Calls `progress` with the session's state and this session's rate."""

    def __init__(self, settings: FinetuneSettings, session: Session, progress: Callable[[Progress], None] | None) -> None:
        self.settings, self.session, self.progress = settings, session, progress
        self.first, self.start = session.step, time.monotonic()

    def begin(self) -> None:
        self.first, self.start = self.session.step, time.monotonic()

    def __call__(self, phase: str) -> None:
        if self.progress:
            session = self.session
            rate = (session.step - self.first) / max(time.monotonic() - self.start, 1e-9)
            loss = session.losses[-1] if session.losses else None
            self.progress(Progress(phase, session.step, self.settings.steps, loss, rate, session.counters()))


def step_loss(
    model: PeftModel,
    encoder: PromptEncoder,
    images: torch.Tensor,
    settings: FinetuneSettings,
    step: int,
    captions: tuple[str, ...] | None = None,
) -> torch.Tensor:
    """The loss of one training step, a scalar: its draw is a function of the settings' seed and of `step` alone.

    ``captions``: of the images; by default all have the prompt of the settings' digit.
    """
    draw = draw_step("finetune", settings.seed, step, batch=settings.batch, images=images, dropout=settings.dropout)
    null = encoder.encode("")
    if captions is None:
        prompt = encoder.encode(digit_prompt(settings.digit))
    else:
        prompt = torch.cat([encoder.encode(captions[pick]) for pick in draw.picks.tolist()])
    condition = torch.where(draw.dropped[:, None, None], null, prompt)  # [batch, tokens, dim]
    return denoising_loss(model, noise_schedule(), images[draw.picks], draw.timesteps, draw.noise, condition)


def _train(
    session: Session,
    encoder: PromptEncoder,
    subject: Subject,
    report: _Reporter,
    stop: Callable[[], bool] | None,
    identity: dict[str, Any],
    curve: Curve | None,
) -> None:
    settings, path = session.settings, session.settings.output / CHECKPOINT
    session.model.train()
    report.begin()
    while session.step < settings.steps:
        began = time.monotonic()
        step = session.step
        if session.attachment:
            session.attachment.step_begin(step)
        loss = step_loss(session.model, encoder, subject.images, settings, step, subject.captions)
        if not math.isfinite(loss.item()):
            raise TrainingError(f"the loss of step {step} is {loss.item()}; a lower --lr than {settings.lr} may help")
        session.optimizer.zero_grad()
        loss.backward()
        for name, tensor in session.parameters.items():
            if tensor.grad is None or not tensor.grad.isfinite().all():
                raise TrainingError(f"step {step} gave no finite gradient for {name}; a lower --lr than {settings.lr} may help")
        session.optimizer.step()
        session.step = step + 1
        session.losses.append(loss.item())
        session.seconds += time.monotonic() - began
        if curve is not None and session.step % settings.curve_every == 0 and session.step < settings.steps:
            curve.look()
        stopping = stop is not None and stop()
        if session.step % settings.checkpoint_every == 0 or session.step == settings.steps or stopping:
            save_checkpoint(session.state(), identity, path)
        report("train")
        if stopping and session.step < settings.steps:
            raise Interrupted(session.step, settings.output)


def load_finetuned(folder: Path, model: Path | None = None) -> PeftModel:
    """The package's U-Net, or another, with the adapter in `folder`, as stock PEFT loads it, in evaluation mode."""
    return PeftModel.from_pretrained(load_model(model)[0], str(folder)).eval()  # type: ignore[arg-type]


__all__ = ["Attachment", "FinetuneResult", "Interrupted", "Progress", "TrainingError", "finetune", "load_finetuned", "step_loss"]
