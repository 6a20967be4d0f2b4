"""The losses of a run as a drawing in SVG, for a page without other files."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["loss_chart"]

WIDTH, HEIGHT = 720, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 10, 10, 46
EACH, MEAN, HELD_OUT = "#d6d9dd", "#168c60", "#c2410c"


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About ``count`` round numbers from one at or below ``low`` to one at or above ``high``."""
    rough = (high - low) / count or abs(high) or 1.0
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def loss_chart(losses: Sequence[float], held: Sequence[tuple[int, float]]) -> str:
    """Each step's loss, its moving mean, and the held-out losses (step, loss). The axis spans the values, and does not begin at zero where
    these do not."""
    values = [*losses, *(loss for _, loss in held)]
    levels = ticks(min(values), max(values))
    low, high, last = levels[0], levels[-1], max(len(losses), 1)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    def y(loss: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (loss - low) / (high - low)

    def line(points: Sequence[tuple[float, float]], style: str) -> str:
        return f'<polyline fill="none" {style} points="{" ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)}"/>'

    def text(at_x: float, at_y: float, anchor: str, content: str, more: str = "") -> str:
        return f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}" font-size="11" {more}>{content}</text>'

    window = max(1, len(losses) // 20)
    means = [sum(losses[max(0, i - window + 1) : i + 1]) / min(window, i + 1) for i in range(len(losses))]
    digits = max(0, -math.floor(math.log10(levels[1] - levels[0])))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="loss by step">',
        *(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(level):.1f}" y2="{y(level):.1f}" stroke="#eef0f2"/>' for level in levels),
        line(list(enumerate(losses, 1)), f'stroke="{EACH}"') if window > 1 else "",
        line(list(enumerate(means, 1)), f'stroke="{MEAN}" stroke-width="2"'),
        line(held, f'stroke="{HELD_OUT}" stroke-dasharray="4 3"') if held else "",
        *(
            f'<circle cx="{x(step):.1f}" cy="{y(loss):.1f}" r="3.5" fill="{HELD_OUT}"><title>step {step}: {loss:.5f}</title></circle>'
            for step, loss in held
        ),
        *(text(LEFT - 6, y(level) + 4, "end", f"{level:.{digits}f}") for level in levels),
        *(text(x(step), HEIGHT - BOTTOM + 16, "middle", str(step)) for step in sorted({0, last // 2, last})),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "middle", "step"),
        text(14, middle, "middle", "loss (mean squared error)", f'transform="rotate(-90 14 {middle:.1f})"'),
        "</svg>",
    ]
    moving = f"mean of the last {window} steps" if window > 1 else "each step"
    legend = [
        '<p class="soft">',
        "Grey: each step. " if window > 1 else "",
        f'<span style="color:{MEAN}">Green</span>: {moving}. ',
        f'<span style="color:{HELD_OUT}">Orange</span>: held-out loss, in FP32.' if held else "",
        "</p>" if low <= 0 else f" The axis begins at {low:.{digits}f}.</p>",
    ]
    return "".join([*parts, *legend])
