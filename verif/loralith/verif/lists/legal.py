"""Whether a finished list is legal and free of races: docs/machine.md, Tokens, read from descriptors and footprints alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from loralith.spec.commands import SEMAPHORE_MAX, Opcode
from loralith.spec.config import Config
from loralith.verif.lists.case import BASE, Case
from loralith.verif.lists.drawn_places import Fields
from loralith.verif.lists.drawn_tokens import needed_order, queue_order
from loralith.verif.lists.oracle_footprint import Event, footprint
from loralith.verif.lists.vector_footprint import Programs

__all__ = ["fault", "loosen", "starve", "starved"]

GIVES = ((Event.READ, "read_signal"), (Event.DONE, "signal"))
TAKES = ((Event.START, "wait"), (Event.SEGMENT, "segment_wait"))


def fault(commands: Sequence[Fields], config: Config, base: int = BASE, programs: Mapping[int, bytes] | None = None) -> str:
    """Why the list is not legal or has a race; empty where it is and has none. ``programs``: as of `drawn_tokens.TokenPlacer`."""
    program = Programs({} if programs is None else programs)
    given: dict[int, list[tuple[int, Event]]] = defaultdict(list)
    kinds: dict[int, tuple[Opcode, Event]] = {}
    takers: dict[int, Opcode] = {}
    taken: dict[int, int] = defaultdict(int)
    latest: dict[Opcode, int] = {}
    before: list[list[int]] = []
    prints = []
    for j, command in enumerate(commands):
        unit = Opcode(command["opcode"])
        own = queue_order(before[latest[unit]] if unit in latest else None, j, unit)
        tokens = [0] * 4
        for event, name in TAKES:
            for s in _semaphores(command.get(name, 0)):
                if takers.setdefault(s, unit) is not unit:
                    return f"command {j} takes semaphore {s}, which another queue takes"
                if taken[s] == len(given[s]):
                    return f"command {j} waits for semaphore {s}, which holds no token"
                i, source = given[s][taken[s]]
                taken[s] += 1
                tokens[event] |= before[i][source]
        events, so_far = [], 0
        for event in Event:
            so_far |= own[event] | tokens[event]
            events.append(so_far)
        touched = footprint(command, config, base, program.codes(command))
        for i, earlier in enumerate(prints):
            for source, event in needed_order(earlier, touched):
                if not events[event] >> (4 * i + source) & 1:
                    return f"command {j} may run ahead of what command {i} still does"
        for event, name in GIVES:
            for s in _semaphores(command.get(name, 0)):
                if kinds.setdefault(s, (unit, event)) != (unit, event):
                    return f"command {j} gives semaphore {s}, which another kind of signal gives"
                given[s].append((j, event))
                if len(given[s]) - taken[s] > SEMAPHORE_MAX:
                    return f"command {j} gives semaphore {s} more than {SEMAPHORE_MAX} tokens"
        before.append(events)
        program.follow(command)
        prints.append(touched)
        latest[unit] = j
    return ""


def starved(commands: Sequence[Fields]) -> bool:
    """Whether some semaphore is taken more often than it is given: then the list cannot end, in whatever order."""
    balance: dict[int, int] = defaultdict(int)
    for command in commands:
        for sign, names in ((1, GIVES), (-1, TAKES)):
            for _, name in names:
                for s in _semaphores(command.get(name, 0)):
                    balance[s] += sign
    return min(balance.values(), default=0) < 0


def loosen(case: Case, rng: np.random.Generator) -> Case:
    """The first list of a case without one of its gives or takes, or with it in another command: often not legal, or with a race."""
    commands = [dict(c) for c in case.lists[0]]
    names = [name for _, name in (*GIVES, *TAKES)]
    places = [(i, name, s) for i, c in enumerate(commands) for name in names for s in _semaphores(c.get(name, 0))]
    if places:
        i, name, s = places[int(rng.integers(len(places)))]
        commands[i][name] ^= 1 << s
        if rng.random() < 0.5:  # the same token, elsewhere
            others = [j for j, c in enumerate(commands) if name in c and not c[name] >> s & 1 and (name != "segment_wait" or c["chained"])]
            if others:
                commands[int(rng.choice(others))][name] |= 1 << s
    return replace(case, lists=(tuple(commands),))


def starve(case: Case, rng: np.random.Generator) -> Case:
    """The first list of a case without one of its gives, where it has one: commands then wait for later ones, and the last for ever."""
    commands = [dict(c) for c in case.lists[0]]
    gives = [(i, name, s) for i, c in enumerate(commands) for _, name in GIVES for s in _semaphores(c.get(name, 0))]
    if gives:
        i, name, s = gives[int(rng.integers(len(gives)))]
        commands[i][name] ^= 1 << s
    return replace(case, lists=(tuple(commands),))


def _semaphores(mask: int) -> list[int]:
    return [s for s in range(16) if mask >> s & 1]
