"""Where a step's list waits, by the cycle model: what each unit does in every cycle of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from loralith.compiler.cycles import Timeline
from loralith.compiler.step.estimate import UNITS
from loralith.compiler.step.tiles import Work
from loralith.spec.commands import Opcode

__all__ = ["UnitCycles", "waits"]


@dataclass
class UnitCycles:
    """Cycles of a unit. ``working``: at least one of its commands runs; ``tokens``: the next one stands ready but for tokens, which
    others give, by the kinds of ``works``; ``list``: the next one has not come or is being checked; ``end``: after its last one."""

    working: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    list: int = 0
    end: int = 0


def waits(timeline: Timeline, works: Sequence[Work]) -> dict[str, UnitCycles]:
    """For each unit what it does in ``timeline.cycles`` cycles, which its figures add up to; ``works``: what each command is part of."""
    found = {unit: UnitCycles() for unit in UNITS.values()}
    free = dict.fromkeys(Opcode, 0)
    for activity in sorted(timeline.activities, key=lambda a: (a.start, a.command)):
        idle, before = found[UNITS[activity.opcode]], free[activity.opcode]
        ready = min(max(activity.ready, before), max(activity.start, before))
        begin = max(activity.start, before)
        idle.list += ready - before
        kind = works[activity.command].value
        idle.tokens[kind] = idle.tokens.get(kind, 0) + begin - ready
        idle.working += max(activity.end - begin, 0)
        free[activity.opcode] = max(activity.end, before)
    for opcode, unit in UNITS.items():
        found[unit].end = timeline.cycles - free[opcode]
    return found
