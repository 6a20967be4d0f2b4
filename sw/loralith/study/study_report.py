"""A study's files for readers: study.json, study.csv, study.md and study.png."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from loralith.files import write_bytes, write_json, write_text
from loralith.study.figures import Points, compact
from loralith.study.schemes import DEFAULT, FP32

FORMAT = "loralith-study-1"
TENSORS = ("X", "H", "dY", "dH")
COLUMNS = (
    *("scheme", "seed", "heldout_loss", "heldout_loss_in_scheme", "heldout_loss_ratio_to_fp32", "improvement_recovered"),
    *("accuracy", "gradient_cosine", "gradient_relative_error"),
)


def write_reports(folder: Path, context: Mapping[str, Any], summary: Mapping[str, Any], points: Points) -> dict[str, Path]:
    """Writes the four files; `context` is what the points have in common (command, date, commit, settings, machine)."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"study.{kind}" for kind in ("json", "csv", "md", "png")}
    ordered = [points[key] for key in sorted(points, key=lambda key: (list(summary["schemes"]).index(key[0]), key[1]))]
    write_json({"format": FORMAT, **context, **summary, "points": [compact(point) for point in ordered]}, paths["json"])
    write_text(table(summary, ordered), paths["csv"])
    write_text(page(context, summary), paths["md"])
    write_bytes(curves(context, summary, ordered), paths["png"])
    return paths


def table(summary: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> str:
    """CSV with a row for each point."""
    before = summary["baseline"]["heldout_loss"]
    fp32 = {point["seed"]: point["heldout_loss"] for point in points if point["scheme"] == FP32}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    shares = [(kind, tensor) for kind in ("saturated", "vanished") for tensor in TENSORS]
    writer.writerow([*COLUMNS, *("_".join(pair) for pair in shares)])
    for point in points:
        loss, other, small = point["heldout_loss"], fp32[point["seed"]], compact(point)
        writer.writerow(
            [
                point["scheme"],
                point["seed"],
                loss,
                point["heldout_loss_in_scheme"],
                loss / other,
                (before - loss) / (before - other),
                point["accuracy"],
                mean(small["gradient_cosine"].values()),
                mean(small["gradient_relative_error"].values()),
                *(point[kind].get(tensor, "") for kind, tensor in shares),
            ]
        )
    return text.getvalue()


def _plus_minus(value: float, error: float | None, form: str) -> str:
    """Without an error for a single value, which has none."""
    return f"{value:{form}}" if error is None else f"{value:{form}} ± {error:{form}}"


def percent(value: float, error: float | None, digits: int) -> str:
    """A share in percent, with its standard error where there are several values."""
    return f"{_plus_minus(100 * value, None if error is None else 100 * error, f'.{digits}f')} %"


def signed(value: float, error: float | None) -> str:
    """A difference in percent, with its standard error where there are several values."""
    return f"{100 * value:+.2f}{'' if error is None else f' ± {100 * error:.2f}'} %"


def _range(pair: Sequence[float] | None, digits: int) -> str:
    return "" if pair is None else f" (95 % interval {100 * pair[0]:.{digits}f} to {100 * pair[1]:.{digits}f} %)"


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """The chosen scheme beside FP32, one line for each figure of the bar."""
    own, holds = summary["schemes"][DEFAULT], summary["bar"]
    excess = [bound - 1.0 for bound in own["heldout_loss_ratio_to_fp32_interval95"] or []] or None
    words = {True: "met", False: "not met", None: "not judged by one seed"}
    return [
        f"held-out loss: {100 * (own['heldout_loss_ratio_to_fp32'] - 1):+.2f} % against FP32{_range(excess, 2)}; "
        f"within 1 %: {words[holds['heldout_loss_within_1_percent']]}",
        f"improvement recovered: {percent(own['improvement_recovered'], own['improvement_recovered_se'], 1)}"
        f"{_range(own['improvement_recovered_interval95'], 1)}; at least 95 %: {words[holds['improvement_recovered_95_percent']]}",
        f"sample accuracy minus FP32's: {percent(own['accuracy_minus_fp32'], own['accuracy_minus_fp32_se'], 1)}"
        f"{_range(own['accuracy_minus_fp32_interval95'], 1)}; within one standard error: "
        f"{words[holds['accuracy_within_one_standard_error']]}",
    ]


def told_apart(summary: Mapping[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """Schemes by their held-out loss beside FP32: worse, better, and not told apart (the 95 % interval holds FP32's loss), worst first."""
    schemes = {name: own for name, own in summary["schemes"].items() if name != FP32 and own["heldout_loss_ratio_to_fp32_interval95"]}
    ordered = sorted(schemes, key=lambda name: -schemes[name]["heldout_loss_ratio_to_fp32"])
    bounds = {name: schemes[name]["heldout_loss_ratio_to_fp32_interval95"] for name in ordered}
    worse = [name for name in ordered if bounds[name][0] > 1.0]
    better = [name for name in ordered if bounds[name][1] < 1.0]
    return worse, better, [name for name in ordered if name not in worse and name not in better]


def _findings(summary: Mapping[str, Any]) -> list[str]:
    def line(name: str) -> str:
        own = summary["schemes"][name]
        low, high = (bound - 1.0 for bound in own["heldout_loss_ratio_to_fp32_interval95"])
        return (
            f"- `{name}`: {100 * (own['heldout_loss_ratio_to_fp32'] - 1.0):+.2f} % ({100 * low:+.2f} to {100 * high:+.2f} %), "
            f"{own['improvement_recovered']:.1%} of the improvement"
        )

    lines = []
    titles = ("Worse than FP32", "Better than FP32", "Not told apart from FP32 by these seeds")
    for title, names in zip(titles, told_apart(summary), strict=True):
        if names:
            lines += [f"{title} (held-out loss, 95 % interval):", "", *(line(name) for name in names), ""]
    return lines


def _earlier(schemes: Mapping[str, Any]) -> list[str]:
    """Which schemes are of an earlier run, whose FP32 points were the same."""
    runs: dict[tuple[str, str], list[str]] = {}
    for name, own in schemes.items():
        if "made" in own:
            runs.setdefault((own["made"]["date"], own["made"]["commit"]), []).append(f"`{name}`")
    return [f"{', '.join(names)}: {made}, commit {at}, with the same FP32 points." for (made, at), names in runs.items()]


def page(context: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Markdown."""
    targets = "".join(f" {word}" for word in context["command"].split() if word.startswith("--targets"))
    settings, before, schemes = context["settings"], summary["baseline"], summary["schemes"]
    seeds = len(summary["seeds"])
    lines = [
        "# Training schemes against FP32",
        "",
        f"{context['date']}, commit {context['commit']}. `{context['command']}` repeats it,",
        f"`loralith study{targets} --rerun SCHEME --seed S` one point, number for number.",
        "",
        f"LoRA of rank {settings['rank']} on {', '.join(settings.get('targets', ['all four projections']))} of the small diffusion model: "
        f"{settings['images']} images of the digit {settings['digit']}, {settings['steps']} steps of {settings['batch']} images.",
        f"Seeds {', '.join(map(str, summary['seeds']))}. A seed decides the adapter's first values, the images, every draw and",
        "the rounding, alike for all schemes: differences from FP32 are taken seed by seed. After `±` is one standard error over seeds;",
        "a single seed has none.",
        f"Before training: held-out loss {before['heldout_loss']:.5f}, "
        f"{before['accuracy']:.0%} of {settings['evaluation']['samples']} samples recognized.",
        *_earlier(schemes),
        "",
        "![Held-out loss while training, and what each scheme recovers of FP32's improvement](study.png)",
        "",
        "## The chosen scheme",
        "",
        *(f"- {line}" for line in (verdict(summary) if "bar" in summary else [])),
        "",
        "## What loses",
        "",
        *_findings(summary),
        "## All schemes",
        "",
        "Loss and accuracy are measured in FP32 with the trained adapter. *In scheme* is the held-out loss with the layers in the scheme's",
        "own integers. Every scheme is the chosen one (`default`) but for what its text says.",
        "",
        "| scheme | | held-out loss | against FP32 | improvement recovered | accuracy | minus FP32's | in scheme |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, own in schemes.items():
        ratio = own["heldout_loss_ratio_to_fp32"] - 1.0
        few = "" if len(own["seeds"]) == seeds else f" (n = {len(own['seeds'])}, of seeds {', '.join(map(str, own['seeds']))})"
        lines.append(
            f"| `{name}` | {own['text']}{few} | {own['heldout_loss']:.5f} "
            + (
                f"| | | {percent(own['accuracy'], own['accuracy_se'], 0)} | | |"
                if name == FP32
                else f"| {signed(ratio, own['heldout_loss_ratio_to_fp32_se'])} "
                f"| {percent(own['improvement_recovered'], own['improvement_recovered_se'], 1)} "
                f"| {percent(own['accuracy'], own['accuracy_se'], 0)} "
                f"| {percent(own['accuracy_minus_fp32'], own['accuracy_minus_fp32_se'], 1)} | {own['heldout_loss_in_scheme']:.5f} |"
            )
        )
    lines += [
        "",
        "## Gradients",
        "",
        f"Gradients of A and B at steps {', '.join(map(str, settings['probes']))} against FP64 at the same parameters and draw: mean over",
        "parameters, steps and seeds, and the parameter with the lowest mean. *Vanished* is the share of a tensor's values other than zero",
        "that its quantization makes zero, *saturated* the largest share clipped, over tensors.",
        "",
        "| scheme | cosine | relative error | lowest cosine | vanished X | H | dY | dH | saturated |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, own in schemes.items():
        worst = own["worst_gradient"]
        shares = [f"{own['vanished'][tensor]:.1%}" if own["vanished"] else "" for tensor in TENSORS]
        saturated = f"{max(own['saturated'].values()):.2%}" if own["saturated"] else ""
        lowest = f"{worst['cosine']:.4f} `{worst['parameter']}`"
        figures = (f"{own['gradient_cosine']:.4f}", f"{own['gradient_relative_error']:.3f}", lowest, *shares, saturated)
        lines.append(f"| `{name}` | {' | '.join(figures)} |")
    if "weight_error" in context:
        lines += [
            "",
            "## Scales of W",
            "",
            "Relative error of quantized W, mean over the layers; squares have powers of two of a common unit (docs/numerics.md).",
            "",
            "| scales | 8 bits | 4 bits |",
            "|---|---|---|",
            *(f"| {name} | {eight:.3%} | {four:.2%} |" for name, (eight, four) in context["weight_error"].items()),
        ]
    warned = [(name, message) for name, own in schemes.items() for message in own["warnings"]]
    if warned:
        lines += ["", "## Warnings", "", *(f"- `{name}`: {message}" for name, message in warned[:20])]
        if len(warned) > 20:
            lines.append(f"- and {len(warned) - 20} more")
    return "\n".join(lines) + "\n"


SHOWN = {FP32: "#1d2733", DEFAULT: "#0a7d5a", "nearest": "#c2591c", "int4-weights": "#7d4fb5", "int4": "#2f6fc4", "int4-nearest": "#c0314f"}
"""Schemes of the left figure, with their colours there and in the right one."""
OTHER = "#8a94a0"


def curves(context: Mapping[str, Any], summary: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> bytes:
    """PNG bytes: mean held-out loss over training with its spread over seeds; improvement recovered, every seed and the mean."""
    from matplotlib.figure import Figure

    settings, schemes = context["settings"], summary["schemes"]
    figure = Figure(figsize=(12, 5), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    steps = list(range(settings["curve_every"], settings["steps"] + 1, settings["curve_every"]))
    for name, colour in SHOWN.items():
        rows = [point["curve"] for point in points if point["scheme"] == name]
        if rows:
            columns = list(zip(*rows, strict=True))
            left.fill_between(steps, [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.12, linewidth=0)
            left.plot(
                steps,
                [mean(c) for c in columns],
                color=colour,
                linewidth=2.0,
                label=f"{name} ({len(rows)} seeds)",
                marker="o",
                markersize=3,
            )
    left.set(xlabel="step", ylabel="held-out loss", title="Held-out loss while training: mean, smallest and largest over seeds")
    left.legend(frameon=False)
    before = summary["baseline"]["heldout_loss"]
    fp32 = {point["seed"]: point["heldout_loss"] for point in points if point["scheme"] == FP32}
    names = [name for name in schemes if name != FP32]
    for place, name in enumerate(names):
        colour = SHOWN.get(name, OTHER)
        own = [p for p in points if p["scheme"] == name and p["seed"] in fp32]
        recovered = [100 * (before - p["heldout_loss"]) / (before - fp32[p["seed"]]) for p in own]
        error = schemes[name]["improvement_recovered_se"]
        bar = None if error is None else 100 * error
        right.errorbar(mean(recovered), place, xerr=bar, color=colour, marker="s", markersize=6, capsize=4, linewidth=2)
        right.plot(recovered, [place] * len(recovered), "o", color=colour, alpha=0.45, markersize=4)
    right.axvline(100, color=SHOWN[FP32], linewidth=1)
    right.axvline(95, color=SHOWN[FP32], linewidth=1, linestyle=":")
    right.set_yticks(range(len(names)), [f"{name}, n = {len(schemes[name]['seeds'])}" for name in names])
    right.invert_yaxis()
    right.set(xlabel="% of FP32's improvement recovered", title="Every seed, mean and standard error; dotted: the bar of 95 %")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
