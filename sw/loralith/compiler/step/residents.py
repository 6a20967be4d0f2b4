"""Where a tile's data lies on chip: places in the scratchpads and buffers, and what the scalar and program memories hold from tile to
tile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loralith.compiler.step.instructions import Program
from loralith.spec.vector.program import PROGRAM_INSTRUCTIONS, SCALARS

__all__ = ["Places", "Programs", "ScalarSets"]


class Places:
    """Stretches of one memory. The search goes on after the last one, so that what was in use is left alone for as long as it can be."""

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

    def take(self, size: int) -> int:
        """The first row of ``size`` free ones, for which there must be room."""
        ends = [0, *(end for _, end in self._used)]
        gaps = [(a, b) for a, b in zip(ends, [*(start for start, _ in self._used), self.depth], strict=True) if b - a >= size]
        after = [max(a, self._next) for a, b in gaps if b - max(a, self._next) >= size]
        start = after[0] if after else gaps[0][0]
        self._used = sorted([*self._used, (start, start + size)])
        self._next = start + size
        return start

    def give(self, start: int, size: int) -> None:
        self._used.remove((start, start + size))


SET = 4
"""Scalars are given out in sets of so many, so that programs that differ in nothing else find theirs at the same numbers."""
Word = tuple[int, int]
"""What a scalar holds: the address that it was loaded from, and who had written that."""


@dataclass
class _ScalarSet:
    users: int = 0
    last_use: int = 0
    words: dict[int, tuple[Word, int]] = field(default_factory=dict)


class ScalarSets:
    """The scalar memory: each set's words, the LOADs that brought them, and how many tiles use it."""

    def __init__(self) -> None:
        self._sets = [_ScalarSet() for _ in range(SCALARS // SET)]
        self._clock = 0

    def take(self, count: int, words: Mapping[int, Word], fresh: bool) -> int | None:
        """The first of ``count`` scalars, of which those with number ``words`` are to be loaded, or None while there is no room. ``fresh``:
        the tile writes some of them."""
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

    def holds(self, base: int, number: int, word: Word) -> int | None:
        """The LOAD that brought ``word`` to scalar ``base`` + ``number``, if it is there."""
        found, load = self._at(base // SET, number)
        return load if found == word else None

    def bring(self, base: int, number: int, word: Word | None, load: int) -> None:
        """A LOAD, or None for a result, comes to a scalar."""
        words = self._sets[base // SET + number // SET].words
        if word is None:
            words.pop(number % SET, None)
        else:
            words[number % SET] = word, load

    def give(self, base: int, count: int) -> None:
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


class Programs:
    """The program memory: programs, the LOADs that brought them, and how many tiles use each."""

    def __init__(self) -> None:
        self._held: dict[Program, _Resident] = {}
        self._next = 0

    def take(self, programs: Sequence[Program], load: int) -> list[Program] | None:
        """Those of ``programs``, each once, that must be loaded, by LOADs from number ``load`` on, or None while there is no room."""
        missing: list[Program] = []
        held, at = dict(self._held), self._next
        for program in programs:
            if program in held:
                continue
            found = self._room(len(program), at, [one for one in held.values() if one.users or one.program in programs])
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
    def _room(size: int, at: int, pinned: Sequence[_Resident]) -> int | None:
        """The first instruction of ``size`` that no one of ``pinned`` has, from ``at`` on and then from the beginning."""
        for start in sorted({at, 0, *(one.past for one in pinned)}, key=lambda s: (s < at, s)):
            past = start + size
            if past <= PROGRAM_INSTRUCTIONS and all(past <= one.first or one.past <= start for one in pinned):
                return start
        return None

    def place(self, program: Program) -> tuple[int, int]:
        """(first instruction, LOAD that brought it)."""
        one = self._held[program]
        return one.first, one.load

    def give(self, programs: Sequence[Program]) -> None:
        for program in programs:
            self._held[program].users -= 1
