"""The on-chip memories as numpy arrays, and blocks of lanes in them ("On-chip memories" in docs/machine.md)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from loralith.spec.config import Config
from loralith.spec.vector.program import INSTRUCTION, INSTRUCTION_BYTES, LANE_REGISTERS, PROGRAM_INSTRUCTIONS, SCALARS

__all__ = ["Memories", "Plane", "VectorMemories"]


class Plane:
    """The left, right or out memory: element (lane a, seq s) in row base + (a // lanes) * stride + s // banks.

    A row's banks hold consecutive seq positions, so `cells` int8 [depth * banks, lanes] has seq s of a block at base * banks + s.
    """

    def __init__(self, depth: int, banks: int, lanes: int) -> None:
        self.banks, self.lanes = banks, lanes
        self.cells = np.zeros((depth * banks, lanes), np.int8)

    def block(self, base: int, stride: int, index: int, seq: int) -> np.ndarray:
        """View int8 [seq, lanes] of lane block `index`."""
        start = (base + index * stride) * self.banks
        return self.cells[start : start + seq]

    def matrix(self, base: int, stride: int, lanes: int, seq: int) -> np.ndarray:
        """Copy int8 [lanes, seq] of the first `lanes` lane indices."""
        blocks = -(-lanes // self.lanes)
        out = np.empty((blocks, self.lanes, seq), np.int8)
        for i in range(blocks):
            out[i] = self.block(base, stride, i, seq).T
        return out.reshape(blocks * self.lanes, seq)[:lanes]

    def pieces(self, base: int, stride: int, lanes: int, seq: int) -> Iterator[tuple[np.ndarray, slice]]:
        """For each block: its view int8 [seq, n] of the n lanes in use, and which lane indices those are."""
        for i in range(-(-lanes // self.lanes)):
            first = i * self.lanes
            n = min(self.lanes, lanes - first)
            yield self.block(base, stride, i, seq)[:, :n], slice(first, first + n)


class VectorMemories:
    """V0 and V1 as uint32 [depth, L], words; program as its fields; scalars, lane registers, key. Zero as after configuration."""

    def __init__(self, config: Config) -> None:
        self.lanes = config.vector_lanes
        self.scratchpads = [np.zeros((depth, self.lanes), np.uint32) for depth in (config.v0_words, config.v1_words)]
        self.program = [INSTRUCTION.unpack(bytes(INSTRUCTION_BYTES)) for _ in range(PROGRAM_INSTRUCTIONS)]
        self.scalars = np.zeros(SCALARS, np.uint32)
        self.registers = np.zeros((LANE_REGISTERS, self.lanes), np.uint32)
        self.key = [0, 0]

    def copy_into(self, other: VectorMemories) -> None:
        """What a VECTOR may change."""
        mine, theirs = ((*one.scratchpads, one.scalars, one.registers) for one in (self, other))
        for source, target in zip(mine, theirs, strict=True):
            target[...] = source


class Memories:
    """All on-chip memories of a configuration, zero as after reset."""

    def __init__(self, config: Config) -> None:
        self.left = Plane(config.left_depth, config.banks, config.rows)
        self.right = Plane(config.right_depth, config.banks, config.cols)
        self.out = Plane(config.out_depth, config.banks, config.rows)
        self.acc = np.zeros((config.acc_depth, config.rows), np.int32)
        self.scale = np.zeros((config.scale_depth, config.rows), np.uint32)
        self.stat_max = np.zeros(config.stat_slots, np.uint64)
        self.stat_saturations = np.zeros(config.stat_slots, np.uint32)
        self.vector = VectorMemories(config) if config.vector_lanes else None
