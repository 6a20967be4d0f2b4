"""The five orders in which a list's work happens, which tokens and hazards are told by.

Each queue works through its commands in order, and so do the two stages of the compute queue: the array reads operands (READ), and the
post-processing unit, fed by it, writes results (DONE) while the array is already at later commands. A command's end in a stage implies the
end of that stage in every earlier command of its queue.
"""

from __future__ import annotations

from enum import IntEnum

from loralith.spec.commands import Command, Opcode

__all__ = ["NOTHING", "SIGNAL_FIELD", "Clock", "Stage", "join", "last_stage"]


class Stage(IntEnum):
    LOAD = 0
    READ = 1
    DONE = 2
    STORE = 3
    VECTOR = 4


SIGNAL_FIELD = {Stage.LOAD: "signal", Stage.READ: "read_signal", Stage.DONE: "signal", Stage.STORE: "signal", Stage.VECTOR: "signal"}
"""The field by which a command announces the end of a stage."""

Clock = tuple[int, ...]
"""How many commands are known to have ended each stage, counted within the stage's queue."""

NOTHING: Clock = (0,) * len(Stage)
"""Of a list that has not begun."""


def join(a: Clock, b: Clock) -> Clock:
    """What is known from two sources together."""
    return tuple(map(max, a, b))


_LAST_STAGE = {Opcode.LOAD: Stage.LOAD, Opcode.COMPUTE: Stage.DONE, Opcode.STORE: Stage.STORE, Opcode.VECTOR: Stage.VECTOR}


def last_stage(command: Command) -> Stage:
    """The stage whose end completes the command."""
    return _LAST_STAGE[command.opcode]
