"""How many AXI bursts and beats a transfer takes."""

from __future__ import annotations

import numpy as np

from loralith.spec.config import Config

__all__ = ["AXI_LINE", "beats", "bursts"]

AXI_LINE = 4096
"""No burst crosses a multiple of this many bytes."""


def beats(row_bytes: int, rows: int, config: Config) -> int:
    """Bus words of `rows` rows that each start at a bus word."""
    return rows * -(-row_bytes // config.bus_bytes)


def bursts(address: int, row_bytes: int, rows: int, row_stride: int, config: Config) -> int:
    """Bursts of a strided transfer: each row by itself, cut at every 4 KB line and into at most max_burst beats from its start or line."""
    W = config.bus_bytes
    start = address + np.arange(rows) * row_stride
    end = start + -(-row_bytes // W) * W
    longest = config.max_burst * W
    first_line = -(-(start + 1) // AXI_LINE) * AXI_LINE
    head = np.minimum(end, first_line) - start
    rest = np.maximum(end - first_line, 0)
    per_line = -(-AXI_LINE // longest)
    return int(np.sum(-(-head // longest) + rest // AXI_LINE * per_line + -(-(rest % AXI_LINE) // longest)))
