"""Published results of studies: written, read, and one point of them compared with itself."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loralith.errors import LoralithError
from loralith.places import data
from loralith.reports.result_files import commit
from loralith.study.figures import add_published, compact, summarize, unpack_losses
from loralith.study.point_store import Store
from loralith.study.study_report import FORMAT, write_reports

__all__ = ["RESULTS", "compare_point", "machine", "publish", "read_results", "results_folder", "stored_point"]


RESULTS = data("docs/results/study.json")


def results_folder(targets: str) -> Path:
    """Where results of a choice of projections are published."""
    return RESULTS.parent if targets == "all" else RESULTS.parent / f"study-{targets}"


def read_results(folder: Path) -> dict[str, Any]:
    """What study.json in ``folder`` holds. Raises LoralithError."""
    path = folder / RESULTS.name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoralithError(f"{path} cannot be read: {error}; 'loralith study --publish' writes it") from error
    if content.get("format") != FORMAT:
        raise LoralithError(f"{path} has the format {content.get('format')!r}, this version reads {FORMAT!r}")
    return content


def publish(store: Store, names: Sequence[str], seeds: Sequence[int], output: Path, folder: Path | None, command: str) -> dict[str, Any]:
    """Writes the reports to ``output``, and to ``folder`` beside what is published there already; what study.json holds, and `files`.

    ``command`` repeats the study.
    """
    from loralith.study.reference_schemes import weight_errors  # torch, which reading results does not need

    found = {(name, seed): store.point(name, seed) for name in names for seed in seeds}
    points = {key: point for key, point in found.items() if point is not None}
    assert store.baseline is not None
    summary = summarize(points, store.baseline)
    context = {
        "command": command,
        "date": date.today().isoformat(),
        "commit": commit("gen", "sw", "verif") or "unknown",
        "settings": json.loads(json.dumps(dict(store.settings.identity()))),
        "machine": machine(),
        "weight_error": weight_errors(),
    }
    files = [str(path) for path in write_reports(output, context, summary, points).values()]
    if folder is not None:
        if (folder / RESULTS.name).exists():
            summary, points = add_published(read_results(folder), context, summary, points)
        files += [str(path) for path in write_reports(folder, context, summary, points).values()]
    return {**context, **summary, "files": files}


def machine() -> dict[str, Any]:
    """What decides FP32's last bits: versions, and torch's kernels."""
    import torch

    versions = {name: version(name) for name in ("torch", "diffusers", "peft", "scikit-learn")}
    return {**versions, "architecture": platform.machine(), "kernels": torch.backends.cpu.get_cpu_capability(), "threads": 1}


def stored_point(content: Mapping[str, Any], scheme: str, seed: int) -> Mapping[str, Any]:
    """A point of published results. Raises LoralithError that names the seeds that there are."""
    stored = next((p for p in content["points"] if (p["scheme"], p["seed"]) == (scheme, seed)), None)
    if stored is None:
        have = sorted({point["seed"] for point in content["points"] if point["scheme"] == scheme})
        raise LoralithError(f"the results have no point of {scheme} with seed {seed}; its seeds are {have or 'none'}")
    return stored


def compare_point(content: Mapping[str, Any], point: Mapping[str, Any], steps: int, device: str | None, *, whole: bool) -> dict[str, Any]:
    """A point that was run again beside the published one: what is equal, as JSON values. ``whole``: with all of its ``steps``."""
    stored = stored_point(content, point["scheme"], point["seed"])
    again = compact(point)
    if whole:
        names = list(stored) if device is None else ["heldout_loss", "accuracy", "curve", "adapter", "losses_fp32"]
        differing = [name for name in names if json.loads(json.dumps(again[name])) != stored[name]]
        compared = len(names)
    else:
        first = stored["losses_fp32"][: len(again["losses_fp32"])]
        differing, compared = ([] if again["losses_fp32"] == first else ["losses_fp32"]), 1
    return {
        "scheme": point["scheme"],
        "seed": point["seed"],
        "device": device or "torch reference",
        "steps": steps,
        "identical": not differing,
        "compared": compared,
        "differing": differing,
        "heldout_loss": again["heldout_loss"],
        "accuracy": again["accuracy"],
        "adapter": again["adapter"],
        "stored": {key: stored[key] for key in ("heldout_loss", "accuracy", "adapter")} if whole else None,
        "first_differing_loss": _first_difference(unpack_losses(again["losses_fp32"]), unpack_losses(stored["losses_fp32"])),
        "machine": {"stored": content["machine"], "here": machine()},
    }


def _first_difference(own: list[float], stored: list[float]) -> int | None:
    """The first step whose losses differ, None where all agree."""
    return next((step for step, (a, b) in enumerate(zip(own, stored, strict=False)) if a != b), None)
