"""Descriptors to fields, without judging them: a list may hold anything."""

from __future__ import annotations

import struct

from loralith.spec.commands import COMMAND_BYTES, COMMANDS, Opcode

__all__ = ["opcode_of", "reserved_bits", "unpack_fields"]

_WORDS = struct.Struct(f"<{COMMAND_BYTES // 4}I")
_LAYOUT = {
    opcode: [(f.name, f.word, f.lsb, (1 << f.width) - 1) for f in record.fields.values() if f.name != "opcode"]
    for opcode, record in COMMANDS.items()
}
_RESERVED = {opcode: record.reserved_mask for opcode, record in COMMANDS.items()}


def opcode_of(data: bytes) -> Opcode | None:
    """None for an opcode of no command."""
    return Opcode(data[0]) if data[0] in COMMANDS else None


def reserved_bits(opcode: Opcode, data: bytes) -> int:
    """The reserved bits that are set."""
    return int.from_bytes(data, "little") & _RESERVED[opcode]


def unpack_fields(opcode: Opcode, data: bytes) -> dict[str, int]:
    """All fields but the opcode."""
    words = _WORDS.unpack(data)
    return {
        name: words[word] >> lsb & mask if mask < 1 << 32 else words[word] | words[word + 1] << 32
        for name, word, lsb, mask in _LAYOUT[opcode]
    }
