"""Tokens that order all that conflicts in a list, and more at random: legal by docs/machine.md, section Tokens.

Commands come one by one, in list order. What an earlier command must have done before the new one goes on is found from their footprints;
where the tokens so far do not say it, a semaphore is chosen at random among those that may: of a semaphore the n-th token given is the n-th
taken, since units complete in list order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from loralith.spec.commands import SEMAPHORE_MAX, SEMAPHORES, Opcode
from loralith.spec.config import Config
from loralith.verif.lists.drawn_places import Fields
from loralith.verif.lists.oracle_footprint import Event, Footprint, footprint
from loralith.verif.lists.vector_footprint import Programs

__all__ = ["TokenPlacer", "needed_order", "place_tokens", "queue_order"]

GIVES = {Event.READ: "read_signal", Event.DONE: "signal"}
TAKES = {Event.START: "wait", Event.SEGMENT: "segment_wait"}


@dataclass
class _Semaphore:
    """Given by ``kind`` and taken by ``taker``, both None until first used; gives are (command), takes (command, event), in list order."""

    kind: tuple[Opcode, Event] | None = None
    taker: Opcode | None = None
    gives: list[int] = field(default_factory=list)
    takes: list[tuple[int, Event]] = field(default_factory=list)

    def forget_last(self) -> None:
        """Take back the latest give and take."""
        self.gives.pop()
        self.takes.pop()
        if not self.gives:
            self.kind = self.taker = None

    def most(self, first: int) -> int:
        """Most tokens that it holds at the end of command ``first`` or a later one, in list order."""
        ends = sorted({*self.gives, *(command for command, _ in self.takes)})
        return max((sum(g <= end for g in self.gives) - sum(t <= end for t, _ in self.takes) for end in ends if end >= first), default=0)


class TokenPlacer:
    """Attributes: `commands`, with their tokens; they are changed in place as later commands need tokens of them.

    Parameters: ``semaphores``, how many may be used; ``spare``, probability that a command takes a token which nothing needs; ``programs``,
    bytes of DRAM that instructions are loaded from, by address.
    """

    def __init__(
        self,
        config: Config,
        base: int,
        rng: np.random.Generator,
        semaphores: int = SEMAPHORES,
        spare: float = 0.1,
        programs: Mapping[int, bytes] | None = None,
    ) -> None:
        self._programs = Programs({} if programs is None else programs)
        self.config, self.base, self.rng, self.spare = config, base, rng, spare
        self.commands: list[Fields] = []
        self._prints: list[Footprint] = []
        self._before: list[list[int]] = []  # per command and event: the events that surely came before, bit 4 * command + event
        self._latest: dict[Opcode, int] = {}
        self._names = [int(s) for s in rng.permutation(SEMAPHORES)[:semaphores]]
        self._lag = int(rng.choice([1, 10, 30]))  # commands between the two ends of a token that nothing needs
        self._semaphores = {name: _Semaphore() for name in self._names}

    def add(self, command: Fields) -> bool:
        """Append the command, ordered after all that it conflicts with; False, and nothing changes, where no semaphore is left for that."""
        j, unit = len(self.commands), Opcode(command["opcode"])
        touched = footprint(command, self.config, self.base, self._programs.codes(command))
        added: list[tuple[int, int, Event, Event]] = []  # semaphore, giver, its event, the taker's event
        before = queue_order(self._before[self._latest[unit]] if unit in self._latest else None, j, unit)
        needs = [(i, source, event) for i, it in enumerate(self._prints) for source, event in needed_order(it, touched)]
        for at in self.rng.permutation(len(needs)):
            i, source, event = needs[at]
            if not command.get("chained") and event is Event.SEGMENT:
                event = Event.START
            if before[event] >> (4 * i + source) & 1:
                continue
            if not self._order(i, source, j, event, unit, added, before):
                for name, *_ in reversed(added):
                    self._semaphores[name].forget_last()
                return False
        while self.commands and self.rng.random() < self.spare:
            i = int(self.rng.integers(max(0, j - self._lag - 3), max(1, j - self._lag + 1)))
            giver = Opcode(self.commands[i]["opcode"])
            source = Event.READ if giver is Opcode.COMPUTE and self.rng.random() < 0.5 else Event.DONE
            event = Event.SEGMENT if command.get("chained") and self.rng.random() < 0.5 else Event.START
            self._order(i, source, j, event, unit, added, before)
        self.commands.append({**command, **{name: 0 for name in (*GIVES.values(), *TAKES.values()) if name in command}})
        for semaphore, i, source, event in added:
            self.commands[i][GIVES[source]] |= 1 << semaphore
            self.commands[j][TAKES[event]] |= 1 << semaphore
        self._programs.follow(command)
        self._prints.append(touched)
        self._before.append(before)
        self._latest[unit] = j
        return True

    def _order(
        self, i: int, source: Event, j: int, event: Event, unit: Opcode, added: list[tuple[int, int, Event, Event]], before: list[int]
    ) -> bool:
        """Have command j take a token before ``event`` that is given at ``source`` of command i, or at what follows that surely."""
        giver = Opcode(self.commands[i]["opcode"])
        later = [g for g in range(i, j) if self.commands[g]["opcode"] == giver]
        if self.rng.random() < 0.7:
            choices = [(g, source) for g in later]
        else:
            choices = [(g, s) for g in later for s in {source, Event.DONE}]
            choices = [choices[at] for at in self.rng.permutation(len(choices))]
        events = [event] if event is Event.START else [event, Event.START]
        for e in events:
            for g, s in choices:
                for name in self._names_in_turn():
                    if self._pair(name, g, s, j, e, unit):
                        added.append((name, g, s, e))
                        for follower in range(e, 4):
                            before[follower] |= self._before[g][s]
                        return True
        return False

    def _names_in_turn(self) -> list[int]:
        """The semaphores in random order, half the time those in use first: they fill up."""
        names = [int(name) for name in self.rng.permutation(self._names)]
        return sorted(names, key=lambda name: self._semaphores[name].kind is None) if self.rng.random() < 0.5 else names

    def _pair(self, name: int, g: int, source: Event, j: int, event: Event, unit: Opcode) -> bool:
        it, kind = self._semaphores[name], (Opcode(self.commands[g]["opcode"]), source)
        if it.kind not in (None, kind) or it.taker not in (None, unit):
            return False
        if (it.gives and it.gives[-1] >= g) or (it.takes and it.takes[-1] >= (j, event)):
            return False
        it.gives.append(g)
        it.takes.append((j, event))
        it.kind, it.taker = kind, unit
        if it.most(g) > SEMAPHORE_MAX:
            it.forget_last()
            return False
        return True


def queue_order(latest: list[int] | None, j: int, unit: Opcode) -> list[int]:
    """What comes before each event of command j by the order of its queue alone, the events themselves included, as sets of bits.

    ``latest``: the same of the command before it in that queue, None where there is none. A queue starts and completes in list order, and a
    COMPUTE takes its first step after the last one of the command before.
    """
    latest = latest or [0] * 4
    before, so_far = [], latest[Event.READ] if unit is Opcode.COMPUTE else 0
    for event in Event:
        so_far |= latest[event] | 1 << (4 * j + event)
        before.append(so_far)
    return before


def needed_order(earlier: Footprint, later: Footprint) -> set[tuple[Event, Event]]:
    """Which event of the earlier command must come before which one of the later command; what one queue keeps by itself is left out."""
    needs = set()
    same = earlier.unit is later.unit
    for memory, rows, _ in earlier.writes:
        for other, others, first, _ in later.reads:
            # Of what a COMPUTE still writes, the next one waits for all but its operands.
            if memory == other and rows & others and (not same or memory == "left"):
                needs.add((Event.DONE, first))
    if same:
        return needs
    for memory, rows, first in later.writes:
        for other, others, _, last in earlier.reads:
            if memory == other and rows & others:
                needs.add((last, first))
        for other, others, _ in earlier.writes:
            if memory == other and rows & others:
                needs.add((Event.DONE, first))
    return needs


def place_tokens(
    commands: list[Fields],
    config: Config,
    base: int,
    rng: np.random.Generator,
    spare: float = 0.1,
    programs: Mapping[int, bytes] | None = None,
) -> list[Fields] | None:
    """The commands with tokens drawn anew; None where the semaphores do not suffice."""
    placer = TokenPlacer(config, base, rng, spare=spare, programs=programs)
    for command in commands:
        if not placer.add(command):
            return None
    return placer.commands
