"""On-chip memory of a step: rows of scratchpads and buffers, which tiles allocate and free, and caches of operands, scalars and programs,
which tiles share."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from loralith.compiler.step.instructions import Program
from loralith.spec.vector.program import PROGRAM_INSTRUCTIONS, SCALARS

__all__ = ["OperandCache", "ProgramCache", "RowAllocator", "ScalarCache"]


class RowAllocator:
    """Next-fit allocator of one memory's rows: the search starts behind the latest allocation, so that freed rows are reused late."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._used: list[tuple[int, int]] = []
        self._next = 0

    def fits(self, size: int) -> bool:
        """Whether there are ``size`` free rows one after the other."""
        end = 0
        for start, past in self._used:
            if start - end >= size:
                return True
            end = past
        return self.depth - end >= size

    def allocate(self, size: int) -> int:
        """The first of ``size`` free rows, which must exist (`fits`)."""
        ends = [0, *(end for _, end in self._used)]
        gaps = [(a, b) for a, b in zip(ends, [*(start for start, _ in self._used), self.depth], strict=True) if b - a >= size]
        after = [max(a, self._next) for a, b in gaps if b - max(a, self._next) >= size]
        start = after[0] if after else gaps[0][0]
        self._used = sorted([*self._used, (start, start + size)])
        self._next = start + size
        return start

    def free(self, start: int, size: int) -> None:
        self._used.remove((start, start + size))


class OperandCache(RowAllocator):
    """Rows of an operand scratchpad. What a LOAD has brought stays there until its rows are allocated anew, and later tiles share it."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth)
        self._held: dict[Hashable, tuple[int, int, int]] = {}  # by what it is: first row, past the last one, its LOAD
        self._users: dict[int, int] = {}  # by first row

    def lookup(self, what: Hashable) -> tuple[int, int] | None:
        """(first row, the LOAD that brought it) of ``what``; None while no rows hold it."""
        found = self._held.get(what)
        return None if found is None else (found[0], found[2])

    def share(self, what: Hashable) -> None:
        """One more tile reads ``what``, which is there (`lookup`)."""
        start, past, _ = self._held[what]
        self._users[start] = self._users.get(start, 0) + 1
        if self._users[start] == 1:
            self._used = sorted([*self._used, (start, past)])

    def hold(self, what: Hashable, start: int, size: int, load: int) -> None:
        """Rows that have just been allocated get ``what`` by LOAD number ``load``."""
        self._held[what] = start, start + size, load

    def allocate(self, size: int) -> int:
        start = super().allocate(size)
        self._held = {what: one for what, one in self._held.items() if one[1] <= start or start + size <= one[0]}
        self._users[start] = 1
        return start

    def free(self, start: int, size: int) -> None:
        self._users[start] -= 1
        if not self._users[start]:
            del self._users[start]
            super().free(start, size)


SET = 4
"""Scalars of a set. Sets are allocated as a whole, so that programs that differ in nothing else have theirs at the same numbers."""
Word = tuple[int, int]
"""What a scalar holds: the address that it was loaded from, and who had written that."""


@dataclass
class _ScalarSet:
    users: int = 0
    last_use: int = 0
    words: dict[int, tuple[Word, int]] = field(default_factory=dict)


class ScalarCache:
    """Cache of the scalar memory, replaced by sets, the least recently used first: each set's words, the LOADs that filled them, and how
    many tiles use it."""

    def __init__(self) -> None:
        self._sets = [_ScalarSet() for _ in range(SCALARS // SET)]
        self._clock = 0

    def acquire(self, count: int, words: Mapping[int, Word], fresh: bool) -> int | None:
        """The first of ``count`` scalars, those numbered in ``words`` to be loaded, or None while none are free. ``fresh``: the tile writes
        some of them, so that it shares none."""
        sets = -(-count // SET)
        best: tuple[int, int, int] | None = None
        for first in range(len(self._sets) - sets + 1):
            run = self._sets[first : first + sets]
            held = sum(self._at(first, number)[0] == word for number, word in words.items())
            free = all(not one.users for one in run)
            if not free and (fresh or held < len(words)):
                continue
            rank = (len(words) - held if not fresh else 0, max(one.last_use for one in run), first)
            if best is None or rank < best:
                best = rank
        if best is None:
            return None
        first = best[2]
        self._clock += 1
        for one in self._sets[first : first + sets]:
            one.users, one.last_use = one.users + 1, self._clock
        return first * SET

    def _at(self, first: int, number: int) -> tuple[Word | None, int]:
        return self._sets[first + number // SET].words.get(number % SET, (None, -1))

    def lookup(self, base: int, number: int, word: Word) -> int | None:
        """On a hit, the LOAD that filled scalar ``base`` + ``number`` with ``word``; None on a miss."""
        found, load = self._at(base // SET, number)
        return load if found == word else None

    def fill(self, base: int, number: int, word: Word | None, load: int) -> None:
        """A scalar gets ``word`` by LOAD number ``load``, or a result (None), which no other tile may share."""
        words = self._sets[base // SET + number // SET].words
        if word is None:
            words.pop(number % SET, None)
        else:
            words[number % SET] = word, load

    def release(self, base: int, count: int) -> None:
        for one in self._sets[base // SET : base // SET - (-count // SET)]:
            one.users -= 1


@dataclass
class _Resident:
    first: int
    program: Program
    load: int
    users: int = 0

    @property
    def past(self) -> int:
        return self.first + len(self.program)


class ProgramCache:
    """Cache of the program memory: programs, the LOADs that filled them, and how many tiles use each."""

    def __init__(self) -> None:
        self._held: dict[Program, _Resident] = {}
        self._next = 0

    def acquire(self, programs: Sequence[Program], load: int) -> list[Program] | None:
        """The misses among ``programs``, each once, to be loaded by LOADs from number ``load`` on, or None while there is no space."""
        missing: list[Program] = []
        held, at = dict(self._held), self._next
        for program in programs:
            if program in held:
                continue
            found = self._space(len(program), at, [one for one in held.values() if one.users or one.program in programs])
            if found is None:
                return None
            own = _Resident(found, program, load + len(missing))
            held = {p: one for p, one in held.items() if one.past <= own.first or own.past <= one.first}
            held[program] = own
            missing.append(program)
            at = own.past
        self._held, self._next = held, at
        for program in programs:
            held[program].users += 1
        return missing

    @staticmethod
    def _space(size: int, at: int, pinned: Sequence[_Resident]) -> int | None:
        """The first instruction of ``size`` that no one of ``pinned`` has, from ``at`` on and then from the beginning."""
        for start in sorted({at, 0, *(one.past for one in pinned)}, key=lambda s: (s < at, s)):
            past = start + size
            if past <= PROGRAM_INSTRUCTIONS and all(past <= one.first or one.past <= start for one in pinned):
                return start
        return None

    def locate(self, program: Program) -> tuple[int, int]:
        """(first instruction, LOAD that filled it)."""
        one = self._held[program]
        return one.first, one.load

    def release(self, programs: Sequence[Program]) -> None:
        for program in programs:
            self._held[program].users -= 1
