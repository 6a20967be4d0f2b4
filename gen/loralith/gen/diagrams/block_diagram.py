"""Block diagrams from a text: boxes on a grid, and arrows between them.

The text is TOML:

- `title`: what the picture shows.
- `[boxes]`: `name = {at = [column, row], size = [columns, rows], text = "one line|another"}`, in cells of the grid. `text` is the name
  where it is left out. `kind = "group"` is a frame with its text in the upper left corner, `kind = "memory"` a shaded box.
- `arrows`: lists `[from, to]` or `[from, to, label]`. A table of options may follow: `at`, the row or column of the line where it is not in
  the middle of what both boxes span; `both = true`, heads at both ends.

An arrow is a straight line between boxes that lie in the same rows or columns; else it leaves horizontally and arrives vertically.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .svg import FONT_SIZE, line, page, text, text_width

__all__ = ["draw"]

CELL = 20
"""Pixels of a cell of the grid."""

_FILL = {"block": "#eef4fb", "memory": "#fdf3dc", "group": "none"}


@dataclass(frozen=True)
class Box:
    """left, top, right, bottom: in pixels."""

    name: str
    left: float
    top: float
    right: float
    bottom: float
    lines: tuple[str, ...]
    kind: str


def draw(description: dict[str, Any]) -> str:
    """The picture as SVG.

    Raises:
        ValueError: names the box or arrow that cannot be drawn, and why.
    """
    boxes = {name: _box(name, entry) for name, entry in description["boxes"].items()}
    width, height = max(box.right for box in boxes.values()) + CELL / 2, max(box.bottom for box in boxes.values()) + CELL / 2
    arrows = [_arrow(boxes, entry) for entry in description["arrows"]]
    groups_first = sorted(boxes.values(), key=lambda box: box.kind != "group")
    return page(width, height, description["title"], [*map(_drawn, groups_first), *arrows])


def _box(name: str, entry: dict[str, Any]) -> Box:
    (column, row), (columns, rows) = entry["at"], entry["size"]
    kind = entry.get("kind", "block")
    if kind not in _FILL:
        raise ValueError(f"box {name}: the kind is one of {', '.join(_FILL)}, not {kind}")
    lines = tuple(entry.get("text", name).split("|"))
    for one in lines:
        if text_width(one) > columns * CELL or len(lines) * (FONT_SIZE + 2) > rows * CELL:
            raise ValueError(f"box {name}: {one!r} does not fit into {columns} x {rows} cells")
    left, top = column * CELL + CELL / 2, row * CELL + CELL / 2
    return Box(name, left, top, left + columns * CELL, top + rows * CELL, lines, kind)


def _drawn(box: Box) -> str:
    dash = ' stroke-dasharray="4 3"' if box.kind == "group" else ""
    shape = (
        f'<rect x="{box.left:g}" y="{box.top:g}" width="{box.right - box.left:g}" height="{box.bottom - box.top:g}" rx="3"'
        f' fill="{_FILL[box.kind]}" stroke="#557"{dash}/>'
    )
    if box.kind == "group":
        return shape + text(box.left + 6, box.top + FONT_SIZE + 2, box.lines[0], anchor="start", style='font-weight="bold"')
    first = (box.top + box.bottom) / 2 - (len(box.lines) - 1) * (FONT_SIZE + 2) / 2 + 4
    return shape + "".join(text((box.left + box.right) / 2, first + i * (FONT_SIZE + 2), one) for i, one in enumerate(box.lines))


def _arrow(boxes: dict[str, Box], entry: list[Any]) -> str:
    options = entry[-1] if isinstance(entry[-1], dict) else {}
    source, target, *label = [part for part in entry if isinstance(part, str)]
    for name in (source, target):
        if name not in boxes:
            raise ValueError(f"arrow {source} -> {target}: there is no box {name}; there are {', '.join(boxes)}")
    start, end = boxes[source], boxes[target]
    at = options["at"] * CELL + CELL / 2 if "at" in options else None
    both = ' marker-start="url(#arrow)"' if options.get("both") else ""
    horizontally = _shared(start.top, start.bottom, end.top, end.bottom, at)
    vertically = _shared(start.left, start.right, end.left, end.right, at)
    if horizontally is not None and vertically is not None:
        raise ValueError(f"arrow {source} -> {target}: the boxes overlap")
    if horizontally is not None:
        y = horizontally
        x0, x1 = (start.right, end.left) if start.right <= end.left else (start.left, end.right)
        drawn, place = [(x0, y), (x1, y)], ((x0 + x1) / 2, y - 4, "middle")
        room = abs(x1 - x0)
    elif vertically is not None:
        x = vertically
        y0, y1 = (start.bottom, end.top) if start.bottom <= end.top else (start.top, end.bottom)
        drawn, place = [(x, y0), (x, y1)], (x + 5, (y0 + y1) / 2 + 4, "start")
        room = float("inf")
    elif at is not None:
        raise ValueError(f"arrow {source} -> {target}: no straight line at {options['at']} joins the boxes")
    else:
        x, y = (end.left + end.right) / 2, (start.top + start.bottom) / 2
        x0, y1 = start.right if x > start.right else start.left, end.top if y < end.top else end.bottom
        drawn, place, room = [(x0, y), (x, y), (x, y1)], ((x0 + x) / 2, y - 4, "middle"), abs(x - x0)
    if label and text_width(label[0]) > room:
        raise ValueError(f"arrow {source} -> {target}: {label[0]!r} is wider than the {room:g} pixels of the arrow")
    words = text(place[0], place[1], label[0], anchor=place[2], style='font-size="11"') if label else ""
    return line(drawn, arrow=True, style=both.strip()) + words


def _shared(start0: float, end0: float, start1: float, end1: float, at: float | None) -> float | None:
    """Where a straight line joins two spans: ``at``, or the middle of what they share; None where it cannot."""
    low, high = max(start0, start1), min(end0, end1)
    if at is not None:
        return at if low <= at <= high else None
    return (low + high) / 2 if low < high else None
