"""Everything that `loralith.spec` fixes, as one JSON object: for programs in other languages."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import IntEnum
from typing import Any

from loralith.gen import facts
from loralith.spec.commands import COMMANDS
from loralith.spec.config import PRESETS
from loralith.spec.fields import Record
from loralith.spec.numerics import HASH_VECTORS
from loralith.spec.registers import REGISTERS, Register
from loralith.spec.version import VERSION

__all__ = ["generate"]

PATH = "docs/generated/loralith.json"


def generate() -> dict[str, str]:
    content = {
        "generated_by": "loralith gen",
        "version": list(VERSION),
        "registers": [_register(r) for r in REGISTERS.values()],
        "status": {name: _choices(enum) for name, enum in facts.STATUS_ENUMS.items()},
        "commands": [_command(int(opcode), record) for opcode, record in COMMANDS.items()],
        "values": {name: _choices(enum) for name, enum in facts.COMMAND_ENUMS.items()},
        "limits": {name.lower(): value for name, value, _ in facts.LIMITS},
        "latencies": [latency._asdict() for latency in facts.latencies()],
        "hash_vectors": [dict(zip(("seed", "step", "tensor", "index", "hash"), vector, strict=True)) for vector in HASH_VECTORS],
        "presets": {name: config.as_dict() | {"hash": config.hash} for name, config in PRESETS.items()},
    }
    return {PATH: json.dumps(content, indent=1) + "\n"}


def _choices(enum: type[IntEnum]) -> list[dict[str, Any]]:
    return [choice._asdict() for choice in facts.choices(enum)]


def _register(r: Register) -> dict[str, Any]:
    return {
        "name": r.name,
        "offset": r.offset,
        "width": r.width,
        "access": r.access.value,
        "reset": facts.reset_of(r),
        "locked": r.locked,
        "doc": r.doc,
        "bits": [asdict(b) for b in r.bits],
    }


def _command(opcode: int, record: Record) -> dict[str, Any]:
    fields = [{"name": f.name, "word": f.word, "lsb": f.lsb, "width": f.width, "doc": f.doc} for f in record.fields.values()]
    return {"name": record.name, "opcode": opcode, "bytes": record.size, "doc": record.doc, "fields": fields}
