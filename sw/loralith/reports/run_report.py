"""What a finished fine-tune leaves to be read: report.json and samples.png."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loralith.diffusion.determinism import THREADS
from loralith.energy import TIER, counted_energy, nodes
from loralith.errors import LoralithError
from loralith.formats.checkpoint import describe_difference, settings_hash
from loralith.formats.run_folder import CHECKPOINT, REPORT
from loralith.methods.training_method import Method
from loralith.reports.picture import Panel, render


@dataclass(frozen=True)
class Evaluation:
    """held_out_loss: mean squared error; accuracy: share of samples recognized as the digit, None where there is none; samples
    [N, 1, 16, 16] and the digits [N] that the classifier sees in them."""

    held_out_loss: float
    accuracy: float | None
    samples: Tensor
    recognized: Tensor


@dataclass(frozen=True)
class Look:
    """What trains, after `step` steps, in plain FP32: held-out loss, a few samples [N, 1, 16, 16]."""

    step: int
    held_out_loss: float
    samples: Tensor


@dataclass(frozen=True)
class FinishedRun:
    """What a report tells of a run: its method, with settings and subject, and the number of values that it trained; how the model was
    judged before and after, and looks in between; each step's loss; the attachment's counters over the whole run; seconds of all steps."""

    method: Method
    trained: int
    before: Evaluation
    after: Evaluation
    losses: Sequence[float]
    looks: Sequence[Look]
    counters: Mapping[str, Any]
    seconds: float


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


def build_report(run: FinishedRun, origin: Mapping[str, str]) -> dict[str, Any]:
    """The content of report.json: plain JSON values, losses as mean squared errors, shares as fractions, times in seconds.

    origin : what only the caller knows of where the run comes from: `command`, `commit`, `rtl`, as far as there are such.
    """
    method, before, after = run.method, run.before, run.after
    subject = method.subject
    identity = dict(method.settings.identity())
    return {
        "format": "loralith-finetune-1",
        "date": date.today().isoformat(),
        **origin,
        "settings": identity,
        "settings_hash": settings_hash(identity),
        "held_out_loss": {"before": before.held_out_loss, "after": after.held_out_loss},
        "sample_accuracy": {"before": before.accuracy, "after": after.accuracy},
        "losses": list(run.losses),
        "curve": [[look.step, look.held_out_loss] for look in run.looks],
        "subject": {"name": subject.name, "images": len(subject.images), "held_out": len(subject.held_out), "prompt": subject.prompt},
        "method": method.label,
        "trained": run.trained,
        "result": method.result,
        **method.figures(),
        "counters": dict(run.counters),
        "energy": _energy(run.counters),
        "seconds": run.seconds,
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


def build_picture(run: FinishedRun) -> bytes:
    """PNG bytes of samples.png: training images, samples before and samples after."""
    settings, subject = run.method.settings, run.method.subject

    def panel(title: str, result: Evaluation) -> Panel:
        text, right = f"held-out loss {result.held_out_loss:.4f}", None
        if result.accuracy is not None:
            text = f"{result.accuracy:.0%} recognized as {subject.digit}, {text}"
            right = (result.recognized == subject.digit)[:PICTURE_SAMPLES]
        return Panel(title, text, result.samples[:PICTURE_SAMPLES], PICTURE_COLUMNS, right)

    heading = f"Learning {subject.name}: {run.method.label}, {settings.steps} steps, {settings.device}"
    shown = subject.images[: PICTURE_SAMPLES // 2]
    text = f"{len(subject.images)} of a class never seen before" if settings.data is None else f"{len(subject.images)} with captions"
    given = Panel("Training images", text, shown, 4)
    return render(heading, [given, panel("Samples before", run.before), panel("Samples after", run.after)])
