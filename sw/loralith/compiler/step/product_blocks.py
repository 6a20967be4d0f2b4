"""Blocks of a product: lanes, columns and terms that a tile takes, as they cost the fewest cycles."""

from __future__ import annotations

from collections.abc import Iterator

from loralith.compiler.step.chains import Instruction, Prepared
from loralith.compiler.step.emitter import Emitter
from loralith.compiler.step.operands import Operands
from loralith.compiler.step.views import View
from loralith.errors import LoralithError
from loralith.spec.commands import COMMAND_BYTES, LoadTarget
from loralith.spec.config import Config

__all__ = ["COMMAND", "INSTRUCTION", "Blocks"]

TILE = 60
"""Cycles that a tile costs beside its words, about: checks, latencies and set-ups that others only partly hide."""
INSTRUCTION = 60
"""Cycles of an instruction's outer iteration beside its words, about."""
COMMAND = 12
"""Cycles of the vector unit from an instruction to the next one of a command, about."""
HANDED_ON = 90
"""Cycles from the array's last step of a block to the vector unit's first one, and from its last one to the array's next block."""
COMMANDS = 5
"""Commands of a tile, about, beside the LOADs of the epilogue's operands."""
LATENCY = 105
"""Cycles of a memory's answer, in which no more bursts begin than may be in flight: rows of few words take longer than their words."""
KEPT = 3 / 4
"""Of a scratchpad, what operands may take that later tiles are to find there."""


def lane_counts(n: int, config: Config) -> Iterator[int]:
    """How many of ``n`` lanes a block may have: whole rows of the array, and whole bus words but for the last."""
    least = max(config.rows, config.bus_bytes)
    for lanes in range(least, max(least, -(-n // least) * least) + 1, least):
        yield min(lanes, -(-n // config.rows) * config.rows)


class Blocks:
    """A product's block: ``lanes`` in ``row_blocks``, ``columns``, and ``k_rows`` of the scratchpads, which its terms take at a time.
    ``group``: lanes that are gone through for all columns before others are."""

    e: Emitter
    result: View
    operands: Operands
    chain: list[Instruction]
    prepared: Prepared
    registers: tuple[int, ...]
    left_transposed: bool
    right_transposed: bool
    n: int
    k: int
    m: int

    def _choose(self) -> None:
        c = self.e.config
        found = []
        for lanes in lane_counts(self.n, c):
            block = self._block_of(lanes)
            if block is not None:
                found.append((self._cost(lanes, *block), lanes, *block))
        if not found:
            raise LoralithError(f"{self.result.buffer.name}: no block of the product fits the configuration {c.name}")
        _, self.lanes, self.columns, self.k_rows = min(found)
        self.group = self.lanes * self._group_of(self.lanes, self.k_rows)
        self.row_blocks = self.lanes // c.rows

    def _cost(self, lanes: int, columns: int, k_rows: int) -> float:
        """Cycles of the unit that takes most, about."""
        c = self.e.config
        lanes, columns = min(lanes, self.n), min(columns, self.m)
        across, along = -(-self.n // lanes), -(-self.m // columns)
        left = self._load_cycles(lanes, self.k, self.left_transposed)
        right = self._load_cycles(columns, self.k, self.right_transposed)
        group = self._group_of(lanes, k_rows)
        if group > 1:
            left, right = left / along, right / min(group, across)
        load = left + right + self._operand_cycles(lanes, columns)
        load += (COMMANDS + len(self.operands.views)) * COMMAND_BYTES // c.bus_bytes
        store = self._stored_words(lanes, columns)
        array = -(-lanes // c.rows) * -(-columns // c.cols) * max(self.k, c.cols)
        vector = self._visit_cycles(-(-lanes // c.vector_lanes), columns)
        buffers = c.out_depth // (-(-lanes // c.rows) * -(-4 * columns // c.banks))
        cycles = max(load, store, array, vector, (array + vector + HANDED_ON) / buffers)
        return across * along * (cycles + TILE)

    def _group_of(self, lanes: int, k_rows: int) -> int:
        """How many tiles' lanes the left scratchpad keeps, of which each finds its operand there for all columns; 1: none are kept."""
        c = self.e.config
        if k_rows * c.banks < self.k:
            return 1
        return max(1, int(c.left_depth * KEPT) // (-(-lanes // c.rows) * -(-self.k // c.banks)))

    def _load_cycles(self, lanes: int, terms: int, transposed: bool) -> float:
        """Cycles of a LOAD of an operand with a row for each lane, or for each term."""
        return self._rows_cycles(lanes, terms) if transposed else self._rows_cycles(terms, lanes)

    def _rows_cycles(self, rows: int, row_bytes: int) -> float:
        c = self.e.config
        return rows * max(-(-row_bytes // c.bus_bytes), LATENCY / c.outstanding_reads if rows > 1 else 1)

    def _operand_cycles(self, lanes: int, columns: int) -> float:
        """Cycles of the LOADs of the epilogue's operands in a tile."""
        found = 0.0
        for view in self.operands.views:
            found += self._rows_cycles(columns if view.strides[-2] else 1, (lanes if view.strides[-1] else 1) * view.size)
        return found

    def _stored_words(self, lanes: int, columns: int) -> int:
        """Bus words that a tile's results take."""
        return columns * -(-lanes * self.result.size // self.e.config.bus_bytes)

    def _visit_cycles(self, width: int, columns: int) -> int:
        """Cycles of the vector unit for a tile of ``width`` words along the lanes, about."""
        count = len(self.chain) + len(self.prepared)
        if self.registers:
            return width * (count * (columns + COMMAND // 2) + COMMAND * len(self.registers)) + INSTRUCTION
        return count * (width * columns + COMMAND * min(width, columns)) + INSTRUCTION * (1 + len(self.prepared))

    def _block_of(self, lanes: int) -> tuple[int, int] | None:
        """(columns, rows of the scratchpads that K takes) of a block that fits."""
        e, c = self.e, self.e.config
        row_blocks = lanes // c.rows
        width = -(-lanes // c.vector_lanes)
        room = e.capacity(LoadTarget.V0) // width - sum(len(views) for _, views in self.prepared.values()) - len(self.registers[1:])
        columns = min(self.m, room, c.out_depth // 2 // row_blocks * c.banks // 4)
        step = max(c.cols, c.bus_bytes)
        if columns < self.m:
            columns = columns // step * step
        while columns > 0:
            blocks = -(-columns // c.cols)
            fits = blocks * -(-min(self.k, c.banks) // c.banks) <= c.right_depth // 2
            fits = fits and self.operands.words(columns, width) <= e.capacity(LoadTarget.V1)
            k_rows = min(-(-self.k // c.banks), c.right_depth // 2 // blocks, c.left_depth // 2 // row_blocks)
            split = k_rows * c.banks < self.k
            if fits and k_rows > 0 and not (split and columns * row_blocks > c.acc_depth):
                return columns, k_rows
            columns = columns // 2 // step * step if columns > step else 0
        return None
