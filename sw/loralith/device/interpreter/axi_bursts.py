"""How many AXI bursts and beats a transfer takes."""

from __future__ import annotations

import numpy as np

from loralith.spec.config import Config

__all__ = ["AXI_BOUNDARY", "beats", "bursts"]

AXI_BOUNDARY = 4096
"""No burst crosses a multiple of this many bytes."""


def beats(row_bytes: int, rows: int, config: Config) -> int:
    """Bus words of `rows` rows that each start at a bus word."""
    return rows * -(-row_bytes // config.bus_bytes)


def bursts(address: int, row_bytes: int, rows: int, row_stride: int, config: Config) -> int:
    """Bursts of a strided transfer: each row split at every 4 KiB boundary and into at most max_burst beats."""
    W = config.bus_bytes
    start = address % AXI_BOUNDARY + np.arange(rows) * row_stride  # an address may be over 2^63
    end = start + -(-row_bytes // W) * W
    longest = config.max_burst * W
    first_boundary = -(-(start + 1) // AXI_BOUNDARY) * AXI_BOUNDARY
    head = np.minimum(end, first_boundary) - start
    rest = np.maximum(end - first_boundary, 0)
    per_page = -(-AXI_BOUNDARY // longest)
    return int(np.sum(-(-head // longest) + rest // AXI_BOUNDARY * per_page + -(-(rest % AXI_BOUNDARY) // longest)))
