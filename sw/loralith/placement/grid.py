"""Where a part has tiles of LUTs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Grid"]


@dataclass(frozen=True)
class Grid:
    """Columns and rows of the tiles that hold LUTs, as nextpnr numbers them."""

    columns: range
    rows: list[int]
