"""Command lists as text, both ways.

One line per command: its index, its opcode, `name=value` of every field that is not zero, and after ` ; ` what it does. Choices are
written by name, semaphore masks as `{0,3}`, addresses and keys in hexadecimal. `assemble` takes the same text back; index and remark are
optional there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum

from loralith.compiler.lists.command_list import CommandList
from loralith.errors import LoralithError
from loralith.spec.commands import COMMAND_BYTES, COMMANDS, Command, LoadTarget, Opcode, OutMode, ScaleMode, StoreSource
from loralith.spec.fields import FieldError

__all__ = ["AssemblyError", "as_records", "assemble", "describe", "disassemble", "format_command", "format_raw"]

CHOICES: dict[str, type[IntEnum]] = {"target": LoadTarget, "source": StoreSource, "out_mode": OutMode, "scale_mode": ScaleMode}
MASKS = ("wait", "signal", "segment_wait", "read_signal")
HEXADECIMAL = ("address", "key0", "key1")


class AssemblyError(LoralithError):
    """Text that is not a command; the message names the line."""


def _value(name: str, value: int) -> str:
    if name in CHOICES and value in {int(v) for v in CHOICES[name]}:
        return CHOICES[name](value).name
    if name in MASKS:
        return "{" + ",".join(str(i) for i in range(value.bit_length()) if value >> i & 1) + "}"
    return hex(value) if name in HEXADECIMAL else str(value)


def _shown(command: Command) -> dict[str, int]:
    """Fields worth printing: those that are not zero, and every choice that the command has (0 is one of its names)."""
    record = COMMANDS[command.opcode]
    return {n: command[n] for n in record.fields if n != "opcode" and (command[n] or n in ("target", "source", "out_mode"))}


def describe(command: Command) -> str:
    """What the command does, in one phrase."""
    if command.opcode is Opcode.COMPUTE:
        k = f"{command['k0']} + {command['k1']}" if command["chained"] else f"{command['k0']}"
        clauses = [f"{command['m_rows']} x {command['n_cols']} outputs over k = {k}"]
        if command["fold_log2"]:
            clauses.append(f"fold {1 << command['fold_log2']}")
        if command["shift"]:
            clauses.append(f"first segment * 2**{command['shift']}")
        if command["acc_read"]:
            clauses.append("plus acc")
        places = [name for flag, name in (("to_out", "out"), ("to_left", "left"), ("acc_write", "acc")) if command[flag]]
        return ", ".join(clauses) + (" -> " + ", ".join(places) if places else "")
    if command.opcode is Opcode.VECTOR:
        last = command["first"] + command["count"] - 1
        return f"instructions {command['first']}..{last} over {command['outer']} x {command['inner']} words"
    nibbles = command.opcode is Opcode.LOAD and command["packed4"]
    size = f"{command['rows']} x {command['row_bytes']} {'INT4' if nibbles else 'bytes'}"
    suffix = ", transposed" if command["transpose"] else ""
    choice = _value("target", command["target"]) if command.opcode is Opcode.LOAD else _value("source", command["source"])
    if command.opcode is Opcode.LOAD:
        return f"{choice.lower()} row {command['base']} <- {size} at {command['address']:#x}{suffix}"
    return f"{size} at {command['address']:#x} <- {choice.lower()} row {command['base']}{suffix}"


def format_command(command: Command, index: int | None = None, note: str = "") -> str:
    """One line; `note` stands before the description."""
    head = "" if index is None else f"{index:5d}  "
    fields = " ".join(f"{name}={_value(name, value)}" for name, value in _shown(command).items())
    remark = f"{note}: {describe(command)}" if note else describe(command)
    return f"{head}{command.opcode.name:<7} {fields}  ; {remark}"


def format_raw(data: bytes, index: int | None = None) -> str:
    """One line for 128 bytes that may hold no command at all: then the bytes that are not zero."""
    try:
        return format_command(Command.unpack(data), index)
    except FieldError as error:
        words = ", ".join(
            f"word {i} = {data[4 * i : 4 * i + 4][::-1].hex()}" for i in range(len(data) // 4) if any(data[4 * i : 4 * i + 4])
        )
        return f"{'' if index is None else f'{index:5d}  '}not a command: {error} ({words or 'all zero'})"


def disassemble(commands: CommandList) -> str:
    """The list's text, one line per command."""
    return "".join(format_command(c, i, n) + "\n" for i, (c, n) in enumerate(zip(commands.commands, commands.notes, strict=True)))


def as_records(commands: CommandList) -> list[dict[str, object]]:
    """The list as JSON values: index, opcode, fields that are not zero (numbers), description."""
    return [
        {"index": i, "opcode": c.opcode.name, "fields": {n: v for n, v in c.fields if v}, "note": note, "description": describe(c)}
        for i, (c, note) in enumerate(zip(commands.commands, commands.notes, strict=True))
    ]


def _parse_value(name: str, text: str) -> int:
    if name in CHOICES and text in CHOICES[name].__members__:
        return int(CHOICES[name][text])
    if name in MASKS and re.fullmatch(r"\{[\d,]*\}", text):
        return sum(1 << int(i) for i in text[1:-1].split(",") if i)
    return int(text, 0)


def _parse_line(line: str) -> Command:
    words = line.split()
    if words[0].isdigit():
        words = words[1:]
    if not words or words[0] not in Opcode.__members__:
        raise ValueError(f"expected one of {', '.join(Opcode.__members__)}, not {words[0] if words else 'nothing'!r}")
    values = {}
    for word in words[1:]:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"expected name=value, not {word!r}")
        if name in values:
            raise ValueError(f"{name} stands twice")
        values[name] = _parse_value(name, text)
    return Command.make(Opcode[words[0]], **values)


def assemble(lines: str | Iterable[str]) -> CommandList:
    """The list of a disassembly. Raises AssemblyError, naming the line, for anything else."""
    commands = []
    for number, line in enumerate(lines.splitlines() if isinstance(lines, str) else lines, 1):
        code = line.partition(";")[0].strip()
        if not code:
            continue
        try:
            commands.append(_parse_line(code))
        except ValueError as error:
            raise AssemblyError(f"line {number}: {error}") from None
    return CommandList.of(commands)


def read_list(data: bytes) -> CommandList:
    """The list in a file of packed descriptors. Raises AssemblyError, naming the command, where it holds none."""
    if not data or len(data) % COMMAND_BYTES:
        raise AssemblyError(f"a list is at least one descriptor of {COMMAND_BYTES} bytes, a multiple of that: not {len(data)} bytes")
    for index in range(len(data) // COMMAND_BYTES):
        try:
            Command.unpack(data[index * COMMAND_BYTES : (index + 1) * COMMAND_BYTES])
        except FieldError as error:
            raise AssemblyError(f"command {index}: {error}") from None
    return CommandList.unpack(data)
