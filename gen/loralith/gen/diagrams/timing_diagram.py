"""Timing diagrams from recorded values: one column for each clock cycle, a row for each signal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .svg import FONT_SIZE, line, page, text, text_width

__all__ = ["Wave", "Waves", "draw"]

ROW, HIGH = 28, 18
"""Pixels from one row to the next, and from a low level to a high one."""


@dataclass(frozen=True)
class Wave:
    """A signal: a bit has the values 0 and 1, a bus has texts, and None where its value means nothing."""

    name: str
    values: Sequence[int | str | None]
    bus: bool = False


@dataclass(frozen=True)
class Waves:
    """title: what the picture shows. notes: lines below it. column: pixels of a cycle."""

    title: str
    waves: Sequence[Wave]
    notes: Sequence[str] = ()
    column: int = 44


def draw(picture: Waves) -> str:
    """The picture as SVG.

    Raises:
        ValueError: a signal has more or fewer cycles than the first one, or a value is too wide for its cycle.
    """
    cycles = len(picture.waves[0].values)
    margin = max(text_width(wave.name) for wave in picture.waves) + 16
    content = [text(margin + (i + 0.5) * picture.column, FONT_SIZE + 4, str(i), style='fill="#888"') for i in range(cycles)]
    bottom = ROW * (len(picture.waves) + 2)
    content += [
        line([(margin + i * picture.column, 20), (margin + i * picture.column, bottom - 6)], style='stroke-opacity="0.15"')
        for i in range(cycles + 1)
    ]
    rows = [Wave("clk", [1] * cycles), *picture.waves]
    for number, wave in enumerate(rows):
        low = 20 + ROW * number + HIGH + 6
        if len(wave.values) != cycles:
            raise ValueError(f"{wave.name} has {len(wave.values)} cycles, and {picture.waves[0].name} has {cycles}")
        content.append(text(margin - 8, low - 4, wave.name, anchor="end"))
        content += [_clock(margin, low, cycles, picture.column)] if number == 0 else _row(wave, margin, low, picture.column)
    content += [text(8, bottom + 10 + 16 * i, note, anchor="start") for i, note in enumerate(picture.notes)]
    height = bottom + 10 + 16 * len(picture.notes)
    width = max([margin + cycles * picture.column + 10, *(text_width(note) + 16 for note in picture.notes)])
    return page(round(width), height, picture.title, content)


def _clock(left: float, low: float, cycles: int, column: int) -> str:
    points = []
    for i in range(cycles):
        x = left + i * column
        points += [(x, low), (x, low - HIGH), (x + column / 2, low - HIGH), (x + column / 2, low)]
    return line([*points, (left + cycles * column, low)])


def _row(wave: Wave, left: float, low: float, column: int) -> list[str]:
    if not wave.bus:
        points = []
        for i, value in enumerate(wave.values):
            y = low - HIGH if value else low
            points += [(left + i * column, y), (left + (i + 1) * column, y)]
        return [line(points, style='stroke-width="1.5"')]
    content, start = [], 0
    for i in range(1, len(wave.values) + 1):
        if i < len(wave.values) and wave.values[i] == wave.values[start]:
            continue
        content += _span(wave, start, i, left, low, column)
        start = i
    return content


def _span(wave: Wave, start: int, end: int, left: float, low: float, column: int) -> list[str]:
    """A bus holds one value from cycle ``start`` until ``end``."""
    x0, x1, middle, value = left + start * column, left + end * column, low - HIGH / 2, wave.values[start]
    if value is None:
        return [line([(x0, middle), (x1, middle)], style='stroke-opacity="0.4" stroke-dasharray="2 3"')]
    if text_width(str(value)) > x1 - x0:
        raise ValueError(f"{wave.name}: {value!r} does not fit into {end - start} cycles of {column} pixels")
    corners = [(x0, middle), (x0 + 4, low - HIGH), (x1 - 4, low - HIGH), (x1, middle), (x1 - 4, low), (x0 + 4, low), (x0, middle)]
    return [line(corners), text((x0 + x1) / 2, low - 5, str(value))]
