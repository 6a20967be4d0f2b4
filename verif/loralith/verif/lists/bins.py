"""Functional bins of raw lists: what of docs/machine.md some list has done on the machine. Each is a name; a case hits some of them.

Only what ran counts: fields and sizes of legal lists, the ending of each list that was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator

from loralith.spec.commands import SEMAPHORES, LoadTarget, Opcode, OutMode, ScaleMode, StoreSource, VectorFormat
from loralith.spec.config import Config
from loralith.spec.numerics import SHIFT_MAX
from loralith.spec.status import Check, Code, Unit
from loralith.spec.vector.program import Format, Function, Operand, Reduce, Source, Target
from loralith.verif.lists.case import Case
from loralith.verif.lists.drawn_places import Fields, ceil_div
from loralith.verif.lists.expect import Ending, Expected
from loralith.verif.lists.oracle_checks import dram_row_bytes
from loralith.verif.lists.vector_footprint import Programs

__all__ = ["all_bins", "bins_of"]

Bins = Iterator[str]

_TRANSFER = (Check.RESERVED, Check.ENUM, Check.SIZE, Check.ADDRESS, Check.STRIDE)
_REGIONS = {
    Unit.LOAD: (Check.LEFT, Check.RIGHT, Check.SCALE),
    Unit.STORE: (Check.OUT, Check.STAT),
    Unit.COMPUTE: (Check.LEFT, Check.LEFT2, Check.RIGHT, Check.RIGHT2, Check.OUT, Check.LEFT_RESULT, Check.ACC, Check.SCALE, Check.STAT),
}
_VECTOR_REGIONS = {
    Unit.LOAD: (Check.V0, Check.V1, Check.PROGRAM, Check.SCALAR),
    Unit.STORE: (Check.V0, Check.V1, Check.SCALAR),
    Unit.VECTOR: (Check.PROGRAM, Check.V0, Check.V1, Check.OUT),
}
_FIELDS = {
    Opcode.LOAD: {"transpose": 2, "packed4": 2},
    Opcode.STORE: {"transpose": 2, "packed": 2},
    Opcode.COMPUTE: {
        **dict.fromkeys(("chained", "acc_read", "acc_write", "to_out", "to_left", "stochastic"), 2),
        **dict.fromkeys(("stat_enable", "stat_clear", "device_shift", "shift_up"), 2),
        "out_mode": len(OutMode),
        "scale_mode": len(ScaleMode),
        "shift": 17,
    },
}
_INSTRUCTION = {
    "x_source": [source for source in Source if source != Source.ROW_MAX],
    "y_source": [Source.NONE, Source.V0, Source.V1],
    "function": list(Function),
    "reduce": list(Reduce),
    "target": [target for target in Target if target != Target.LEFT],
    "format": list(Format),
    **{name: list(Operand) for name in "abcd"},
    **{name: [0, 1] for name in ("a_negate", "b_negate", "d_negate", "once", "reduce_to", "over_outer")},
    **{name: list(range(4)) for name in ("x_region", "y_region", "target_region", "lane")},
}


def all_bins(config: Config) -> set[str]:
    """Every bin that lists on a configuration can hit."""
    return {*_all_fields(config), *_all_sizes(config), *_all_tokens(config), *_all_endings(config)}


def bins_of(case: Case, expected: Expected) -> set[str]:
    """The bins of a case that ran and ended as expected."""
    hit: set[str] = set()
    for index, ending in enumerate(expected.endings):
        hit.add(_ending(ending))
        if ending.code is Code.OK:
            hit.update(_list_bins(case, case.lists[index]))
    return hit & all_bins(case.config)


def _value(opcode: Opcode, name: str, value: int) -> str:
    return f"{opcode.name} {name} {value}"


def _all_fields(config: Config) -> Bins:
    for opcode, fields in _FIELDS.items():
        yield from (_value(opcode, name, value) for name, count in fields.items() for value in range(count))
    yield from (_value(Opcode.COMPUTE, "fold_log2", value) for value in range(len(config.folds)))
    targets = [t for t in LoadTarget if t <= (LoadTarget.KEY if config.vector_lanes else LoadTarget.BOTH)]
    sources = [s for s in StoreSource if s <= (StoreSource.SCALARS if config.vector_lanes else StoreSource.STATS)]
    if config.cols < config.bus_bytes:
        targets.remove(LoadTarget.BOTH)
    yield from (_value(Opcode.LOAD, "target", value) for value in targets)
    yield from (_value(Opcode.STORE, "source", value) for value in sources)
    if not config.vector_lanes:
        return
    for opcode, memories in ((Opcode.LOAD, (LoadTarget.V0, LoadTarget.V1)), (Opcode.STORE, (StoreSource.V0, StoreSource.V1))):
        for memory in memories:
            yield from (f"{opcode.name} {memory.name} {form.name} broadcast {b}" for form in VectorFormat for b in (0, 1))
    yield from (f"instruction {name} {value}" for name, values in _INSTRUCTION.items() for value in map(int, values))
    yield from (_value(Opcode.VECTOR, "partial_inner", value) for value in (0, 1))


def _all_sizes(config: Config) -> Bins:
    for opcode in (Opcode.LOAD, Opcode.STORE):
        yield from (f"{opcode.name} {what}" for what in ("one row", "rows", "whole bus words", "a part of a bus word"))
        yield from (f"{opcode.name} {what}" for what in ("crosses 4 KiB", "more than a burst", "rows that overlap"))
    yield from (f"COMPUTE {what}" for what in ("one block of rows", "blocks of rows", "one tile of columns", "tiles of columns"))
    yield from (f"COMPUTE {what}" for what in ("a part of a tile", "a last step that is not full", "t lowest", "t highest", "t between"))
    yield from (f"COMPUTE scale_n {what}" for what in ("0", "1..31", "32", "33..47"))
    if config.vector_lanes:
        yield from (f"VECTOR outer {o}, inner {i}" for o in ("1", "more") for i in ("1", "more", "over 41"))
        yield from (f"VECTOR {what}" for what in ("all lanes", "a part of the lanes", "a region backward", "a region that stays"))


def _all_tokens(config: Config) -> Bins:
    opcodes = [opcode for opcode in Opcode if config.vector_lanes or opcode is not Opcode.VECTOR]
    for a in opcodes:
        for b in opcodes:
            if a is not b:
                yield f"{b.name} waits for {a.name}"
    yield from ("COMPUTE waits for COMPUTE", "a token at segment_wait", "a token at read_signal", "a semaphore holds 8 tokens or more")
    yield from (f"semaphore {s}" for s in range(SEMAPHORES))


def _all_endings(config: Config) -> Bins:
    yield _ending(Ending())
    yield _ending(Ending(Code.WATCHDOG))
    yield _ending(Ending(Code.BAD_OPCODE, Check.NONE, Unit.FETCH))
    vector = bool(config.vector_lanes)
    for unit, regions in _REGIONS.items():
        checks = (Check.RESERVED, Check.ENUM, Check.SIZE) if unit is Unit.COMPUTE else (*_TRANSFER, None)
        for check in (*checks, *regions, *(_VECTOR_REGIONS.get(unit, ()) if vector else ())):
            yield _ending(_refusal(unit, check))
    if vector:
        for check in (Check.RESERVED, Check.SIZE, *_VECTOR_REGIONS[Unit.VECTOR]):
            yield _ending(_refusal(Unit.VECTOR, check))
        yield _ending(Ending(Code.BAD_FIELD, Check.PROGRAM, Unit.VECTOR))
        yield _ending(Ending(Code.VECTOR_RANGE, Check.NONE, Unit.VECTOR))
        yield _ending(Ending(Code.VECTOR_RANGE, Check.NONE, Unit.LOAD))


def _refusal(unit: Unit, check: Check | None) -> Ending:
    """The ending by a check; None: the window."""
    if check is None:
        return Ending(Code.DRAM_WINDOW, Check.ADDRESS, unit)
    if check in (Check.ADDRESS, Check.STRIDE):
        return Ending(Code.MISALIGNED, check, unit)
    return Ending(Code.BAD_FIELD if check in (Check.RESERVED, Check.ENUM, Check.SIZE) else Code.SCRATCHPAD_BOUNDS, check, unit)


def _ending(ending: Ending) -> str:
    return f"ends {ending.code.name} {ending.detail.name} {ending.unit.name}"


def _list_bins(case: Case, commands: tuple[Fields, ...]) -> Bins:
    """Of a list that ran to its end."""
    config, programs = case.config, Programs(case.programs)
    for c in commands:
        opcode, codes = Opcode(c["opcode"]), programs.codes(c)
        yield from (_value(opcode, name, c[name]) for name in _FIELDS.get(opcode, {}))
        if opcode is Opcode.COMPUTE:
            yield from _compute_bins(c, config)
        elif opcode is Opcode.VECTOR:
            yield from _vector_bins(c, config)
        else:
            yield from _transfer_bins(c, config)
        yield from (f"instruction {name} {code[name]}" for code in codes if code is not None for name in _INSTRUCTION)
        programs.follow(c)
    yield from _token_bins(commands)


def _transfer_bins(c: Fields, config: Config) -> Bins:
    opcode, W = Opcode(c["opcode"]), config.bus_bytes
    name = opcode.name
    memory = LoadTarget(c["target"]) if opcode is Opcode.LOAD else StoreSource(c["source"])
    yield _value(opcode, "target" if opcode is Opcode.LOAD else "source", memory)
    if memory.name in ("V0", "V1"):
        yield f"{name} {memory.name} {VectorFormat(c['format']).name} broadcast {c['broadcast']}"
    stored = dram_row_bytes(c)
    yield f"{name} {'one row' if c['rows'] == 1 else 'rows'}"
    yield f"{name} {'a part of a bus word' if stored % W else 'whole bus words'}"
    first = c["address"]
    if first // 4096 != (first + stored - 1) // 4096:
        yield f"{name} crosses 4 KiB"
    if ceil_div(stored, W) > config.max_burst or stored > 64 * W:
        yield f"{name} more than a burst"
    if c["rows"] > 1 and c["row_stride"] < stored:
        yield f"{name} rows that overlap"


def _compute_bins(c: Fields, config: Config) -> Bins:
    fold = 1 << c["fold_log2"]
    width = config.cols // fold
    yield _value(Opcode.COMPUTE, "fold_log2", c["fold_log2"])
    yield f"COMPUTE {'blocks of rows' if c['m_rows'] > config.rows else 'one block of rows'}"
    yield f"COMPUTE {'tiles of columns' if c['n_cols'] > width else 'one tile of columns'}"
    if c["m_rows"] % config.rows or c["n_cols"] % width:
        yield "COMPUTE a part of a tile"
    if c["k0"] % fold:
        yield "COMPUTE a last step that is not full"
    if c["out_mode"] == OutMode.INT8 and c["scale_mode"] == ScaleMode.TENSOR:
        n = c["scale_n"]
        yield f"COMPUTE scale_n {n if n in (0, 32) else '1..31' if n < 32 else '33..47'}"
    if c["device_shift"]:
        low, high = c["t_low"], c["t_high"]
        yield f"COMPUTE t {'lowest' if low == 0 else 'highest' if high == SHIFT_MAX else 'between'}"


def _vector_bins(c: Fields, config: Config) -> Bins:
    inner = "1" if c["inner"] == 1 else "more" if c["inner"] <= 41 else "over 41"
    yield f"VECTOR outer {'1' if c['outer'] == 1 else 'more'}, inner {inner}"
    yield f"VECTOR {'all lanes' if c['lanes'] == config.vector_lanes else 'a part of the lanes'}"
    yield _value(Opcode.VECTOR, "partial_inner", c["partial_inner"])
    strides = [c[f"region{i}_inner"] for i in range(4)]
    if max(strides) >= 1 << 15:
        yield "VECTOR a region backward"
    if 0 in strides and c["inner"] > 1:
        yield "VECTOR a region that stays"


def _token_bins(commands: tuple[Fields, ...]) -> Bins:
    held: dict[int, list[Opcode]] = {s: [] for s in range(SEMAPHORES)}
    for c in commands:
        opcode = Opcode(c["opcode"])
        for name in ("wait", "segment_wait"):
            for s in (s for s in range(SEMAPHORES) if c.get(name, 0) >> s & 1):
                yield f"semaphore {s}"
                yield f"{opcode.name} waits for {held[s].pop(0).name}"
                if name == "segment_wait":
                    yield "a token at segment_wait"
        for name in ("read_signal", "signal"):
            for s in (s for s in range(SEMAPHORES) if c.get(name, 0) >> s & 1):
                held[s].append(opcode)
                if name == "read_signal":
                    yield "a token at read_signal"
                if len(held[s]) >= 8:
                    yield "a semaphore holds 8 tokens or more"
