"""Pictures of `loralith bench shapes`: use by layer and rank, roofline, and where the cycles went."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

__all__ = ["CAUSES", "heat_map", "png", "roofline", "stalls"]

Run = dict[str, Any]
CAUSES = {
    "busy": "array busy",
    "wait_load": "waits for loads",
    "wait_store": "waits for stores",
    "fill_drain": "fill and drain",
    "idle": "idle",
}


def _array(run: Run) -> str:
    return f"{run['rows']} x {run['cols']}"


def _label(run: Run) -> str:
    return f"{_array(run)}, {run['model']}, {run['subset']}"


def _column(run: Run) -> str:
    return f"{_array(run)}\n{run['subset']}, r{run['rank']}"


def _once(runs: Sequence[Run]) -> list[Run]:
    """Without runs of a part of the layers where another run has all of them."""
    complete = {(_array(run), run["model"], run["rank"]) for run in runs if run["subset"] == "all"}
    return [run for run in runs if run["subset"] == "all" or (_array(run), run["model"], run["rank"]) not in complete]


def heat_map(runs: Sequence[Run]) -> Figure:
    """Use of the array, and that of ideal fixed output stationary on the same array below it: two panels per model, a row per layer, which
    all arrays and ranks share, and a column per array and rank."""
    runs = _once(runs)
    models = list(dict.fromkeys(run["model"] for run in runs))
    columns = {model: [run for run in runs if run["model"] == model] for model in models}
    names = {model: list(dict.fromkeys(layer["name"] for run in columns[model] for layer in run["layers"])) for model in models}
    heights = [0.8 + 0.36 * len(names[model]) for model in models]
    widest = max(len(own) for own in columns.values())
    figure = Figure(figsize=(3 + 0.75 * widest, 1 + 2 * sum(heights)), layout="constrained")
    panels = figure.subplots(2 * len(models), 1, squeeze=False, height_ratios=[height for height in heights for _ in range(2)])
    image = None
    for place, model in enumerate(models):
        for half, (field, title) in enumerate((("utilization", "this machine"), ("fixed_os_utilization", "ideal fixed output stationary"))):
            axes, own = panels[2 * place + half, 0], columns[model]
            layers = [{layer["name"]: layer[field] for layer in run["layers"]} for run in own]
            values = [[found.get(name, math.nan) for found in layers] for name in names[model]]
            image = axes.imshow(values, vmin=0.4, vmax=1.0, cmap="viridis", aspect="auto")
            axes.set_xlim(-0.5, widest - 0.5)
            axes.spines[:].set_visible(False)
            axes.set_xticks(range(len(own)), [_column(run) for run in own], fontsize=7)
            axes.set_yticks(range(len(names[model])), names[model], fontsize=8)
            axes.set_title(f"{model}: {title}", fontsize=9, loc="left")
            for y, line in enumerate(values):
                for x, value in enumerate(line):
                    if not math.isnan(value):
                        axes.text(x, y, f"{value:.1%}", ha="center", va="center", fontsize=7, color="black" if value > 0.75 else "white")
    assert image is not None
    figure.colorbar(image, ax=panels, label="useful MACs / (cycles x elements); 40 % and less in one colour", shrink=0.5)
    return figure


def roofline(runs: Sequence[Run]) -> Figure:
    """A point per layer and run: multiply-accumulates per cycle and element over multiply-accumulates per byte read, with the line that the
    array and its bus allow. The axes span the points and the ends of the lines."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    arrays = {_array(run): run for run in runs}
    colors = {key: f"C{place}" for place, key in enumerate(arrays)}
    points = [
        (layer["macs"] / layer["bytes_read"], layer["macs"] / layer["cycles"] / (run["rows"] * run["cols"]), run, layer)
        for run in runs
        for layer in run["layers"]
    ]
    for intensity, used, run, layer in points:
        marker = "^" if layer["name"].startswith("text") else "o"
        axes.plot(intensity, used, marker, color=colors[_array(run)], markersize=4, alpha=0.7)
    lowest = min(used for _, used, _, _ in points) - 0.05
    ridges = {key: run["rows"] * run["cols"] / run["bus_bytes"] for key, run in arrays.items()}
    left = min([intensity for intensity, *_ in points] + [ridge * lowest for ridge in ridges.values()])
    right = 1.3 * max([intensity for intensity, *_ in points] + list(ridges.values()))
    for key, run in arrays.items():
        label = f"{key}, {run['bus_bytes']} bytes per cycle read"
        axes.plot([ridges[key] * lowest, ridges[key], right], [lowest, 1, 1], color=colors[key], linewidth=1, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    shares = [share for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0) if share >= lowest]
    axes.set_yticks(shares, [f"{share:.0%}" for share in shares])
    axes.set_ylim(lowest, 1.03)
    axes.set_xlim(left / 1.1, right)
    axes.set_xlabel("multiply-accumulates per byte read")
    axes.set_ylabel(f"use of the array (the axis begins at {lowest:.0%})")
    axes.legend(fontsize=8, title="o image, ^ text", title_fontsize=8, loc="lower right")
    return figure


def stalls(runs: Sequence[Run]) -> Figure:
    """Cycles by what the array did, a bar per run: the whole of the cycles on the left, and beside it, as its axis says, the end of it."""
    figure = Figure(figsize=(11, 1.2 + 0.3 * len(runs)), layout="constrained")
    whole, end = figure.subplots(1, 2, sharey=True)
    names = [f"{_label(run)}, r{run['rank']}" for run in runs]
    start = [0.0] * len(runs)
    for cause, label in CAUSES.items():
        shares = [sum(layer[cause] * layer["cycles"] for layer in run["layers"]) / run["cycles"] for run in runs]
        for axes in (whole, end):
            axes.barh(names, shares, left=start, label=label)
        start = [a + b for a, b in zip(start, shares, strict=True)]
    whole.invert_yaxis()
    whole.set_xlim(0, 1)
    whole.set_xlabel("share of the cycles")
    first = math.floor(20 * min(run["utilization"] for run in runs)) / 20
    end.set_xlim(first, 1)
    end.set_xlabel(f"the same from {first:.0%} on")
    figure.legend(*whole.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=len(CAUSES))
    return figure


def png(figure: Figure) -> bytes:
    """The picture, the same bytes for the same figures."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
