"""Random choices that all kinds of commands share."""

from __future__ import annotations

import numpy as np

from loralith.spec.config import Config
from loralith.verif.lists.drawn_places import Fields, Region, depth_of
from loralith.verif.lists.oracle import Oracle

__all__ = ["Draw"]

MEMORIES = ("left", "right", "out", "acc", "scale")


class Draw:
    """Draws for one list. Regions lie within a short stretch of each memory, and often where an earlier one was.

    Attributes:
        oracle: the machine before the command that is drawn.
        last_compute: the COMPUTE drawn last.
        close: how many of the next commands should be short COMPUTEs: fetched while a long one runs, they follow it without a gap.
        used: base and stride of earlier regions.
        stretch: first row of each memory's stretch, and its rows.
    """

    def __init__(self, config: Config, rng: np.random.Generator, oracle: Oracle) -> None:
        self.config, self.rng, self.oracle = config, rng, oracle
        self.stretch: dict[str, tuple[int, int]] = {}
        memories = (*MEMORIES, "v0", "v1") if config.vector_lanes else MEMORIES
        for memory in memories:
            depth = depth_of(memory, config)
            size = min(depth, int(rng.integers(4, 40)) * (4 if memory == "acc" else 1))
            start = int(rng.choice([0, depth - size, int(rng.integers(0, depth - size + 1))]))
            self.stretch[memory] = (start, size)
        self.close = 0
        self.last_compute: Fields | None = None
        self.used: dict[str, list[tuple[int, int]]] = {memory: [] for memory in memories}

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def upto(self, last: int, first: int = 1) -> int:
        """Uniform in first..last."""
        return int(self.rng.integers(first, max(first, last) + 1))

    def bits(self, width: int) -> int:
        return int(self.rng.integers(0, 1 << width, dtype=np.uint64))

    def region(self, memory: str, blocks: int, rows: int) -> tuple[int, int] | None:
        """Base and stride of a region whose blocks do not overlap; any stride where there is one block. None if it does not fit."""
        depth, rng = depth_of(memory, self.config), self.rng
        if self.used[memory] and self.chance(0.5):
            base, stride = self.used[memory][int(rng.integers(len(self.used[memory])))]
            if blocks == 1 or stride >= rows:
                if Region(memory, "", base, blocks, stride, rows).end <= depth:
                    return base, stride
        start, size = self.stretch[memory]
        stride = rows + (int(rng.integers(0, 4)) if self.chance(0.4) else 0)
        extent = (blocks - 1) * stride + rows
        if extent > size:
            start, size = 0, depth
        if extent > size:
            return None
        base = start + (size - extent if self.chance(0.1) else int(rng.integers(0, size - extent + 1)))
        if blocks == 1 and self.chance(0.3):
            stride = self.bits(16)
        self.used[memory] = [*self.used[memory][-5:], (base, stride)]
        return base, stride
