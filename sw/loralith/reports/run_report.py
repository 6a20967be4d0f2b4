"""What a finished fine-tune leaves to be read: report.json and samples.png."""

import json
import platform
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from loralith.diffusion.determinism import THREADS
from loralith.diffusion.subject import Subject
from loralith.energy import TIER, counted_energy, nodes
from loralith.errors import LoralithError
from loralith.formats.checkpoint import describe_difference, settings_hash
from loralith.formats.run_folder import CHECKPOINT, REPORT
from loralith.methods.settings import FinetuneSettings
from loralith.reports.picture import Panel, render
from loralith.training.evaluate import Evaluation
from loralith.training.session import Session

PICTURE_COLUMNS = 8
PICTURE_SAMPLES = 40


def read_report(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The report of the finished run in `folder`; raises LoralithError where it had other settings or report.json cannot be read."""
    path = folder / REPORT
    try:
        content = json.loads(path.read_text())
        there, own = content["settings_hash"], settings_hash(identity)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoralithError(f"{path} is not a report of a finished run: {error}") from error
    if there != own:
        differing = describe_difference(content.get("settings", {}), identity)
        raise LoralithError(
            f"{folder} holds a finished run with settings {there}, this run has {own}: {differing}; it cannot go on without its "
            f"checkpoint ({CHECKPOINT}); give another output folder"
        )
    return content


def build_report(
    settings: FinetuneSettings, session: Session, before: Evaluation, after: Evaluation, subject: Subject, origin: Mapping[str, str]
) -> dict[str, Any]:
    """The content of report.json: plain JSON values, losses as mean squared errors, shares as fractions, times in seconds.

    origin : what only the caller knows of where the run comes from: `command`, `commit`, `rtl`, as far as there are such.
    """
    identity = dict(settings.identity())
    return {
        "format": "loralith-finetune-1",
        "date": date.today().isoformat(),
        **origin,
        "settings": identity,
        "settings_hash": settings_hash(identity),
        "held_out_loss": {"before": before.held_out_loss, "after": after.held_out_loss},
        "sample_accuracy": {"before": before.accuracy, "after": after.accuracy},
        "losses": session.losses,
        "curve": [[look.step, look.held_out_loss] for look in session.looks],
        "subject": {"name": subject.name, "images": len(subject.images), "held_out": len(subject.held_out), "prompt": subject.prompt},
        "method": session.method.label,
        "trained": sum(tensor.numel() for tensor in session.parameters.values()),
        "result": session.method.result,
        **session.method.figures(),
        "counters": (counters := session.counters()),
        "energy": _energy(counters),
        "seconds": session.seconds,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("loralith", "torch", "diffusers", "peft", "safetensors", "scikit-learn")},
        },
        "machine": {"architecture": platform.machine(), "kernels": torch.backends.cpu.get_cpu_capability(), "threads": THREADS},
    }


def _energy(counters: Mapping[str, Any]) -> dict[str, Any]:
    """Joules of the whole run by node, where a device counted; else nothing."""
    if "bytes_read" not in counters:
        return {}
    moved = int(counters["bytes_read"]) + int(counters["bytes_written"])
    return {"tier": TIER, "joules": {node: counted_energy(int(counters["macs"]), moved, node) for node in nodes()}}


def build_picture(settings: FinetuneSettings, label: str, subject: Subject, before: Evaluation, after: Evaluation) -> bytes:
    """PNG bytes of samples.png, ``label`` being what the method is: training images, samples before and samples after."""

    def panel(title: str, result: Evaluation) -> Panel:
        text, right = f"held-out loss {result.held_out_loss:.4f}", None
        if result.accuracy is not None:
            text = f"{result.accuracy:.0%} recognized as {subject.digit}, {text}"
            right = (result.recognized == subject.digit)[:PICTURE_SAMPLES]
        return Panel(title, text, result.samples[:PICTURE_SAMPLES], PICTURE_COLUMNS, right)

    heading = f"Learning {subject.name}: {label}, {settings.steps} steps, {settings.device}"
    shown = subject.images[: PICTURE_SAMPLES // 2]
    text = f"{len(subject.images)} of a class never seen before" if settings.data is None else f"{len(subject.images)} with captions"
    given = Panel("Training images", text, shown, 4)
    return render(heading, [given, panel("Samples before", before), panel("Samples after", after)])
