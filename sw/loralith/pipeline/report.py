"""What a finished fine-tune of a pipeline leaves to be read: report.json, and report.html on one page that needs no other file."""

from __future__ import annotations

import base64
import html
import io
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from loralith.formats.checkpoint import settings_hash
from loralith.formats.image_file import read_image
from loralith.pipeline.photos import Photo
from loralith.pipeline.run import Run
from loralith.pipeline.samples import png
from loralith.pipeline.settings import PipelineSettings
from loralith.reports.loss_chart import loss_chart
from loralith.reports.run_html import STYLE, device_section, made_by, table, text_of

__all__ = ["build_html", "build_report", "with_settings"]

SHOWN_PHOTOS, EDGE = 12, 160
SHOWN_LOOKS = 6


def build_report(
    settings: PipelineSettings,
    run: Run,
    photos: Sequence[Photo],
    written: Sequence[str],
    facts: Mapping[str, Any],
    origin: Mapping[str, str],
) -> dict[str, Any]:
    """The content of report.json but for `settings`: plain JSON values, losses as weighted mean squared errors, times in seconds."""
    method = run.method
    return {
        "format": "loralith-pipeline-1",
        "date": date.today().isoformat(),
        **origin,
        **facts,
        "settings": {},
        "method": method.label,
        "losses": run.losses,
        "pictures": len(photos),
        "captions": sorted({photo.caption for photo in photos}),
        "trained": sum(tensor.numel() for tensor in method.parameters.values()),
        "result": method.result,
        "files": list(written),
        "counters": run.counters(),
        "seconds": run.seconds,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("loralith", "torch", "diffusers", "transformers", "peft", "safetensors")},
        },
        "machine": {"architecture": platform.machine(), "kernels": torch.backends.cpu.get_cpu_capability(), "threads": settings.threads},
    }


def build_html(report: Mapping[str, Any], run: Run, photos: Sequence[Photo]) -> str:
    """The page of a run, from what report.json holds and the pictures."""
    settings = run.settings
    title = html.escape(f"Learning {settings.data.resolve().name}")
    where = f"{settings.modules} on {settings.device}, {settings.config}" if settings.config else "plain torch"
    line = (
        f"{report['pipeline']}, {report['method']}, {settings.steps} steps of {settings.batch * settings.accumulation} pictures at "
        f"{report['resolution']} pixels, learning rate {settings.lr:g}, seed {settings.seed}; {report['objective']}; {where}"
    )
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>",
        f"<h1>{title}</h1>",
        f"<p class=soft>{html.escape(line)}</p>",
        f"<p class=soft>{made_by(report)}</p>",
        "<h2>Loss</h2>",
        loss_chart(report["losses"], []),
        "<h2>Pictures</h2>",
        f"<p>{html.escape(_shown(photos))}</p>",
        f"<div class=row>{''.join(_photo(photo) for photo in photos[:SHOWN_PHOTOS])}</div>",
        *_validation(run),
    ]
    if report["counters"].get("layers"):
        parts += ["<h2>The device</h2>", *device_section({**report, "settings": {"device": settings.device}})]
    rows = [(name.replace("_", " "), text_of(value)) for name, value in report["settings"].items()]
    parts += ["<h2>Settings</h2>", table(("", "value"), rows)]
    made = {**report["versions"], **report["machine"], "seconds of training": f"{report['seconds']:.1f}"}
    parts += ["<h2>Versions and machine</h2>", table(("", ""), [(name, text_of(value)) for name, value in made.items()])]
    parts.append(f"<p class=soft>Settings {report['settings_hash']}; report.json holds every number.</p>")
    return "\n".join([*parts, "</html>", ""])


def with_settings(report: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    """The report with the settings that decide the result, and their hash."""
    return {**report, "settings": dict(identity), "settings_hash": settings_hash(identity)}


def _shown(photos: Sequence[Photo]) -> str:
    return f"All {len(photos)} training pictures." if len(photos) <= SHOWN_PHOTOS else f"{SHOWN_PHOTOS} of {len(photos)} training pictures."


def _figure(title: str, below: str, content: bytes) -> str:
    source = base64.b64encode(content).decode()
    caption = f"<figcaption>{html.escape(title)}<br><span class=soft>{html.escape(below)}</span></figcaption>"
    return f'<figure>{caption}<img alt="{html.escape(title, quote=True)}" src="data:image/png;base64,{source}"></figure>'


def _photo(photo: Photo) -> str:
    image = read_image(photo.path, "RGB")
    image.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="PNG")
    return _figure(photo.path.name, photo.caption, file.getvalue())


def _validation(run: Run) -> list[str]:
    """Each validation prompt's pictures, before, at some looks and after."""
    prompts, steps = run.settings.validation_prompts, sorted(run.pictures)
    if not prompts:
        return []
    if len(steps) > SHOWN_LOOKS:
        steps = [steps[round(index * (len(steps) - 1) / (SHOWN_LOOKS - 1))] for index in range(SHOWN_LOOKS)]
    parts = ["<h2>Validation prompts</h2>", "<p class=soft>Drawn from the same noise, by the pipeline in FP32.</p>"]
    for number, prompt in enumerate(prompts):
        shown: list[tuple[str, Tensor]] = [("before" if step == 0 else f"after step {step}", run.pictures[step][number]) for step in steps]
        parts.append(
            f"<p>{html.escape(prompt)}</p><div class=row>{''.join(_figure(title, '', png(image)) for title, image in shown)}</div>"
        )
    return parts
