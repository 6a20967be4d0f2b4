"""A tile's commands at its places on chip: addresses that count from its own beginning become the machine's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loralith.compiler.step.instructions import Program
from loralith.compiler.step.tiles import Draft
from loralith.compiler.tokens.footprint import scalars_read, scalars_written
from loralith.spec.commands import Command, LoadTarget, Opcode, StoreSource
from loralith.spec.config import Config
from loralith.spec.vector.program import INSTRUCTION, Source, Target

__all__ = ["placed", "relocated"]


def relocated(program: Program, base: int) -> Program:
    """The program with its scalars from number ``base`` on."""
    if not base:
        return program
    found = []
    for data in program:
        code = INSTRUCTION.unpack(data)
        names = (*scalars_read(code), *scalars_written(code))
        found.append(INSTRUCTION.pack({**code, **{name: code[name] + base for name in names}}))
    return tuple(found)


_LOADED = {LoadTarget.LEFT: "left", LoadTarget.RIGHT: "right", LoadTarget.V0: "v0", LoadTarget.V1: "v1"}
_STORED = {StoreSource.V0: "v0", StoreSource.V1: "v1"}
_OPERANDS = {"left0_base": "left", "right0_base": "right", "out_base": "out", "acc_base": "acc"}
_SECOND = {"left1_base": "left", "right1_base": "right"}
_SOURCES = {Source.V0: "v0", Source.V1: "v1", Source.OUT32: "out"}
_TARGETS = {Target.V0: "v0", Target.V1: "v1"}


def placed(
    draft: Draft,
    bases: Mapping[str, int],
    scalars: int,
    config: Config,
    codes: Sequence[Mapping[str, int]] = (),
    first: int = 0,
) -> Command:
    """``draft`` in a tile whose memories begin at ``bases`` and whose scalars at ``scalars``; ``codes``, ``first``: a VECTOR's
    instructions, and where they lie."""
    fields = dict(draft.fields)

    def move(name: str, by: int) -> None:
        if by:
            fields[name] = fields.get(name, 0) + by

    if draft.opcode is Opcode.LOAD:
        target = LoadTarget(fields.get("target", 0))
        move("base", scalars if target is LoadTarget.SCALARS else bases[_LOADED[target]] if target in _LOADED else 0)
    elif draft.opcode is Opcode.STORE:
        source = StoreSource(fields.get("source", 0))
        move("base", scalars if source is StoreSource.SCALARS else bases[_STORED[source]])
    elif draft.opcode is Opcode.COMPUTE:
        for name, memory in (_OPERANDS | _SECOND if fields.get("chained") else _OPERANDS).items():
            move(name, bases.get(memory, 0))
    else:
        move("first", first)
        for region, by in _regions(codes, bases, config).items():
            name = f"region{region}_base"
            fields[name] = fields.get(name, 0) + by & 0xFFFF
    return Command.make(draft.opcode, **fields)


def _regions(codes: Sequence[Mapping[str, int]], bases: Mapping[str, int], config: Config) -> dict[int, int]:
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
