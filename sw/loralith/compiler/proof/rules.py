"""What makes one command legal, in words: the compiler's own reading of docs/machine.md ("Checks, before a command runs").

It shares nothing with the reference device's checks, so that a slip in one shows against the other.
"""

from __future__ import annotations

from collections.abc import Iterator

from loralith.compiler.lists.command_list import Fields, bytes_in_dram
from loralith.spec.commands import STAT_BYTES, Command, LoadTarget, Opcode, OutMode, ScaleMode, StoreSource
from loralith.spec.config import Config

__all__ = ["problems"]


def problems(command: Command, config: Config, window: tuple[int, int]) -> Iterator[str]:
    """Every rule that the command breaks, in the order of docs/machine.md; nothing for a legal one.

    `window` is (first DRAM byte, first past it). Rules on sizes are only looked at where the fields before them have a meaning.
    """
    judge = {Opcode.LOAD: _load, Opcode.COMPUTE: _compute, Opcode.STORE: _store, Opcode.VECTOR: _vector}[command.opcode]
    c = Fields(command)
    meaning = list(judge(c, config))
    if meaning:
        yield from meaning
        return
    for memory, name, last, depth in _last_rows(c, config):
        if last >= depth:
            yield f"{name} reaches row {last} of {memory}, which has {depth}"
    if command.opcode in (Opcode.LOAD, Opcode.STORE):
        yield from _dram(c, config, window)


def _dram(c: Fields, config: Config, window: tuple[int, int]) -> Iterator[str]:
    W = config.bus_bytes
    if c["address"] % W:
        yield f"address {c['address']:#x} is not a multiple of {W}"
    packed = c.opcode is Opcode.STORE and c["packed"]
    if c["rows"] > 1 and c["row_stride"] % W and not packed:
        yield f"row_stride {c['row_stride']} is not a multiple of {W}"
    last = c["address"] + (c["rows"] - 1) * c["row_stride"] + bytes_in_dram(c) - 1
    if not (window[0] <= c["address"] and last < window[1]):
        yield f"bytes {c['address']:#x}..{last:#x} are not all in the window {window[0]:#x}..{window[1] - 1:#x}"


def _at_least_one(c: Fields, *names: str) -> Iterator[str]:
    for name in names:
        if c[name] == 0:
            yield f"{name} must be at least 1"


def _single_row(c: Fields, what: str) -> Iterator[str]:
    if c["rows"] != 1:
        yield f"{what} takes rows 1, not {c['rows']}"
    for name in ("transpose", "pad_rows" if c.opcode is Opcode.LOAD else "packed", "block_stride"):
        if c[name]:
            yield f"{what} takes no {name}"


def _vector(c: Fields, config: Config) -> Iterator[str]:
    if not config.vector_lanes:
        yield f"the configuration {config.name} has no vector lanes"
        return
    yield from _at_least_one(c, "count", "outer", "inner", "lanes")
    if c["lanes"] > config.vector_lanes:
        yield f"lanes {c['lanes']} is over {config.vector_lanes}"


_ELEMENT = {0: 4, 1: 2, 2: 1}
"""Bytes of an element by ``format``."""


def _unit_transfer(c: Fields, config: Config, what: str, unit: int) -> Iterator[str]:
    """A LOAD or STORE of a memory of the vector unit; ``unit``: bytes of an entry, 0 for a vector scratchpad."""
    if not config.vector_lanes:
        yield f"{what} needs vector lanes; the configuration {config.name} has none"
    for name in ("transpose", "packed4", "pad_rows", "packed"):
        if c.get(name):
            yield f"{what} takes no {name}"
    if unit:
        if c["rows"] != 1:
            yield f"{what} takes rows 1, not {c['rows']}"
        for name in ("block_stride", "format", "broadcast"):
            if c[name]:
                yield f"{what} takes no {name}"
    elif c["format"] not in _ELEMENT:
        yield f"format {c['format']} is unknown"
        return
    if c["row_bytes"] % (unit or _ELEMENT[c["format"]]):
        yield f"row_bytes {c['row_bytes']} is no multiple of {unit or _ELEMENT[c['format']]}"
    yield from _at_least_one(c, "rows", "row_bytes")


def _no_format(c: Fields) -> Iterator[str]:
    for name in ("format", "broadcast"):
        if c[name]:
            yield f"{name} is for vector scratchpads alone"


def _load(c: Fields, config: Config) -> Iterator[str]:
    units = {LoadTarget.V0: 0, LoadTarget.V1: 0, LoadTarget.PROGRAM: 8, LoadTarget.SCALARS: 4, LoadTarget.KEY: 8}
    if c["target"] in units:
        target = LoadTarget(c["target"])
        yield from _unit_transfer(c, config, target.name, units[target])
        return
    yield from _no_format(c)
    if c["target"] == LoadTarget.SCALE:
        yield from _single_row(c, "SCALE")
        if c["packed4"]:
            yield "SCALE takes no packed4"
    elif c["target"] == LoadTarget.BOTH:
        if not c["transpose"]:
            yield "BOTH takes transpose 1"
        if config.cols < config.bus_bytes:
            yield f"BOTH needs at least as many columns as bus bytes, not {config.cols} and {config.bus_bytes}"
    elif c["target"] > LoadTarget.KEY:
        yield f"target {c['target']} is unknown"
    if c["transpose"] and c["pad_rows"]:
        yield "a transposed load takes no pad_rows"
    yield from _at_least_one(c, "rows", "row_bytes")


def _store(c: Fields, config: Config) -> Iterator[str]:
    n = c["row_bytes"]
    units = {StoreSource.V0: 0, StoreSource.V1: 0, StoreSource.SCALARS: 4}
    if c["source"] in units:
        source = StoreSource(c["source"])
        yield from _unit_transfer(c, config, source.name, units[source])
        return
    yield from _no_format(c)
    if c["source"] == StoreSource.STATS:
        yield from _single_row(c, "STATS")
        if n % STAT_BYTES:
            yield f"STATS takes row_bytes in multiples of {STAT_BYTES}, not {n}"
    elif c["source"] > StoreSource.SCALARS:
        yield f"source {c['source']} is unknown"
    if c["packed"] and (n >= config.bus_bytes or n.bit_count() != 1 or c["row_stride"] != n):
        yield f"packed takes row_bytes a power of two below {config.bus_bytes} and the same row_stride, not {n} and {c['row_stride']}"
    yield from _at_least_one(c, "rows", "row_bytes")


def _compute(c: Fields, config: Config) -> Iterator[str]:
    if 1 << c["fold_log2"] > config.max_fold:
        yield f"fold {1 << c['fold_log2']} is over {config.max_fold}"
    if c["shift"] > 16:
        yield f"shift {c['shift']} is over 16"
    if c["out_mode"] > OutMode.INT32:
        yield f"out_mode {c['out_mode']} is unknown"
    if c["scale_mode"] > ScaleMode.COLUMN:
        yield f"scale_mode {c['scale_mode']} is unknown"
    if not c["chained"]:
        for name in ("shift", "segment_wait", "k1"):
            if c[name]:
                yield f"{name} needs a chained command"
    else:
        yield from _at_least_one(c, "k1")
    if c["to_left"] and c["out_mode"] != OutMode.INT8:
        yield "to_left needs an INT8 result"
    if c["to_out"] and c["out_mode"] == OutMode.NONE:
        yield "to_out needs a result"
    yield from _at_least_one(c, "m_rows", "n_cols", "k0")
    # (k0 * 2**shift + k1) products of at most 2**14 in magnitude must stay below 2**31.
    if ((c["k0"] * 2 ** c["shift"] + c["k1"]) * 2**14) >= 2**31:
        yield f"k0 * 2**shift + k1 = {c['k0'] * 2 ** c['shift'] + c['k1']} may wrap INT32"
    if c["out_mode"] == OutMode.INT8 and c["scale_mode"] == ScaleMode.TENSOR:
        if c["scale_m"] < 0x8000:
            yield f"scale_m {c['scale_m']} is below 32768"
        if c["scale_n"] > 47:
            yield f"scale_n {c['scale_n']} is over 47"
    if c["device_shift"]:
        yield from _device_shift(c)


def _device_shift(c: Fields) -> Iterator[str]:
    low, high = c["t_low"], c["t_high"]
    if not low <= high <= 47:
        yield f"device_shift takes t_low <= t_high <= 47, not {low} and {high}"
    elif c["chained"]:
        if c["shift"] < high - low:
            yield f"shift {c['shift']} is below t_high - t_low = {high - low}"
    elif c["out_mode"] != OutMode.INT8 or c["scale_mode"] != ScaleMode.TENSOR:
        yield "device_shift of a command that is not chained needs an INT8 result with one scale"


def _last_rows(c: Fields, config: Config) -> Iterator[tuple[str, str, int, int]]:
    """(memory, name of the region, its last row, rows of the memory). A region's last element lies in its last row."""
    W, R, C = config.banks, config.rows, config.cols

    def row(lane: int, seq: int, lanes: int, base: int, stride: int) -> int:
        return base + lane // lanes * stride + seq // W

    if c.opcode is Opcode.VECTOR:
        yield "the program", "the last instruction", c["first"] + c["count"] - 1, 64
        return
    unit_memory = _unit_memory(c)
    if unit_memory is not None:
        yield _unit_last(c, config, unit_memory)
        return
    if c.opcode is Opcode.LOAD:
        base, stride = c["base"], c["block_stride"]
        if c["target"] == LoadTarget.SCALE:
            yield "scale", "the vector", base + (c["row_bytes"] - 1) // (4 * R), config.scale_depth
            return
        on_right = c["target"] == LoadTarget.RIGHT
        memory, lanes, depth = ("right", C, config.right_depth) if on_right else ("left", R, config.left_depth)
        lane, seq = (c["rows"], c["row_bytes"]) if c["transpose"] else (c["row_bytes"], c["rows"] + c["pad_rows"])
        yield memory, "the matrix", row(lane - 1, seq - 1, lanes, base, stride), depth
        if c["target"] == LoadTarget.BOTH:
            last = row(c["row_bytes"] - 1, c["rows"] - 1, C, c["right_base"], c["right_stride"])
            yield "right", "the matrix", last, config.right_depth
        return
    if c.opcode is Opcode.STORE:
        if c["source"] == StoreSource.STATS:
            yield "stat", "the last slot", c["base"] + c["row_bytes"] // STAT_BYTES - 1, config.stat_slots
            return
        lane, seq = (c["row_bytes"], c["rows"]) if c["transpose"] else (c["rows"], c["row_bytes"])
        yield "out", "the matrix", row(lane - 1, seq - 1, R, c["base"], c["block_stride"]), config.out_depth
        return
    M, N, fold = c["m_rows"] - 1, c["n_cols"] - 1, 1 << c["fold_log2"]
    for i in "01"[: 1 + c["chained"]]:
        k = c[f"k{i}"] - 1
        yield "left", f"left operand {i}", row(M, k, R, c[f"left{i}_base"], c[f"left{i}_stride"]), config.left_depth
        yield "right", f"right operand {i}", row(N, k // fold, C // fold, c[f"right{i}_base"], c[f"right{i}_stride"]), config.right_depth
    if c["to_out"]:
        seq = 4 * N + 3 if c["out_mode"] == OutMode.INT32 else N
        yield "out", "the result", row(M, seq, R, c["out_base"], c["out_stride"]), config.out_depth
    if c["to_left"]:
        yield "left", "the result", row(M, N, R, c["result_base"], c["result_stride"]), config.left_depth
    if c["acc_read"] or c["acc_write"]:
        yield "acc", "the sums", c["acc_base"] + M // R * c["acc_stride"] + N, config.acc_depth
    if c["out_mode"] == OutMode.INT8 and c["scale_mode"]:
        yield "scale", "the vector", c["scale_base"] + (M if c["scale_mode"] == ScaleMode.ROW else N) // R, config.scale_depth
    if c["stat_enable"]:
        yield "stat", "the slot", c["stat_slot"], config.stat_slots
    if c["device_shift"]:
        yield "stat", "the exponent's slot", c["exponent_slot"], config.stat_slots


def _unit_memory(c: Fields) -> str | None:
    """The memory of the vector unit that a LOAD or STORE names."""
    if c.opcode is Opcode.LOAD and c["target"] > LoadTarget.BOTH:
        return LoadTarget(c["target"]).name
    if c.opcode is Opcode.STORE and c["source"] > StoreSource.STATS:
        return StoreSource(c["source"]).name
    return None


def _unit_last(c: Fields, config: Config, memory: str) -> tuple[str, str, int, int]:
    if memory in ("V0", "V1"):
        last = c["row_bytes"] // _ELEMENT[c["format"]] - 1
        word = last if c["broadcast"] else last // config.vector_lanes
        depth = config.v0_words if memory == "V0" else config.v1_words
        return memory, "the matrix", c["base"] + (c["rows"] - 1) * c["block_stride"] + word, depth
    unit, depth = {"PROGRAM": (8, 64), "SCALARS": (4, 32), "KEY": (8, 1)}[memory]
    return memory, "the row", c["base"] + c["row_bytes"] // unit - 1, depth
