"""A tile's commands at its places on chip: addresses that count from its own beginning become the machine's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from loralith.compiler.step.instructions import Program
from loralith.compiler.step.tiles import Draft
from loralith.compiler.tokens.footprint import scalars_read, scalars_written
from loralith.spec.commands import Command, LoadTarget, Opcode, StoreSource
from loralith.spec.config import Config
from loralith.spec.vector.program import INSTRUCTION, Source, Target

__all__ = ["memory_of", "placed", "relocated", "shifted"]


Numbers = Callable[[int], int]
"""Where a tile's scalar goes."""


def relocated(program: Program, scalar: Numbers) -> Program:
    """The program with its scalars at other numbers."""
    found = []
    for data in program:
        code = INSTRUCTION.unpack(data)
        names = (*scalars_read(code), *scalars_written(code))
        found.append(INSTRUCTION.pack({**code, **{name: scalar(code[name]) for name in names}}))
    return tuple(found)


Codes = Sequence[Mapping[str, int]]
_LOADED = {LoadTarget.LEFT: "left", LoadTarget.RIGHT: "right", LoadTarget.V0: "v0", LoadTarget.V1: "v1", LoadTarget.SCALARS: "scalars"}
_STORED = {StoreSource.OUT: "out", StoreSource.V0: "v0", StoreSource.V1: "v1", StoreSource.SCALARS: "scalars"}
_OPERANDS = {"left0_base": "left", "right0_base": "right", "out_base": "out", "acc_base": "acc"}
_SECOND = {"left1_base": "left", "right1_base": "right"}
_SOURCES = {Source.V0: "v0", Source.V1: "v1", Source.OUT32: "out"}
_TARGETS = {Target.V0: "v0", Target.V1: "v1"}


def placed(draft: Draft, bases: Mapping[str, int], scalars: int, config: Config, codes: Codes = (), first: int = 0) -> Command:
    """``draft`` in a tile whose memories begin at ``bases`` and whose scalars at ``scalars``; ``codes``, ``first``: a VECTOR's
    instructions, and where they lie."""
    fields = _fields(draft, bases, lambda number: number + scalars, config, codes)
    if first:
        fields["first"] = first
    return Command.make(draft.opcode, **fields)


def shifted(draft: Draft, bases: Mapping[str, int], scalar: Numbers, config: Config, codes: Codes) -> Draft:
    """``draft`` in a tile of which its own one becomes a part, from ``bases`` on."""
    program = None if draft.program is None else relocated(draft.program, scalar)
    return Draft(draft.opcode, _fields(draft, bases, scalar, config, codes), draft.note, draft.work, program, draft.scalar, draft.tensor)


def _fields(draft: Draft, bases: Mapping[str, int], scalar: Numbers, config: Config, codes: Codes) -> dict[str, int]:
    fields = dict(draft.fields)

    def move(name: str, by: int) -> None:
        if by:
            fields[name] = fields.get(name, 0) + by

    if draft.opcode in (Opcode.LOAD, Opcode.STORE):
        memory = memory_of(draft)
        if memory == "scalars":
            fields["base"] = scalar(fields.get("base", 0))
        elif memory is not None:
            move("base", bases[memory])
    elif draft.opcode is Opcode.COMPUTE:
        for name, memory in (_OPERANDS | _SECOND if fields.get("chained") else _OPERANDS).items():
            move(name, bases.get(memory, 0))
    else:
        for region, by in _regions(codes, bases, config).items():
            name = f"region{region}_base"
            fields[name] = fields.get(name, 0) + by & 0xFFFF
    return fields


def memory_of(draft: Draft) -> str | None:
    """Where a LOAD or STORE has its words on chip; None for the memories of programs and keys."""
    if draft.opcode is Opcode.LOAD:
        return _LOADED.get(LoadTarget(draft.fields.get("target", 0)))
    return _STORED[StoreSource(draft.fields.get("source", 0))]


def _regions(codes: Codes, bases: Mapping[str, int], config: Config) -> dict[int, int]:
    """By how many words each region of a VECTOR moves; no region is one of two memories that lie apart."""
    found: dict[int, int] = {}
    for code in codes:
        used = [(code[f"{stream}_region"], _SOURCES.get(Source(code[f"{stream}_source"]))) for stream in ("x", "y")]
        used.append((code["target_region"], _TARGETS.get(Target(code["target"]))))
        for region, memory in used:
            if memory is not None:
                words = config.rows // config.vector_lanes * config.banks // 4 if memory == "out" else 1
                by = bases[memory] * words
                assert found.setdefault(region, by) == by, "a region of a VECTOR is one of two memories"
    return found
