"""Tables as lines of text that fit a terminal: no word, and so no number, is ever broken."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

__all__ = ["table_lines"]

GAP = "  "
PROSE = 4
"""Words from which a cell is a sentence, that may go on in the next line."""
NARROWEST = 24
"""Characters below which no column of sentences is pressed."""


def table_lines(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """The lines of a table; every row is as long as ``columns``.

    Where it is wider than ``width`` characters (None: any width will do) headings and sentences go on in a next line; where that does
    not help, the columns follow each other in several tables, each with the first column in front. Only a single word may stick out.
    """
    cells = [list(row) for row in rows]
    whole = [max([len(heading), *(len(row[i]) for row in cells)]) for i, heading in enumerate(columns)]
    if width is None or _total(whole) <= width:
        return [title, *_block(columns, cells, whole)]
    widths = [max([_word(heading), *(len(row[i]) for row in cells)]) for i, heading in enumerate(columns)]
    for i in sorted(range(len(columns)), key=lambda i: -widths[i]):
        if _total(widths) > width and widths[i] > NARROWEST and any(_is_prose(row[i]) for row in cells):
            beside_first = width - widths[0] - len(GAP) if i else width
            least = max([_word(columns[i]), *(_word(row[i]) for row in cells), min(NARROWEST, beside_first)])
            widths[i] = max(least, widths[i] - (_total(widths) - width))
    if max((_word(row[-1]) for row in cells), default=0) > NARROWEST:  # a path in the last column, which nothing stands behind
        widths[-1] = max(NARROWEST, width - _total(widths[:-1]) - len(GAP))
    lines = [title]
    for group in _groups(widths, width):
        if len(lines) > 1:
            lines.append("")
        lines += _block([columns[i] for i in group], [[row[i] for i in group] for row in cells], [widths[i] for i in group])
    return lines


def _is_prose(cell: str) -> bool:
    return sum(any(letter.isalpha() for letter in word) for word in cell.split()) >= PROSE


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _word(text: str) -> int:
    """Length of the longest word."""
    return max(map(len, text.split()), default=0)


def _groups(widths: Sequence[int], width: int) -> list[list[int]]:
    """The columns of each table: the first, and as many of the others as fit beside it."""
    groups: list[list[int]] = []
    for i in range(1, len(widths)):
        if not groups or _total([widths[j] for j in [*groups[-1], i]]) > width:
            groups.append([0])
        groups[-1].append(i)
    return groups or [[0]]


def _block(columns: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    lines = [*_row(columns, widths), "-" * _total(widths)] if any(columns) else ["-" * _total(widths)]
    for row in rows:
        lines += _row(row, widths)
    return lines


def _row(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    parts = [
        textwrap.wrap(cell, max(width, 1), break_long_words=False, break_on_hyphens=False) if len(cell) > width else [cell]
        for cell, width in zip(cells, widths, strict=True)
    ]
    height = max(map(len, parts))
    padded = [[*part, *[""] * (height - len(part))] for part in parts]
    return [GAP.join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in zip(*padded, strict=True)]
