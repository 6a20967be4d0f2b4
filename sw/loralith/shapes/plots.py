"""Pictures of `loralith bench shapes`: use by layer and rank, roofline, and where the cycles went."""

from __future__ import annotations

import io
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


def _label(run: Run) -> str:
    return f"{run['rows']} x {run['cols']}, {run['model']}, {run['subset']}"


def heat_map(runs: Sequence[Run]) -> Figure:
    """Use of the array for every layer (down) and rank (across), a panel per array; and that of ideal fixed output stationary."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_label(run), []).append(run)
    figure = Figure(figsize=(6 + 1.2 * max(len(group) for group in groups.values()), 1 + 2.6 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), 2, squeeze=False, sharey="row")
    image = None
    for row, (label, group) in zip(panels, groups.items(), strict=True):
        group = sorted(group, key=lambda run: run["rank"])
        names = [layer["name"] for layer in group[0]["layers"]]
        for axes, figure_of, title in ((row[0], "utilization", label), (row[1], "fixed_os_utilization", "ideal fixed output stationary")):
            values = [[layer[figure_of] for run in group for layer in run["layers"] if layer["name"] == name] for name in names]
            image = axes.imshow(values, vmin=0.4, vmax=1.0, cmap="viridis", aspect="auto")
            axes.set_xticks(range(len(group)), [f"r{run['rank']}" for run in group])
            axes.set_yticks(range(len(names)), names)
            axes.set_title(title, fontsize=9)
            for y, line in enumerate(values):
                for x, value in enumerate(line):
                    axes.text(x, y, f"{value:.1%}", ha="center", va="center", fontsize=7, color="black" if value > 0.75 else "white")
    assert image is not None
    figure.colorbar(image, ax=panels, label="useful MACs / (cycles x elements)", shrink=0.6)
    return figure


def roofline(runs: Sequence[Run]) -> Figure:
    """A point per layer and run: multiply-accumulates per cycle and element over multiply-accumulates per byte read."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    colors: dict[str, str] = {}
    for run in runs:
        elements = run["rows"] * run["cols"]
        key = f"{run['rows']} x {run['cols']}"
        color = colors.setdefault(key, f"C{len(colors)}")
        for layer in run["layers"]:
            intensity = layer["macs"] / layer["bytes_read"]
            marker = "^" if layer["name"].startswith("text") else "o"
            axes.plot(intensity, layer["macs"] / layer["cycles"] / elements, marker, color=color, markersize=4, alpha=0.7)
    for key, color in colors.items():
        rows, cols = (int(word) for word in key.split(" x "))
        bus = next(run["bus_bytes"] for run in runs if (run["rows"], run["cols"]) == (rows, cols))
        ridge = rows * cols / bus
        axes.plot([ridge / 5, ridge, 4096], [1 / 5, 1, 1], color=color, linewidth=1, label=f"{key}, {bus} bytes per cycle read")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_yticks([0.25, 0.5, 0.75, 1.0], ["25%", "50%", "75%", "100%"])
    axes.set_ylim(0.2, 1.1)
    axes.set_xlabel("multiply-accumulates per byte read")
    axes.set_ylabel("use of the array")
    axes.legend(fontsize=8, title="o image, ^ text", title_fontsize=8)
    return figure


def stalls(runs: Sequence[Run]) -> Figure:
    """Cycles by what the array did, a bar per run."""
    figure = Figure(figsize=(7, 1 + 0.35 * len(runs)), layout="constrained")
    axes = figure.subplots()
    names = [f"{_label(run)}, r{run['rank']}" for run in runs]
    start = [0.0] * len(runs)
    for cause, label in CAUSES.items():
        shares = [sum(layer[cause] * layer["cycles"] for layer in run["layers"]) / run["cycles"] for run in runs]
        axes.barh(names, shares, left=start, label=label)
        start = [a + b for a, b in zip(start, shares, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(min(0.8, min(run["utilization"] for run in runs) - 0.05), 1.0)
    axes.set_xlabel("share of the cycles")
    axes.legend(fontsize=8, loc="lower left")
    return figure


def png(figure: Figure) -> bytes:
    """The picture, the same bytes for the same figures."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
