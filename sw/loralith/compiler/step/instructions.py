"""Instructions of the vector unit, and their text: `copy = x:V0[0] -> V1[1]`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from loralith.spec.vector.program import INSTRUCTION, INSTRUCTION_BYTES, Format, Function, Operand, Reduce, Source, Target

__all__ = ["Program", "disassemble", "instruction", "text"]

Program = tuple[bytes, ...]
"""Instructions, each 8 bytes."""

_CHOICES: dict[str, type[IntEnum]] = {
    "x_source": Source,
    "y_source": Source,
    "function": Function,
    "a": Operand,
    "b": Operand,
    "c": Operand,
    "d": Operand,
    "target": Target,
    "format": Format,
    "reduce": Reduce,
}


def instruction(**fields: int) -> bytes:
    """An instruction; fields left out are zero. Raises FieldError for an unknown field or a value that it cannot hold."""
    return INSTRUCTION.pack({name: int(value) for name, value in fields.items()})


def text(code: bytes) -> str:
    """One line: the fields that are not zero, choices by name."""
    shown: list[str] = []
    for name, value in INSTRUCTION.unpack(code).items():
        if value:
            choice: Any = _CHOICES.get(name)
            shown.append(f"{name}={choice(value).name if choice and value in set(choice) else value}")
    return " ".join(shown) or "nothing"


def disassemble(program: Sequence[bytes] | bytes) -> list[str]:
    """A line for each instruction."""
    if isinstance(program, bytes):
        program = [program[i : i + INSTRUCTION_BYTES] for i in range(0, len(program), INSTRUCTION_BYTES)]
    return [text(code) for code in program]
