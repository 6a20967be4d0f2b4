"""report.html: a finished fine-tune on one page that needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from loralith.diffusion.evaluate import Evaluation
from loralith.diffusion.picture import Panel, render
from loralith.diffusion.session import Session
from loralith.diffusion.subject import Subject

__all__ = ["build_html"]

WIDTH, HEIGHT, LEFT, BOTTOM = 720, 260, 56, 28
GRID = 24
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2026; max-width: 980px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { padding: .15rem .8rem .15rem 0; text-align: right }
td:first-child, th:first-child { text-align: left } th { border-bottom: 1px solid #d6d9dd } .scroll { max-height: 24rem; overflow: auto }
svg, img { max-width: 100% } .soft { color: #6c737b }
"""


def build_html(report: Mapping[str, Any], subject: Subject, session: Session, after: Evaluation) -> str:
    """The page of a run, from what report.json holds and the samples."""
    settings, counters = report["settings"], report["counters"]
    held = report["held_out_loss"]
    accuracy = report["sample_accuracy"]
    facts = [
        ("held-out loss", f"{held['before']:.5f}", f"{held['after']:.5f}"),
        ("samples recognized", *(("" if accuracy[when] is None else f"{accuracy[when]:.0%}") for when in ("before", "after"))),
    ]
    assert session.before is not None
    steps = int(settings["steps"])
    curve = [(0, held["before"]), *(tuple(point) for point in report["curve"]), (steps, held["after"])]
    parts = [
        f"<h1>Learning {html.escape(subject.name)}</h1>",
        f"<p class=soft>{_line(report['method'], settings)}</p>",
        _table(("", "before", "after"), facts),
        "<h2>Loss</h2>",
        _curves(report["losses"], curve),
        "<h2>Samples</h2>",
        _image(_grids(subject, session, after, steps)),
    ]
    if "cycles" in counters:
        parts += ["<h2>The device</h2>", *_device(report)]
    if report["energy"]:
        parts += ["<h2>Energy, estimated</h2>", *_energy(report["energy"], steps)]
    memory = dict(counters.get("memory", {}))
    own = report["trained"]
    memory |= {"trained values on the host": 4 * own, "gradients on the host": 4 * own, "optimizer on the host": 8 * own}
    rows = [(name, f"{int(value):,}") for name, value in memory.items()]
    parts += ["<h2>Memory of a step</h2>", _table(("", "bytes"), rows)]
    parts.append("<p class=soft><code>loralith report memory</code> measures every part, beside FP32.</p>")
    parts += ["<h2>Settings</h2>", _table(("", "value"), [(name, _text(value)) for name, value in settings.items()])]
    made = {**report["versions"], **report["machine"], "seconds of training": f"{report['seconds']:.1f}"}
    parts += ["<h2>Versions and machine</h2>", _table(("", ""), [(name, _text(value)) for name, value in made.items()])]
    parts.append(f"<p class=soft>Settings {report['settings_hash']}; report.json holds every number.</p>")
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>Learning {html.escape(subject.name)}</title><style>{STYLE}</style>"
    return "\n".join([head, *parts, "</html>", ""])


def _line(label: str, settings: Mapping[str, Any]) -> str:
    device = settings["device"] + (f", {settings['config']}" if settings["config"] else "")
    mapped = "all that multiplies" if settings.get("modules") == "all" else "LoRA layers"
    where = f"{mapped} on {device}" if settings["config"] else "plain torch"
    return html.escape(
        f"{settings['method']}: {label}, {settings['steps']} steps of {settings['batch']} "
        f"images, learning rate {settings['lr']:g}, seed {settings['seed']}; {where}"
    )


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]], scroll: bool = False) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    table = f"<table><tr>{head}</tr>{body}</table>"
    return f"<div class=scroll>{table}</div>" if scroll else table


def _image(png: bytes) -> str:
    return f'<img alt="samples" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _grids(subject: Subject, session: Session, after: Evaluation, steps: int) -> bytes:
    """Samples before, at each look, and after, side by side."""
    assert session.before is not None

    def panel(title: str, samples: Any, loss: float) -> Panel:
        return Panel(title, f"{loss:.4f}", samples[:GRID], 4)

    looks = [panel(f"step {look.step}", look.samples, look.held_out_loss) for look in session.looks]
    if len(looks) > 4:  # evenly spread ones
        looks = [looks[round(i * (len(looks) - 1) / 3)] for i in range(4)]
    first = panel("before", session.before.samples, session.before.held_out_loss)
    last = panel(f"step {steps}", after.samples, after.held_out_loss)
    return render(f'Samples of "{subject.prompt}" and held-out loss', [first, *looks, last])


def _curves(losses: Sequence[float], held: Sequence[tuple[int, float]]) -> str:
    """An SVG of each step's loss, its moving mean, and the held-out losses."""
    top = max([*losses, *(loss for _, loss in held)]) * 1.05
    last = max(len(losses), 1)

    def place(step: float, loss: float) -> str:
        x = LEFT + (WIDTH - LEFT - 10) * step / last
        return f"{x:.1f},{HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 10) * loss / top:.1f}"

    window = max(1, len(losses) // 20)
    means = [sum(losses[max(0, i - window + 1) : i + 1]) / min(window, i + 1) for i in range(len(losses))]

    def line(points: Sequence[tuple[float, float]], style: str) -> str:
        return f'<polyline fill="none" {style} points="{" ".join(place(*point) for point in points)}"/>'

    marks = [
        f'<text x="{LEFT - 6}" y="{place(0, value).split(",")[1]}" text-anchor="end" font-size="11">{value:.3f}</text>'
        for value in (0.0, top / 2, top)
    ]
    marks += [
        f'<text x="{place(step, 0).split(",")[0]}" y="{HEIGHT - 10}" text-anchor="middle" font-size="11">{step}</text>'
        for step in (0, last // 2, last)
    ]
    dots = [
        f'<circle cx="{x}" cy="{y}" r="3.5" fill="#c2410c"><title>step {step}: {loss:.5f}</title></circle>'
        for step, loss in held
        for x, y in [place(step, loss).split(",")]
    ]
    svg = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="loss by step">',
        line(list(enumerate(losses, 1)), 'stroke="#d6d9dd"'),
        line(list(enumerate(means, 1)), 'stroke="#168c60" stroke-width="2"'),
        line(held, 'stroke="#c2410c" stroke-dasharray="4 3"'),
        *dots,
        *marks,
        "</svg>",
    ]
    legend = '<p class=soft>Grey: each step. <span style="color:#168c60">Green</span>: its moving mean. '
    return "".join(svg) + legend + '<span style="color:#c2410c">Orange</span>: held-out loss, in FP32.</p>'


def _energy(energy: Mapping[str, Any], steps: int) -> list[str]:
    rows = [
        (node, *(f"{joules[cause] / steps * 1e3:.3f}" for cause in ("arithmetic", "dram"))) for node, joules in energy["joules"].items()
    ]
    about = f"{energy['tier']}. The counters do not tell of on-chip memories and post-processing; loralith report energy does, for SD-1.5."
    return [_table(("node", "INT8 multiply-accumulates, mJ a step", "DRAM, mJ a step"), rows), f"<p class=soft>{html.escape(about)}</p>"]


def _device(report: Mapping[str, Any]) -> list[str]:
    counters, layers = report["counters"], report["counters"].get("layers", {})
    peak = int(counters.get("processing_elements", 0))
    shown = {
        "cycles": ("cycles", ","),
        "macs": ("multiply-accumulates", ","),
        "utilization": ("array utilization", ".1%"),
        "bytes_read": ("bytes read", ","),
        "bytes_written": ("bytes written", ","),
        "bit_exact": ("bit-exact with the reference", ""),
        "elements_compared": ("elements compared", ","),
    }
    facts = [(text, format(counters[name], form)) for name, (text, form) in shown.items() if counters.get(name) is not None]
    rows = [
        (
            name.removeprefix("base_model.model."),
            own["kind"],
            f"{own['cycles']:,}",
            f"{own['macs']:,}",
            f"{own['macs'] / (own['cycles'] * peak):.1%}" if own["cycles"] and peak else "",
            f"{own['bytes_read'] + own['bytes_written']:,}",
        )
        for name, own in layers.items()
    ]
    columns = ("layer", "kind", "cycles", "MACs", "utilization", "bytes moved")
    return [_table(("", ""), facts), *([_table(columns, rows, scroll=True)] if rows else [])]
