"""report.html: a finished fine-tune on one page that needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from loralith.reports.loss_chart import loss_chart
from loralith.reports.picture import grid
from loralith.reports.run_report import Evaluation, FinishedRun

__all__ = ["STYLE", "build_html", "device_section", "made_by", "table", "text_of"]

GRID, COLUMNS = 24, 4
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2026; max-width: 980px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem } code { overflow-wrap: anywhere }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { padding: .15rem .8rem .15rem 0; text-align: right }
td:first-child, th:first-child { text-align: left } th { border-bottom: 1px solid #d6d9dd } summary { cursor: pointer }
svg, img { max-width: 100% } .soft { color: #6c737b } .row { display: flex; flex-wrap: wrap; gap: 1.5rem }
figure { margin: 0; flex: 0 1 210px } figcaption { margin-bottom: .4rem }
"""


def build_html(report: Mapping[str, Any], run: FinishedRun) -> str:
    """The page of a run, from what report.json holds and the samples."""
    subject = run.method.subject
    settings, counters = report["settings"], report["counters"]
    held, accuracy = report["held_out_loss"], report["sample_accuracy"]
    facts = [("held-out loss", f"{held['before']:.5f}", f"{held['after']:.5f}")]
    if accuracy["after"] is not None:
        facts.append((f"samples recognized as {subject.digit}", f"{accuracy['before']:.0%}", f"{accuracy['after']:.0%}"))
    steps = int(settings["steps"])
    curve = [(0, held["before"]), *(tuple(point) for point in report["curve"]), (steps, held["after"])]
    title = f"Learning {html.escape(subject.name)}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>",
        f"<h1>{title}</h1>",
        f"<p class=soft>{_line(report['method'], settings)}</p>",
        f"<p class=soft>{made_by(report)}</p>",
        table(("", "before", "after"), facts),
        "<h2>Loss</h2>",
        loss_chart(report["losses"], curve),
        "<h2>Images</h2>",
        _images(run, steps),
    ]
    if counters.get("layers"):
        parts += ["<h2>The device</h2>", *device_section(report)]
    if report["energy"]:
        parts += ["<h2>Energy, estimated</h2>", *_energy(report["energy"], steps)]
    memory = dict(counters.get("memory", {}))
    own = report["trained"]
    memory |= {"trained values on the host": 4 * own, "gradients on the host": 4 * own, "optimizer on the host": 8 * own}
    rows = [(name, f"{int(value):,}") for name, value in memory.items()]
    parts += ["<h2>Memory of a step</h2>", table(("", "bytes"), rows)]
    parts.append("<p class=soft><code>loralith report memory</code> measures every part, beside FP32.</p>")
    parts += ["<h2>Settings</h2>", table(("", "value"), [(_words(name), text_of(value)) for name, value in settings.items()])]
    made = {**report["versions"], **report["machine"], "seconds of training": f"{report['seconds']:.1f}"}
    parts += ["<h2>Versions and machine</h2>", table(("", ""), [(name, text_of(value)) for name, value in made.items()])]
    parts.append(f"<p class=soft>Settings {report['settings_hash']}; report.json holds every number.</p>")
    return "\n".join([*parts, "</html>", ""])


def _line(label: str, settings: Mapping[str, Any]) -> str:
    device = settings["device"] + (f", {settings['config']}" if settings["config"] else "")
    mapped = "all that multiplies" if settings.get("modules") == "all" else "LoRA layers"
    where = f"{mapped} on {device}" if settings["config"] else "plain torch"
    return html.escape(
        f"{settings['method']}: {label}, {settings['steps']} steps of {settings['batch']} "
        f"images, learning rate {settings['lr']:g}, seed {settings['seed']}; {where}"
    )


def made_by(report: Mapping[str, Any]) -> str:
    """Version, commit, date and command."""
    facts = [f"loralith {report['versions']['loralith']}"]
    facts += [f"{text} {report[name]}" for name, text in (("commit", "commit"), ("rtl", "RTL")) if report.get(name)]
    facts.append(report["date"])
    command = report.get("command")
    return html.escape(", ".join(facts)) + (f"<br><code>{html.escape(command)}</code>" if command else "")


def _words(name: str) -> str:
    return name.replace("_", " ")


def text_of(value: Any) -> str:
    """A JSON value in words."""
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={text_of(own)}" for name, own in value.items()) or "none"
    return ", ".join(map(text_of, value)) if isinstance(value, list | tuple) else str(value)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; every cell is escaped."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _images(run: FinishedRun, steps: int) -> str:
    """Training images, and samples before, at each look, and after."""
    subject = run.method.subject

    def figure(title: str, text: str, images: Tensor, right: Tensor | None = None) -> str:
        png = base64.b64encode(grid(images[:GRID], COLUMNS, None if right is None else right[:GRID])).decode()
        caption = f"<figcaption>{html.escape(title)}<br><span class=soft>{html.escape(text)}</span></figcaption>"
        return f'<figure>{caption}<img alt="{html.escape(title)}" src="data:image/png;base64,{png}"></figure>'

    def judged(title: str, result: Evaluation) -> str:
        right = None if subject.digit is None else result.recognized == subject.digit
        return figure(title, f"held-out loss {result.held_out_loss:.4f}", result.samples, right)

    looks = run.looks
    if len(looks) > 4:  # evenly spread ones
        looks = [looks[round(i * (len(looks) - 1) / 3)] for i in range(4)]
    count = len(subject.images)
    shown = f"all {count}" if count <= GRID else f"{GRID} of {count}"
    figures = [
        figure("training images", shown, subject.images),
        judged("samples before", run.before),
        *(figure(f"samples after step {look.step}", f"held-out loss {look.held_out_loss:.4f}", look.samples) for look in looks),
        judged(f"samples after step {steps}", run.after),
    ]
    about = f'Samples are drawn with the prompt "{subject.prompt}" from the same noise.'
    about += "" if subject.digit is None else f" Green frames: recognized as {subject.digit}."
    return f"<div class=row>{''.join(figures)}</div><p class=soft>{html.escape(about)}</p>"


def _energy(energy: Mapping[str, Any], steps: int) -> list[str]:
    rows = [
        (node, *(f"{joules[cause] / steps * 1e3:.3f}" for cause in ("arithmetic", "dram"))) for node, joules in energy["joules"].items()
    ]
    about = f"{energy['tier']}. The counters do not tell of on-chip memories and post-processing; loralith report energy does, for SD-1.5."
    return [table(("node", "INT8 multiply-accumulates, mJ a step", "DRAM, mJ a step"), rows), f"<p class=soft>{html.escape(about)}</p>"]


def device_section(report: Mapping[str, Any]) -> list[str]:
    """What the run's device counted, as parts of a page."""
    counters, layers = report["counters"], report["counters"].get("layers", {})
    unit = counters.get("cycle_unit", "cycles")
    peak = int(counters.get("processing_elements", 0))
    share = "array utilization" if unit == "cycles" else "useful share of the steps, stalls not counted"
    shown = {
        "cycles": (unit, ","),
        "macs": ("multiply-accumulates", ","),
        "utilization": (share, ".1%"),
        "bytes_read": ("bytes read", ","),
        "bytes_written": ("bytes written", ","),
        "elements_compared": ("elements compared with the reference", ","),
    }
    facts = [(text, format(counters[name], form)) for name, (text, form) in shown.items() if counters.get(name) is not None]
    if counters.get("bit_exact") is not None:
        facts.append(("bit-exact with the reference", text_of(counters["bit_exact"])))
    parts = [table(("", ""), facts)] if facts else []
    if "cycles" not in counters:
        parts.append(f"<p class=soft>The device {html.escape(report['settings']['device'])} has no array, so that it counts no cycles.</p>")
        columns: tuple[str, ...] = ("layer", "kind")
        rows = [(_layer(name), own["kind"]) for name, own in layers.items()]
    else:
        columns = ("layer", "kind", unit, "MACs", "utilization", "bytes moved")
        rows = [(_layer(name), *_layer_figures(own, peak)) for name, own in layers.items()]
    return [*parts, f"<details open><summary>{len(rows)} layers</summary>{table(columns, rows)}</details>"]


def _layer(name: str) -> str:
    return name.removeprefix("base_model.model.")


def _layer_figures(own: Mapping[str, Any], peak: int) -> tuple[str, ...]:
    used = f"{own['macs'] / (own['cycles'] * peak):.1%}" if own["cycles"] and peak else ""
    return own["kind"], f"{own['cycles']:,}", f"{own['macs']:,}", used, f"{own['bytes_read'] + own['bytes_written']:,}"
