"""A command list: what the host writes to DRAM and the doorbell starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from loralith.spec.commands import COMMAND_BYTES, COMMANDS, Command

__all__ = ["CommandList", "Fields", "bytes_in_dram"]


class Fields(dict[str, int]):
    """All fields of a command by name, those left out as zero: for code that looks at many of them."""

    def __init__(self, command: Command) -> None:
        super().__init__(dict.fromkeys(COMMANDS[command.opcode].fields, 0))
        self.update(command.fields)
        self.opcode = command.opcode


def bytes_in_dram(c: Fields) -> int:
    """Bytes that a row of a LOAD or STORE takes in DRAM: two elements of a packed load share one."""
    return (c["row_bytes"] + 1) // 2 if c.get("packed4") else c["row_bytes"]


@dataclass(frozen=True, eq=False)
class CommandList:
    """Commands in the order in which they are fetched, with a note for the reader of each ("" where there is none).

    Two lists are equal when their commands are; notes are not part of the descriptors.
    """

    commands: tuple[Command, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.notes:
            object.__setattr__(self, "notes", ("",) * len(self.commands))
        if len(self.notes) != len(self.commands):
            raise ValueError(f"there must be one note per command: {len(self.commands)}, not {len(self.notes)}")

    @classmethod
    def of(cls, commands: Iterable[Command]) -> CommandList:
        return cls(tuple(commands))

    @classmethod
    def unpack(cls, data: bytes) -> CommandList:
        """The list in packed descriptors. Raises FieldError for a bad descriptor, ValueError for a length that is no multiple of 128."""
        if len(data) % COMMAND_BYTES:
            raise ValueError(f"a list takes a multiple of {COMMAND_BYTES} bytes, not {len(data)}")
        return cls.of(Command.unpack(data[i : i + COMMAND_BYTES]) for i in range(0, len(data), COMMAND_BYTES))

    def pack(self) -> bytes:
        """128 bytes per command, as the machine fetches them."""
        return b"".join(command.pack() for command in self.commands)

    def __add__(self, other: CommandList) -> CommandList:
        return CommandList(self.commands + other.commands, self.notes + other.notes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CommandList) and self.pack() == other.pack()

    def __len__(self) -> int:
        return len(self.commands)

    def __iter__(self) -> Iterator[Command]:
        return iter(self.commands)

    def __getitem__(self, index: int) -> Command:
        return self.commands[index]
