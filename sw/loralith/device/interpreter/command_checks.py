"""The checks before a command runs, as docs/machine.md orders them ("Checks, before a command runs")."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from loralith.device.run_status import Status
from loralith.spec.commands import (
    COMMAND_BYTES,
    COMMANDS,
    FORMAT_BYTES,
    STAT_BYTES,
    LoadTarget,
    Opcode,
    OutMode,
    ScaleMode,
    StoreSource,
    VectorFormat,
)
from loralith.spec.config import Config
from loralith.spec.numerics import K_LIMIT, MANTISSA_MIN, SHIFT_MAX
from loralith.spec.status import Check, Code, Unit
from loralith.spec.vector.program import PROGRAM_INSTRUCTIONS, SCALARS

__all__ = ["UNITS", "dram_row_bytes", "first_fault", "opcode_of", "reserved_bits", "unpack_fields"]

UNITS = {Opcode.LOAD: Unit.LOAD, Opcode.COMPUTE: Unit.COMPUTE, Opcode.STORE: Unit.STORE, Opcode.VECTOR: Unit.VECTOR}
SHIFT_LIMIT = 16

Fields = Mapping[str, int]


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def dram_row_bytes(c: Fields) -> int:
    """Bytes that a row of a LOAD or STORE takes in DRAM: of a packed load half of `row_bytes`, rounded up."""
    return ceil_div(c["row_bytes"], 2) if c.get("packed4") else c["row_bytes"]


def first_fault(opcode: Opcode, c: Fields, config: Config, window: tuple[int, int], index: int) -> Status | None:
    """The first check that command `index` with fields `c` fails, or None. Reserved bits are the caller's to check before.

    `window` is (first byte, first byte past it).
    """

    def fault(code: Code, detail: Check, address: int = 0) -> Status:
        return Status(code, detail, UNITS[opcode], index, address)

    if opcode is Opcode.VECTOR:
        if not (c["count"] and c["outer"] and c["inner"] and 1 <= c["lanes"] <= config.vector_lanes):
            return fault(Code.BAD_FIELD, Check.SIZE)
        return fault(Code.SCRATCHPAD_BOUNDS, Check.PROGRAM) if c["first"] + c["count"] > PROGRAM_INSTRUCTIONS else None
    if opcode is Opcode.COMPUTE:
        if not _compute_has_meaning(c, config):
            return fault(Code.BAD_FIELD, Check.ENUM)
        if not _compute_sizes(c):
            return fault(Code.BAD_FIELD, Check.SIZE)
    else:
        has_meaning = _load_has_meaning(c, config) if opcode is Opcode.LOAD else _store_has_meaning(c, config)
        if not has_meaning:
            return fault(Code.BAD_FIELD, Check.ENUM)
        if not (c["rows"] and c["row_bytes"]):
            return fault(Code.BAD_FIELD, Check.SIZE)
        if c["address"] % config.bus_bytes:
            return fault(Code.MISALIGNED, Check.ADDRESS, c["address"])
        if c["rows"] > 1 and not c.get("packed") and c["row_stride"] % config.bus_bytes:
            return fault(Code.MISALIGNED, Check.STRIDE, c["address"])
    for check, end, depth in _regions(opcode, c, config):
        if end > depth:
            return fault(Code.SCRATCHPAD_BOUNDS, check)
    if opcode is not Opcode.COMPUTE:
        last = c["address"] + (c["rows"] - 1) * c["row_stride"] + dram_row_bytes(c) - 1
        if c["address"] < window[0] or last >= window[1]:
            return fault(Code.DRAM_WINDOW, Check.ADDRESS, c["address"])
    return None


def _one_plain_row(c: Fields) -> bool:
    return c["rows"] == 1 and not any(c.get(name) for name in ("transpose", "packed", "pad_rows", "block_stride"))


_VECTOR_TARGETS = {LoadTarget.V0: 0, LoadTarget.V1: 0, LoadTarget.PROGRAM: 8, LoadTarget.SCALARS: 4, LoadTarget.KEY: 8}
_VECTOR_SOURCES = {StoreSource.V0: 0, StoreSource.V1: 0, StoreSource.SCALARS: 4}
"""Bytes of an element, or 0 where ``format`` tells."""


def _vector_has_meaning(c: Fields, unit: int, config: Config) -> bool:
    """Of a LOAD or STORE of a memory of the vector unit."""
    if not config.vector_lanes or any(c.get(name) for name in ("transpose", "packed", "packed4", "pad_rows")):
        return False
    if unit:
        return _one_plain_row(c) and not (c["format"] or c["broadcast"]) and c["row_bytes"] % unit == 0
    return c["format"] <= VectorFormat.INT8 and c["row_bytes"] % FORMAT_BYTES[VectorFormat(c["format"])] == 0


def _load_has_meaning(c: Fields, config: Config) -> bool:
    if c["target"] in _VECTOR_TARGETS:
        return _vector_has_meaning(c, _VECTOR_TARGETS[LoadTarget(c["target"])], config)
    if c["format"] or c["broadcast"]:
        return False
    if c["target"] == LoadTarget.BOTH:
        return bool(c["transpose"]) and not c["pad_rows"] and config.cols >= config.bus_bytes
    if c["target"] == LoadTarget.SCALE:
        return _one_plain_row(c) and not c["packed4"]
    return c["target"] in (LoadTarget.LEFT, LoadTarget.RIGHT) and not (c["transpose"] and c["pad_rows"])


def _store_has_meaning(c: Fields, config: Config) -> bool:
    if c["source"] in _VECTOR_SOURCES:
        return _vector_has_meaning(c, _VECTOR_SOURCES[StoreSource(c["source"])], config)
    if c["format"] or c["broadcast"]:
        return False
    if c["source"] == StoreSource.STATS:
        return _one_plain_row(c) and c["row_bytes"] % STAT_BYTES == 0
    if c["source"] != StoreSource.OUT:
        return False
    n = c["row_bytes"]
    return not c["packed"] or (0 < n < config.bus_bytes and n & (n - 1) == 0 and c["row_stride"] == n)


def _compute_has_meaning(c: Fields, config: Config) -> bool:
    return (
        c["fold_log2"] < config.max_fold.bit_length()
        and c["shift"] <= SHIFT_LIMIT
        and c["out_mode"] <= OutMode.INT32
        and c["scale_mode"] <= ScaleMode.COLUMN
        and (bool(c["chained"]) or not (c["shift"] or c["segment_wait"]))
        and (not c["to_left"] or c["out_mode"] == OutMode.INT8)
        and (not c["to_out"] or c["out_mode"] != OutMode.NONE)
        and (not c["device_shift"] or _device_shift_has_meaning(c))
    )


def _device_shift_has_meaning(c: Fields) -> bool:
    if not c["t_low"] <= c["t_high"] <= SHIFT_MAX:
        return False
    if c["chained"]:
        return c["shift"] >= c["t_high"] - c["t_low"]
    return c["out_mode"] == OutMode.INT8 and c["scale_mode"] == ScaleMode.TENSOR


def _compute_sizes(c: Fields) -> bool:
    if not (c["m_rows"] and c["n_cols"] and c["k0"]) or bool(c["k1"]) != bool(c["chained"]):
        return False
    if (c["k0"] << c["shift"]) + c["k1"] > K_LIMIT:
        return False
    scaled = c["out_mode"] == OutMode.INT8 and c["scale_mode"] == ScaleMode.TENSOR
    return not scaled or (c["scale_m"] >= MANTISSA_MIN and c["scale_n"] <= SHIFT_MAX)


def _regions(opcode: Opcode, c: Fields, config: Config) -> Iterator[tuple[Check, int, int]]:
    """(check, end of the region, rows of its memory) for every region of the command, in the order of the checks."""
    W, R = config.banks, config.rows

    def end(base: int, blocks: int, stride: int, rows: int) -> int:
        return base + (blocks - 1) * stride + rows

    if opcode is Opcode.LOAD:
        base, stride, rows, nbytes = c["base"], c["block_stride"], c["rows"], c["row_bytes"]
        if c["target"] in (LoadTarget.V0, LoadTarget.V1):
            yield _vector_region(c, c["target"] - LoadTarget.V0, config)
            return
        if c["target"] > LoadTarget.BOTH:
            if c["target"] == LoadTarget.PROGRAM:
                yield Check.PROGRAM, base + nbytes // 8, PROGRAM_INSTRUCTIONS
            elif c["target"] == LoadTarget.SCALARS:
                yield Check.SCALAR, base + nbytes // 4, SCALARS
            else:
                yield Check.SCALAR, base + nbytes // 8, 1
            return
        if c["target"] == LoadTarget.SCALE:
            yield Check.SCALE, base + ceil_div(nbytes, 4 * R), config.scale_depth
            return
        left = c["target"] != LoadTarget.RIGHT
        lanes = R if left else config.cols
        along_lanes, along_seq = (rows, nbytes) if c["transpose"] else (nbytes, rows + c["pad_rows"])
        region = end(base, ceil_div(along_lanes, lanes), stride, ceil_div(along_seq, W))
        yield (Check.LEFT, region, config.left_depth) if left else (Check.RIGHT, region, config.right_depth)
        if c["target"] == LoadTarget.BOTH:
            beside = end(c["right_base"], ceil_div(nbytes, config.cols), c["right_stride"], ceil_div(rows, W))
            yield Check.RIGHT, beside, config.right_depth
    elif opcode is Opcode.STORE:
        base, stride, rows, nbytes = c["base"], c["block_stride"], c["rows"], c["row_bytes"]
        if c["source"] in (StoreSource.V0, StoreSource.V1):
            yield _vector_region(c, c["source"] - StoreSource.V0, config)
            return
        if c["source"] == StoreSource.SCALARS:
            yield Check.SCALAR, base + nbytes // 4, SCALARS
            return
        if c["source"] == StoreSource.STATS:
            yield Check.STAT, base + nbytes // STAT_BYTES, config.stat_slots
            return
        along_lanes, along_seq = (nbytes, rows) if c["transpose"] else (rows, nbytes)
        yield Check.OUT, end(base, ceil_div(along_lanes, R), stride, ceil_div(along_seq, W)), config.out_depth
    else:
        yield from _compute_regions(c, config)


def _vector_region(c: Fields, which: int, config: Config) -> tuple[Check, int, int]:
    elements = c["row_bytes"] // FORMAT_BYTES[VectorFormat(c["format"])]
    words = elements if c["broadcast"] else ceil_div(elements, config.vector_lanes)
    depth = (config.v0_words, config.v1_words)[which]
    return Check(Check.V0 + which), c["base"] + (c["rows"] - 1) * c["block_stride"] + words, depth


def _compute_regions(c: Fields, config: Config) -> Iterator[tuple[Check, int, int]]:
    W, R = config.banks, config.rows
    fold = 1 << c["fold_log2"]
    M, N = c["m_rows"], c["n_cols"]
    mt, nt = ceil_div(M, R), ceil_div(N, config.cols // fold)
    segments = ((0, Check.LEFT, Check.RIGHT), (1, Check.LEFT2, Check.RIGHT2))[: 1 + c["chained"]]
    for i, check, _ in segments:
        yield check, c[f"left{i}_base"] + (mt - 1) * c[f"left{i}_stride"] + ceil_div(c[f"k{i}"], W), config.left_depth
    for i, _, check in segments:
        steps = ceil_div(c[f"k{i}"], fold)
        yield check, c[f"right{i}_base"] + (nt - 1) * c[f"right{i}_stride"] + ceil_div(steps, W), config.right_depth
    if c["to_out"]:
        width = 4 if c["out_mode"] == OutMode.INT32 else 1
        yield Check.OUT, c["out_base"] + (mt - 1) * c["out_stride"] + ceil_div(N * width, W), config.out_depth
    if c["to_left"]:
        yield Check.LEFT_RESULT, c["result_base"] + (mt - 1) * c["result_stride"] + ceil_div(N, W), config.left_depth
    if c["acc_read"] or c["acc_write"]:
        yield Check.ACC, c["acc_base"] + (mt - 1) * c["acc_stride"] + N, config.acc_depth
    if c["out_mode"] == OutMode.INT8 and c["scale_mode"] != ScaleMode.TENSOR:
        words = mt if c["scale_mode"] == ScaleMode.ROW else ceil_div(N, R)
        yield Check.SCALE, c["scale_base"] + words, config.scale_depth
    if c["stat_enable"]:
        yield Check.STAT, c["stat_slot"] + 1, config.stat_slots
    if c["device_shift"]:
        yield Check.STAT, c["exponent_slot"] + 1, config.stat_slots


_WORDS = struct.Struct(f"<{COMMAND_BYTES // 4}I")
_LAYOUT = {
    opcode: [(f.name, f.word, f.lsb, (1 << f.width) - 1) for f in record.fields.values() if f.name != "opcode"]
    for opcode, record in COMMANDS.items()
}
_RESERVED = {opcode: record.reserved_mask for opcode, record in COMMANDS.items()}


def opcode_of(data: bytes, config: Config) -> Opcode | None:
    """None for an opcode of no command of the configuration."""
    known = data[0] in COMMANDS and (data[0] != Opcode.VECTOR or config.vector_lanes > 0)
    return Opcode(data[0]) if known else None


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
