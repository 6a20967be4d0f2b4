"""The proof that a list is legal and free of races, from its descriptors alone.

- Every command is legal by itself (`rules`).
- Tokens: in list order every wait is met and no semaphore passes 15; each semaphore is given by one kind of signal and taken by one queue.
  Then no queue depth deadlocks (docs/machine.md, Tokens).
- Races: two commands that touch the same row of an on-chip memory or the same byte of DRAM, at least one of them writing, are ordered by
  tokens or by their queue's own order. The n-th take of a semaphore follows its n-th give; clocks carry what each give knows.

`sync` inserts tokens by another route (`footprint`, the latest conflicting use); this module reads commands anew, element by element's
address, so that a slip in one shows against the other.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping

import numpy as np

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.rules import problems
from loralith.compiler.proof.touches import Access, Bytes, accesses, dram_bytes, rows_of, vector_accesses
from loralith.compiler.tokens.stages import NOTHING, Clock, Stage, join, last_stage
from loralith.errors import LoralithError
from loralith.spec.commands import SEMAPHORE_MAX, SEMAPHORES, Command, LoadTarget, Opcode
from loralith.spec.config import Config
from loralith.spec.vector.program import INSTRUCTION_BYTES, PROGRAM_INSTRUCTIONS

__all__ = ["IllegalList", "check"]


class IllegalList(LoralithError):
    """A list that the machine may refuse, hang on, or give another result for. `index` is the command's."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"command {index}: {reason}")
        self.index, self.reason = index, reason


def check(
    commands: CommandList, config: Config, window: tuple[int, int] = (0, 1 << 64), programs: Mapping[int, bytes] | None = None
) -> None:
    """Prove the list legal and free of races. `window` is (first DRAM byte, first past it); `programs`, bytes of DRAM by address from which
    instructions are loaded: a VECTOR whose instructions are not known counts as one that touches all that it could.

    Raises IllegalList for the first command, in list order, that breaks a rule, leaves a wait unmet, overfills a semaphore, mixes two
    kinds of givers or two takers on one semaphore, or races with an earlier command.
    """
    tokens, races = _Tokens(), _Races(config, programs or {})
    for index, command in enumerate(commands):
        for reason in problems(command, config, window):
            raise IllegalList(index, reason)
        at_start = tokens.take(index, command, "wait")
        at_second = tokens.take(index, command, "segment_wait") if command.opcode is Opcode.COMPUTE else at_start
        races.look(index, command, at_start, at_second)
        tokens.give(index, command)


def _semaphores(mask: int) -> Iterator[int]:
    return (i for i in range(SEMAPHORES) if mask >> i & 1)


class _Tokens:
    """Counts and clocks of the semaphores, in list order."""

    def __init__(self) -> None:
        self.held: list[deque[Clock]] = [deque() for _ in range(SEMAPHORES)]
        self.giver: dict[int, Stage] = {}
        self.taker: dict[int, Opcode] = {}
        self.known: dict[Opcode, Clock] = dict.fromkeys(Opcode, NOTHING)
        self.ended = [0] * len(Stage)

    def take(self, index: int, command: Command, where: str) -> Clock:
        """What is known to have ended once the command's waits in field `where` are met."""
        opcode = command.opcode
        for s in _semaphores(command[where]):
            if self.taker.setdefault(s, opcode) is not opcode:
                raise IllegalList(index, f"semaphore {s} is taken by {self.taker[s].name} and by {opcode.name} commands")
            if not self.held[s]:
                raise IllegalList(index, f"{where}s for semaphore {s}, which no earlier command has left a token in")
            self.known[opcode] = join(self.known[opcode], self.held[s].popleft())
        return self.known[opcode]

    def give(self, index: int, command: Command) -> None:
        clock = self.known[command.opcode]
        if command.opcode is Opcode.COMPUTE:
            clock = self._end(index, Stage.READ, command["read_signal"], clock)
        self._end(index, last_stage(command), command["signal"], clock)

    def _end(self, index: int, stage: Stage, mask: int, clock: Clock) -> Clock:
        self.ended[stage] += 1
        clock = join(clock, tuple(self.ended[stage] if s is stage else 0 for s in Stage))  # type: ignore[arg-type]
        for s in _semaphores(mask):
            if self.giver.setdefault(s, stage) is not stage:
                raise IllegalList(index, f"semaphore {s} is given by {self.giver[s].name} and by {stage.name} signals")
            if len(self.held[s]) == SEMAPHORE_MAX:
                raise IllegalList(index, f"gives semaphore {s} more than {SEMAPHORE_MAX} tokens")
            self.held[s].append(clock)
        return clock


class _Races:
    """The latest access of each stage to every row, and every access to DRAM."""

    def __init__(self, config: Config, programs: Mapping[int, bytes]) -> None:
        self.config, self.programs = config, programs
        self.codes: list[bytes | None] = [None] * PROGRAM_INSTRUCTIONS
        self.rows: dict[tuple[str, bool, Stage], np.ndarray] = {}
        self.dram: dict[Stage, _Areas] = defaultdict(_Areas)
        self.index_of: dict[Stage, list[int]] = {stage: [] for stage in Stage}

    def look(self, index: int, command: Command, at_start: Clock, at_second: Clock) -> None:
        """Raises IllegalList where an access of the command is not ordered after an earlier one that conflicts."""
        every = vector_accesses(command, self.config, self.codes) if command.opcode is Opcode.VECTOR else accesses(command, self.config)
        found = [access for access in every if access.rows.size]  # a region of a VECTOR may lie outside of a memory that it does not use
        if command.opcode is Opcode.LOAD and command["target"] == LoadTarget.PROGRAM:
            self._loads_program(command)
        for access in found:
            self._against_earlier(index, access, at_second if access.second else at_start)
        self._within(index, found)
        stages = (Stage.READ, Stage.DONE) if command.opcode is Opcode.COMPUTE else (last_stage(command),)
        for stage in stages:
            self.index_of[stage].append(index)
        for access in found:
            self._last(access.memory, access.write, access.stage)[access.rows] = len(self.index_of[access.stage])
        if command.opcode in (Opcode.LOAD, Opcode.STORE):
            self._dram(index, command, stages[0], at_start)

    def _loads_program(self, command: Command) -> None:
        data = self.programs.get(command["address"], b"")[: command["row_bytes"]]
        for i in range(command["row_bytes"] // INSTRUCTION_BYTES):
            code = data[i * INSTRUCTION_BYTES :][:INSTRUCTION_BYTES]
            self.codes[command["base"] + i] = code if len(code) == INSTRUCTION_BYTES else None

    def _last(self, memory: str, write: bool, stage: Stage) -> np.ndarray:
        return self.rows.setdefault((memory, write, stage), np.zeros(rows_of(memory, self.config), np.int32))

    def _against_earlier(self, index: int, access: Access, known: Clock) -> None:
        for stage in Stage:
            if stage is access.stage or (stage is Stage.READ and access.stage is Stage.DONE):
                continue  # ordered by the queue itself: results follow operands
            for write in (True, False) if access.write else (True,):
                last = self.rows.get((access.memory, write, stage))
                if last is None:
                    continue
                latest = int(last[access.rows].max())
                if latest > known[stage]:
                    self._race(index, access, stage, latest, write)

    def _race(self, index: int, access: Access, stage: Stage, ordinal: int, write: bool) -> None:
        verb, other = ("writes", "writes" if write else "reads") if access.write else ("reads", "writes")
        raise IllegalList(
            index,
            f"{verb} rows {access.rows.min()}..{access.rows.max()} of {access.memory}, part of which command "
            f"{self.index_of[stage][ordinal - 1]} {other} in its {stage.name} stage; no token orders them",
        )

    @staticmethod
    def _within(index: int, found: list[Access]) -> None:
        """A command's own results must not fall on its operands, nor blocks of one result on each other."""
        for access in found:
            if access.stage is Stage.VECTOR:
                continue  # what its instructions see of each other, the program decides
            if access.write and len(np.unique(access.rows)) < len(access.rows):
                raise IllegalList(index, f"blocks of lanes overlap in {access.memory}: their stride is too small")
            if access.write and access.stage is Stage.DONE:
                for other in found:
                    if other.stage is Stage.READ and other.memory == access.memory and np.isin(access.rows, other.rows).any():
                        raise IllegalList(index, f"writes rows of {access.memory} that it also reads as operand")

    def _dram(self, index: int, command: Command, stage: Stage, known: Clock) -> None:
        area = dram_bytes(command)
        other = Stage.STORE if stage is Stage.LOAD else Stage.LOAD
        earlier = self.dram[other].latest(area, known[other])
        if earlier is not None:
            other_index = self.index_of[other][earlier]
            raise IllegalList(index, f"touches DRAM at {area.first:#x} that command {other_index} touches too; no token orders them")
        self.dram[stage].add(area)


class _Areas:
    """The DRAM bytes of each command of a stage, in order; by blocks, so that a look back compares the ends of all of them at once."""

    BLOCK = 512

    def __init__(self) -> None:
        self.blocks: list[np.ndarray] = []
        self.areas: list[Bytes] = []

    def add(self, area: Bytes) -> None:
        place = len(self.areas) % self.BLOCK
        if place == 0:
            self.blocks.append(np.zeros((self.BLOCK, 2), np.uint64))
        self.blocks[-1][place] = area.first, area.end
        self.areas.append(area)

    def latest(self, area: Bytes, count: int) -> int | None:
        """The latest, from 0, of all but the first ``count`` that shares a byte with ``area``."""
        ends = np.array([area.first, area.end], np.uint64)
        for number in range(len(self.blocks) - 1, count // self.BLOCK - 1, -1):
            block = self.blocks[number]
            for place in reversed(np.flatnonzero((ends[0] < block[:, 1]) & (block[:, 0] < ends[1])).tolist()):
                found = number * self.BLOCK + place
                if count <= found and area.meets(self.areas[found]):
                    return found
        return None
