"""Bytes of a training step by part, on device and host, measured on this machine, beside FP32 LoRA in torch, as a report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loralith.errors import LoralithError
from loralith.files import write_bytes
from loralith.mapping.planning.saved_memory import PARTS
from loralith.methods.settings import FinetuneSettings
from loralith.progress import tell
from loralith.spec.config import Config
from loralith.training.method_memory import BASELINE, MEASURED_STEPS, measure_method
from loralith.training.planned_memory.figures import memory_page
from loralith.training.sizes import check_sizes

__all__ = ["figures", "page", "saved_ratio", "title"]


def figures(settings: FinetuneSettings, config: Config, names: Sequence[str] | None, picture: Path | None) -> dict[str, Any]:
    """Of the methods ``names`` and of FP32 LoRA (all where None), drawn to ``picture``.

    Raises LoralithError for a method that does not exist, SettingsError for sizes that do not fit."""
    names = list(MEASURED_STEPS) if names is None else list(dict.fromkeys([BASELINE, *names]))
    for name in names:
        if name not in MEASURED_STEPS:
            raise LoralithError(f"there is no method {name!r}; there are {', '.join(MEASURED_STEPS)}")
    check_sizes(settings)
    methods = {name: measure_method(name, settings, config) for name in names}
    for name, method in methods.items():
        method["saved_ratio"] = saved_ratio(method, methods[BASELINE])
        method["saved_ratio_model"] = _sum(method["parts"]["saved"]) / _sum(methods[BASELINE]["parts"]["saved"])
        method["name"] = name
    result = {"config": config.name, "batch": settings.batch, "rank": settings.rank, "targets": list(settings.targets)}
    result |= {"parts": PARTS, "methods": methods}
    if picture:
        plot(result, picture)
    return result


def _sum(pair: dict[str, int]) -> int:
    return pair["device"] + pair["host"]


def saved_ratio(method: dict[str, Any], baseline: dict[str, Any]) -> float:
    """Bytes that the mapped modules save over those that the same modules save in FP32."""
    kinds = mapped_kinds(method)
    own = sum(_sum(method["saved"][kind]) for kind in kinds if kind in method["saved"])
    return own / sum(_sum(baseline["saved"][kind]) for kind in kinds if kind in baseline["saved"])


def mapped_kinds(method: dict[str, Any]) -> tuple[str, ...]:
    """The kinds of modules that a method maps; of the baseline, all that could be mapped."""
    return tuple(method["maps"])


def title(figures: dict[str, Any]) -> str:
    return f"Memory of a training step of {figures['model']}, planned" if "baselines" in figures else "Memory of a training step"


def _kilo(count: int) -> str:
    return f"{count / 1000:,.1f}"


def page(figures: dict[str, Any]) -> list[str]:
    if "baselines" in figures:
        return memory_page(figures)
    methods, parts = figures["methods"], figures["parts"]
    lines = [
        f"The small U-Net, {figures['batch']} images, LoRA of rank {figures['rank']} on {', '.join(figures['targets'])}; device "
        f"`{figures['config']}`. Kilobytes (1,000 bytes), device + host, as allocated.",
        "",
        f"| | {' | '.join(methods)} |",
        f"|---|{'---|' * len(methods)}",
    ]
    for part in parts:
        cells = [f"{_kilo(method['parts'][part]['device'])} + {_kilo(method['parts'][part]['host'])}" for method in methods.values()]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    totals = [_kilo(method["total"]) for method in methods.values()]
    lines += [f"| **all but originals** | {' | '.join(totals)} |", "", "Saved for the backward pass, by who saves it:", ""]
    kinds = sorted({kind for method in methods.values() for kind in method["saved"]})
    lines += [f"| | {' | '.join(methods)} |", f"|---|{'---|' * len(methods)}"]
    for kind in kinds:
        cells = [_kilo(_sum(method["saved"].get(kind, {"device": 0, "host": 0}))) for method in methods.values()]
        lines.append(f"| {kind if kind != 'rest' else 'everything else'} | {' | '.join(cells)} |")
    for label, key in (("mapped modules, against the same in FP32", "saved_ratio"), ("whole model, against FP32", "saved_ratio_model")):
        lines.append(f"| {label} | {' | '.join(f'{method[key]:.3f}' for method in methods.values())} |")
    lines += ["", "Parts:", "", *(f"- *{part}*: {text}." for part, text in parts.items())]
    lines += ["", "Methods:", "", *(f"- *{name}*: {method['text']}." for name, method in methods.items())]
    return lines


def plot(figures: dict[str, Any], path: Path) -> None:
    """Stacked bars, a method each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    methods = figures["methods"]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    bottom = [0.0] * len(methods)
    for part in (part for part in figures["parts"] if part != "originals"):
        heights = [_sum(method["parts"][part]) / 1e6 for method in methods.values()]
        axes.bar(list(methods), heights, bottom=bottom, label=part, width=0.6)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_ylabel("MB, device and host")
    axes.set_title("Memory of a training step, measured")
    axes.legend()
    form, buffer = path.suffix.lower().removeprefix("."), io.BytesIO()
    figure.savefig(buffer, format=form, metadata={"Date" if form == "svg" else "CreationDate": None} if form in ("svg", "pdf") else None)
    pyplot.close(figure)
    write_bytes(buffer.getvalue(), path)
    tell(f"wrote {path}")
