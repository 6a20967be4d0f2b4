"""Points of `study.methods` as a summary, a page and a plot."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loralith.files import write_bytes

__all__ = ["plot", "summarize", "tables"]


def summarize(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """JSON values: of each study its settings and variants, each with its points; losses by step stay in the points' own files."""
    studies: dict[str, Any] = {}
    for point in points:
        study = studies.setdefault(point["study"], {"settings": point["settings"], "variants": {}})
        short = {name: value for name, value in point.items() if name not in ("settings", "study", "variant", "losses")}
        short["last_losses"] = statistics.fmean(point["losses"][-50:])
        study["variants"].setdefault(point["variant"], []).append(short)
    from loralith.study.methods import baselines

    return {"before_training": baselines(32), "studies": studies}


def _mean(points: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.fmean(point[name] for point in points)


def tables(figures: Mapping[str, Any]) -> list[str]:
    """Markdown lines."""
    base = figures["before_training"]
    lines = [
        f"Held-out losses, in FP32 whatever trained. The model before training: {base['word']:.5f} with the new word,",
        f"{base['null']:.5f} with the null prompt.",
        "Change: of the mean over seeds against the study's first variant. Held-out loss before: with quantized weights where a method has",
        "them.",
    ]
    for name, study in figures["studies"].items():
        first = next(iter(study["variants"].values()))
        settings = study["settings"]
        lines += [
            "",
            f"## {name}",
            "",
            f"{settings['steps']} steps of {settings['batch']} images, {settings['images']} images, learning rate {settings['lr']:g};",
            f"trained {'in FP32' if settings['device'] == 'fp32' else 'on the device `' + settings['device'] + '`'}.",
            "",
            "| variant | seeds | before | after, each seed | mean | change | correlation |",
            "|---|---|---|---|---|---|---|",
        ]
        for variant, points in study["variants"].items():
            before = "" if points[0]["before"] is None else f"{_mean(points, 'before'):.5f}"
            each = ", ".join(f"{point['after']:.5f}" for point in points)
            change = _mean(points, "after") / _mean(first, "after") - 1
            found = [value for point in points for value in point.get("correlation", {}).values()]
            least = f"{min(found):.4f}" if found else ""
            lines.append(f"| {variant} | {len(points)} | {before} | {each} | {_mean(points, 'after'):.5f} | {change:+.2%} | {least} |")
    return lines


def plot(figures: Mapping[str, Any], path: Path) -> None:
    """A dot for each seed, a line for the mean, by study and variant."""
    from matplotlib.figure import Figure

    studies = figures["studies"]
    figure = Figure(figsize=(4 * len(studies), 4), layout="constrained")
    for place, (name, study) in enumerate(studies.items(), 1):
        axes = figure.add_subplot(1, len(studies), place)
        for x, (variant, points) in enumerate(study["variants"].items()):
            axes.plot([x] * len(points), [point["after"] for point in points], "o", label=variant)
            axes.plot([x - 0.3, x + 0.3], [_mean(points, "after")] * 2, "k-", linewidth=1)
            if points[0]["before"] is not None:
                axes.plot([x - 0.3, x + 0.3], [_mean(points, "before")] * 2, "k:", linewidth=1)
        axes.set_xticks(range(len(study["variants"])), list(study["variants"]), rotation=20, ha="right", fontsize=8)
        axes.set_title(name, fontsize=10)
        axes.set_ylabel("held-out loss")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_bytes(buffer.getvalue(), path)
