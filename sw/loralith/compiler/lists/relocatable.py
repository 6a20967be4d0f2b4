"""Lists that are compiled once for a shape and run wherever their operands lie, with the scales, shifts and keys of each run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loralith.compiler.lists.command_list import CommandList
from loralith.spec.commands import COMMAND_BYTES, COMMANDS, Opcode

__all__ = ["Relocatable"]

OPERAND_BITS = 40
"""An operand compiled for relocation may be as long as this many bits of address."""


@dataclass(frozen=True, eq=False)
class Relocatable:
    """A packed list whose operand i was compiled to lie at `base(i)`.

    Attributes: ``data`` uint8 [commands, 128]; ``operand`` of each command that has a DRAM address, -1 for the others; ``offset`` of that
    address within its operand.
    """

    data: np.ndarray
    operand: np.ndarray
    offset: np.ndarray

    @staticmethod
    def base(operand: int) -> int:
        """Where to compile operand 0, 1, ... to."""
        return operand << OPERAND_BITS

    @classmethod
    def of(cls, commands: CommandList) -> Relocatable:
        data = np.frombuffer(commands.pack(), np.uint8).reshape(-1, COMMAND_BYTES).copy()
        addresses = [-1 if command.opcode is Opcode.COMPUTE else command["address"] for command in commands]
        operand = np.array([address >> OPERAND_BITS if address >= 0 else -1 for address in addresses])
        offset = np.array([max(address, 0) & ((1 << OPERAND_BITS) - 1) for address in addresses], np.uint64)
        return cls(data, operand, offset)

    def at(self, *addresses: int, **values: int) -> bytes:
        """The list with its operands at ``addresses``.

        ``values`` replace COMPUTE fields by name, in every command where the field was compiled as other than zero. Raises FieldError for
        a name that COMPUTE does not have and a value that its field cannot hold.
        """
        data = self.data.copy()
        moved = self.operand >= 0
        where = np.array(addresses, np.uint64)[self.operand[moved]] + self.offset[moved]
        first = COMMANDS[Opcode.LOAD].fields["address"].offset // 8  # a STORE's is the same field
        data[moved, first : first + 8] = where.astype("<u8")[:, None].view(np.uint8)
        COMMANDS[Opcode.COMPUTE].pack(values)
        for name, value in values.items():
            field = COMMANDS[Opcode.COMPUTE].fields[name]
            words = data.view("<u4")[:, field.word]
            mask = np.uint32(((1 << field.width) - 1) << field.lsb)
            compiled = ~moved & (words & mask != 0)
            words[compiled] = words[compiled] & ~mask | np.uint32(value << field.lsb)
        return data.tobytes()
