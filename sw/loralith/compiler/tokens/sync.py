"""Tokens: what must wait for what, found from what the commands touch.

For each command, in list order, the latest earlier command of every other stage that touches the same rows (or DRAM bytes) in a conflicting
way is looked up. Where the tokens so far do not already imply that it has ended, it gives a token and the new command takes one. Because
every need is later than the one before it on the same pair of queues, one semaphore per pair is enough, and takes match gives in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.tokens.footprint import MEMORIES, Footprint, ProgramMemory, Use, footprint, memory_rows
from loralith.compiler.tokens.stages import NOTHING, SIGNAL_FIELD, Clock, Stage, join, last_stage
from loralith.spec.commands import SEMAPHORE_MAX, SEMAPHORES, Command, Opcode
from loralith.spec.config import Config

__all__ = ["synchronize"]

STAGES = len(Stage)


class _DramUses:
    """Which DRAM bytes the commands of one stage have touched so far."""

    def __init__(self) -> None:
        self._first = np.zeros(64, np.uint64)
        self._past = np.zeros(64, np.uint64)
        self._matrices: list[Footprint] = []

    def add(self, matrix: Footprint) -> None:
        """That of the stage's next command."""
        n = len(self._matrices)
        if n == len(self._first):
            self._first, self._past = np.concatenate([self._first] * 2), np.concatenate([self._past] * 2)
        self._first[n], self._past[n] = matrix.address, matrix.past
        self._matrices.append(matrix)

    def latest(self, matrix: Footprint, known: int) -> int:
        """Ordinal of the latest use that overlaps; ``known`` if none does of those that came after that one.

        It looks back from the latest use in steps that double, so that it takes time for the uses that nothing waits for yet.
        """
        address, past = np.uint64(matrix.address), np.uint64(matrix.past)
        end, step = len(self._matrices), 64
        while end > known:
            start = max(known, end - step)
            near = np.flatnonzero((self._first[start:end] < past) & (self._past[start:end] > address))
            for i in near[::-1].tolist():
                if self._matrices[start + i].overlaps(matrix):
                    return start + i + 1
            end, step = start, 2 * step
        return known


class _Uses:
    """The latest command, counted within its stage, that wrote each row of each on-chip memory, and that used it in any way."""

    def __init__(self, config: Config) -> None:
        depths = {name: memory_rows(name, config) for name in MEMORIES}
        self.written = {name: np.zeros((depth, STAGES), np.int64) for name, depth in depths.items()}
        self.used = {name: np.zeros((depth, STAGES), np.int64) for name, depth in depths.items()}
        self.dram = {Stage.LOAD: _DramUses(), Stage.STORE: _DramUses()}

    def conflicts(self, use: Use) -> list[int]:
        """Per stage, the latest command whose use of the same rows must have ended before `use`; 0 for none."""
        rows = (self.used if use.write else self.written)[use.memory]
        latest = [0] * STAGES
        for start, stop in use.ranges:
            found = rows[start] if stop == start + 1 else rows[start:stop].max(axis=0)
            latest = list(map(max, latest, found.tolist()))
        latest[use.stage] = 0  # in order by itself
        if use.stage is Stage.DONE:
            latest[Stage.READ] = 0  # results follow the operands of their own and of every earlier command
        return latest

    def add(self, use: Use, ordinal: int) -> None:
        for start, stop in use.ranges:
            self.used[use.memory][start:stop, use.stage] = ordinal
            if use.write:
                self.written[use.memory][start:stop, use.stage] = ordinal


@dataclass
class _Channel:
    """One semaphore: the (give, take) list indices of its tokens so far."""

    semaphore: int
    pairs: list[tuple[int, int]] = field(default_factory=list)


class _Synchronizer:
    def __init__(self, commands: CommandList, config: Config, programs: Mapping[int, bytes]) -> None:
        self.commands, self.config = commands, config
        self.program = ProgramMemory(programs)
        self.fields = [dict(c.fields) for c in commands]
        self.index_of: list[list[int]] = [[] for _ in Stage]  # list index of each stage's commands
        self.ended: list[list[Clock]] = [[] for _ in Stage]  # what the end of each implies
        self.known: dict[Opcode, Clock] = dict.fromkeys(Opcode, NOTHING)
        self.uses = _Uses(config)
        self.channels: dict[tuple[Stage, Opcode, str], _Channel] = {}

    def run(self) -> CommandList:
        for index, command in enumerate(self.commands):
            self.command(index, command)
        done = (c if len(f) == len(c.fields) else Command.make(c.opcode, **f) for c, f in zip(self.commands, self.fields, strict=True))
        return CommandList(tuple(done), self.commands.notes)

    def command(self, index: int, command: Command) -> None:
        opcode = command.opcode
        uses, matrix = footprint(command, self.config, self.program)
        self.program.follow(command)
        at_start = [u for u in uses if not u.second]
        self.wait(index, opcode, "wait", self.needs(at_start, opcode, matrix))
        if len(at_start) < len(uses):
            self.wait(index, opcode, "segment_wait", self.needs([u for u in uses if u.second], opcode, None))
        self.end(index, opcode, uses, matrix)

    def needs(self, uses: list[Use], opcode: Opcode, matrix: Footprint | None) -> list[int]:
        need = [0] * STAGES
        for use in uses:
            need = list(map(max, need, self.uses.conflicts(use)))
        if matrix is not None:
            other = Stage.STORE if opcode is Opcode.LOAD else Stage.LOAD
            need[other] = max(need[other], self.uses.dram[other].latest(matrix, self.known[opcode][other]))
        return need

    def wait(self, index: int, opcode: Opcode, where: str, need: list[int]) -> None:
        # Late stages first: what they imply often makes the earlier ones' tokens needless.
        for stage in reversed(Stage):
            ordinal = need[stage]
            if ordinal > self.known[opcode][stage]:
                self.token(stage, ordinal, index, opcode, where)
                self.known[opcode] = join(self.known[opcode], self.ended[stage][ordinal - 1])

    def token(self, stage: Stage, ordinal: int, taker: int, opcode: Opcode, where: str) -> None:
        channel = self.channels.setdefault((stage, opcode, where), _Channel(len(self.channels)))
        giver = self.index_of[stage][ordinal - 1]
        bit, signal_field = 1 << channel.semaphore, SIGNAL_FIELD[stage]
        held = sum([take > giver for _, take in channel.pairs[-SEMAPHORE_MAX:]])
        if held == SEMAPHORE_MAX:
            # Full: the latest take, which this command follows in its queue, waits for the new giver instead of its own.
            old, taker = channel.pairs.pop()
            self.fields[old][signal_field] ^= bit
        else:
            self.fields[taker][where] = self.fields[taker].get(where, 0) | bit
        self.fields[giver][signal_field] = self.fields[giver].get(signal_field, 0) | bit
        channel.pairs.append((giver, taker))

    def end(self, index: int, opcode: Opcode, uses: list[Use], matrix: Footprint | None) -> None:
        clock = self.known[opcode]
        stages = (Stage.READ, Stage.DONE) if opcode is Opcode.COMPUTE else (last_stage(self.commands[index]),)
        for stage in stages:
            self.index_of[stage].append(index)
            own = len(self.index_of[stage])
            clock = (*clock[:stage], max(clock[stage], own), *clock[stage + 1 :])
            self.ended[stage].append(clock)
            for use in uses:
                if use.stage is stage:
                    self.uses.add(use, own)
        if matrix is not None:
            self.uses.dram[stages[0]].add(matrix)


def synchronize(commands: CommandList, config: Config, programs: Mapping[int, bytes] | None = None) -> CommandList:
    """The list with tokens, so that running the queues at any speed gives what running the commands one by one does.

    `commands` have no tokens yet, and must be legal otherwise (`rules.check_command`). Semaphores are numbered from 0, one for each pair of
    stages that wait for each other: at most 16. ``programs``: bytes of DRAM by address, from which the list loads instructions.
    The result is legal by `checker.check`.
    """
    done = _Synchronizer(commands, config, programs or {})
    result = done.run()
    assert len(done.channels) <= SEMAPHORES
    return result
