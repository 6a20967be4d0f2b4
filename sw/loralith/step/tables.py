"""Inputs that a step picks from tables in device memory: the host says which entry, by the addresses of the LOADs that read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loralith.compiler.step.compile import CompiledStep
from loralith.errors import LoralithError
from loralith.spec.commands import COMMAND_BYTES, COMMANDS, Command, Opcode

from .submission import SLOT

__all__ = ["ADDRESS_BYTES", "Table", "loads_of", "table_of"]

ADDRESS_BYTES = 8
_ADDRESS = COMMANDS[Opcode.LOAD].fields["address"]


@dataclass(frozen=True)
class Table:
    """``entries`` tensors of ``pitch`` bytes from ``base`` on."""

    base: int
    pitch: int
    entries: int

    def address(self, name: str, entry: int) -> int:
        """Of an entry. Raises LoralithError for one that is not there."""
        if not 0 <= entry < self.entries:
            raise LoralithError(f"{name} must be an entry 0 to {self.entries - 1} of its table, not {entry}")
        return self.base + entry * self.pitch


def table_of(compiled: CompiledStep, name: str, values: np.ndarray) -> tuple[int, int]:
    """(bytes of an entry with what fills it up to a multiple of SLOT, entries) of a table's values [entries, ...].

    Raises LoralithError for a name that is no input, and for values of another shape.
    """
    if name not in compiled.inputs:
        raise LoralithError(f"{name} has a table and is no input of the step; inputs are {', '.join(compiled.inputs)}")
    view = compiled.inputs[name]
    if values.ndim != len(view.shape) + 1 or tuple(values.shape[1:]) != view.shape or not len(values):
        raise LoralithError(f"the table of {name} must be [entries, {', '.join(map(str, view.shape))}], not {list(values.shape)}")
    return -(-view.buffer.nbytes // SLOT) * SLOT, len(values)


def loads_of(compiled: CompiledStep, commands: Sequence[Command], names: Sequence[str]) -> Mapping[str, list[tuple[int, int]]]:
    """For each input of ``names``, (byte of the list at which the address of a LOAD from it stands, offset in the tensor)."""
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
    for number, command in enumerate(commands):
        if command.opcode is Opcode.LOAD:
            for name in names:
                buffer = compiled.inputs[name].buffer
                if buffer.address <= command["address"] < buffer.address + buffer.nbytes:
                    found[name].append((number * COMMAND_BYTES + _ADDRESS.offset // 8, command["address"] - buffer.address))
    return found
