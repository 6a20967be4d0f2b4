"""What a step's commands wait for: inside a tile by what they touch on chip, between tiles by bytes of DRAM."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from loralith.compiler.lists.command_list import Fields
from loralith.compiler.step.memory import ALIGN
from loralith.compiler.step.tiles import Draft, Tile
from loralith.compiler.tokens.footprint import Footprint, ProgramMemory, Use, footprint
from loralith.compiler.vector_timing import command_cycles
from loralith.spec.commands import Command, Opcode
from loralith.spec.config import Config
from loralith.spec.vector.program import INSTRUCTION

__all__ = ["PLACED", "Codes", "Flow", "flow_of", "uses_of"]

PLACED = ("v0", "v1", "left", "right", "out", "acc")
"""Memories on chip in which a tile has a place of its own. Scalars and programs have theirs by what they hold."""
_UNSEEN = ("program", "key")


def _covers(new: Footprint, old: Footprint) -> bool:
    """Whether every byte of ``old`` is written anew."""
    if new == old:
        return True
    whole = new.rows == 1 or new.stride == new.row_bytes
    return whole and new.address <= old.address and old.past <= new.past


class Codes(ProgramMemory):
    """Gives the instructions of the program that it was told last."""

    def __init__(self) -> None:
        super().__init__({})
        self._known: dict[bytes, dict[str, int]] = {}
        self._current: list[dict[str, int]] = []

    def of(self, program: Iterable[bytes]) -> list[dict[str, int]]:
        self._current = [self._known.get(code) or self._known.setdefault(code, INSTRUCTION.unpack(code)) for code in program]
        return self._current

    def codes(self, first: int, count: int) -> list[dict[str, int]] | None:
        return self._current


@dataclass
class Flow:
    """Commands by number, in the order of their tiles.

    Attributes:
        tile: of each. drafts: the commands themselves. cycles: of each one's unit.
        waits: how many others must have ended before each begins; after: those that wait for each.
        memories: of `PLACED`, those that each touches; extents: by tile, the rows or words that it takes of each.
        writers: of a LOAD, who wrote what it reads: numbers of commands, and negative ones for the host.
    """

    tile: list[int] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    cycles: list[int] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)
    after: list[list[int]] = field(default_factory=list)
    memories: list[tuple[str, ...]] = field(default_factory=list)
    extents: list[dict[str, int]] = field(default_factory=list)
    writers: dict[int, set[int]] = field(default_factory=dict)

    def add(self, draft: Draft, tile: int, cycles: int, memories: tuple[str, ...] = ()) -> int:
        """A command's number."""
        self.tile.append(tile)
        self.drafts.append(draft)
        self.cycles.append(cycles)
        self.waits.append(0)
        self.after.append([])
        self.memories.append(memories)
        return len(self.tile) - 1

    def wait(self, number: int, others: Iterable[int]) -> None:
        """``number`` begins after ``others``."""
        for other in others:
            self.after[other].append(number)
            self.waits[number] += 1


class _Dram:
    """The latest writer of each piece of DRAM, those before it of which it left bytes alone, and who has read what each wrote."""

    def __init__(self, base: int, nbytes: int) -> None:
        self.base = base
        pieces = -(-nbytes // ALIGN) + 1
        self.writer = np.full(pieces, -1)
        self.seen = np.zeros(pieces, np.bool_)  # that were read while nobody but the host had written them
        self.early, self.count = np.zeros((3, 64), np.int64), 0  # who read them: number, first piece, past the last one
        self.readers: dict[int, list[int]] = {}
        self.matrices: dict[int, Footprint] = {}
        self.under: dict[int, set[int]] = {}
        self.tensor = np.zeros(pieces, np.int64)
        self.tensors: dict[int, int] = {}

    def take(self, number: int, address: int, nbytes: int) -> None:
        """Tensor ``number`` has these bytes from now on: what was written before is no part of it."""
        start = (address - self.base) // ALIGN
        self.tensor[start : start - (-nbytes // ALIGN)] = number

    def _span(self, matrix: Footprint) -> tuple[int, int]:
        return (matrix.address - self.base) // ALIGN, -(-(matrix.past - self.base) // ALIGN)

    def _writers(self, matrix: Footprint) -> set[int]:
        """All that may have written a byte of ``matrix``."""
        start, stop = self._span(matrix)
        latest = {int(self.writer[start])} if stop == start + 1 else set(self.writer[start:stop].tolist())
        return latest.union(*(self.under[writer] for writer in latest if writer in self.under))

    def read(self, number: int, matrix: Footprint) -> set[int]:
        found = self._writers(matrix)
        for writer in found:
            if writer >= 0:
                self.readers.setdefault(writer, []).append(number)
        if -1 in found:
            start, stop = self._span(matrix)
            self.seen[start:stop] = True
            if self.count == self.early.shape[1]:
                self.early = np.concatenate([self.early] * 2, axis=1)
            self.early[:, self.count] = number, start, stop
            self.count += 1
        return found

    def write(self, number: int, draft: Draft, matrix: Footprint) -> set[int]:
        start, stop = self._span(matrix)
        writers = self._writers(matrix)
        early = -1 in writers and self.seen[start:stop].any()
        readers: set[int] = set()
        if early:
            numbers, first, past = self.early[:, : self.count]
            readers.update(numbers[(first < stop) & (past > start)].tolist())
        self.writer[start:stop] = number
        self.matrices[number] = matrix
        if draft.tensor < 0:
            draft.tensor = int(self.tensor[start])
        self.tensors[number] = draft.tensor
        left = {w for w in writers if w >= 0 and self.tensors[w] == draft.tensor and not _covers(matrix, self.matrices[w])}
        if left:
            self.under[number] = left
        return readers.union(writers, *(self.readers.get(writer, ()) for writer in writers))


def uses_of(draft: Draft, config: Config, codes: Codes) -> tuple[list[Use], Footprint | None, int]:
    """What a command touches on chip and in DRAM, and the cycles of its unit."""
    if draft.touched is None:
        command = Command(draft.opcode, tuple(draft.fields.items()))
        program = codes.of(draft.program or ())
        uses, matrix = footprint(command, config, codes)
        uses = [use for use in uses if use.memory not in _UNSEEN]
        draft.touched = uses, matrix, command_cycles(Fields(command), program, config)
    return draft.touched


def flow_of(tiles: Sequence[Tile], config: Config, base: int, nbytes: int) -> Flow:
    """``tiles`` in an order in which they may run; DRAM from ``base`` on, ``nbytes``."""
    flow, dram, codes = Flow(), _Dram(base, nbytes), Codes()
    tensor = 0
    for at, tile in enumerate(tiles):
        for address, size in tile.takes:
            tensor += 1
            dram.take(tensor, address, size)
        seen: dict[str, list[tuple[int, Use]]] = {}
        extents: dict[str, int] = {}
        first, inside, found_inside = len(flow.tile), tile.inside, []
        for draft in tile.drafts:
            uses, matrix, cycles = uses_of(draft, config, codes)
            memories = tuple({use.memory for use in uses if use.memory in PLACED})
            number = flow.add(draft, at, cycles, memories)
            others = {first + place for place in inside[number - first]} if inside else _on_chip(number, uses, seen)
            found_inside.append({other - first for other in others})
            for use in uses:
                if use.memory in PLACED:
                    extents[use.memory] = max(extents.get(use.memory, 0), max(stop for _, stop in use.ranges))
            if matrix is not None:
                if draft.opcode is Opcode.STORE:
                    found = dram.write(number, draft, matrix)
                else:
                    found = flow.writers[number] = dram.read(number, matrix)
                others |= {other for other in found if 0 <= other != number}
            flow.wait(number, others)
        flow.extents.append(extents)
        tile.inside = found_inside
    return flow


def _on_chip(number: int, uses: Sequence[Use], seen: dict[str, list[tuple[int, Use]]]) -> set[int]:
    """Earlier commands of the tile that touch the same rows, one of the two to write them."""
    found = set()
    for use in uses:
        earlier = seen.setdefault(use.memory, [])
        for other, own in earlier:
            if (own.write or use.write) and other != number and _meet(own.ranges, use.ranges):
                found.add(other)
        earlier.append((number, use))
    return found


def _meet(these: Sequence[tuple[int, int]], those: Sequence[tuple[int, int]]) -> bool:
    return any(a < d and c < b for a, b in these for c, d in those)
