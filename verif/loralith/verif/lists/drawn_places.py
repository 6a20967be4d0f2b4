"""Where the elements of a command's regions lie: [row, bank, lane] of a scratchpad, word by word of the other memories.

A command is a dict of all its fields, `opcode` included, as `fields_of` makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from loralith.spec.commands import COMMANDS, FORMAT_BYTES, LoadTarget, Opcode, StoreSource, VectorFormat
from loralith.spec.config import Config
from loralith.spec.vector.program import INSTRUCTION_BYTES, PROGRAM_INSTRUCTIONS, SCALARS

__all__ = [
    "Fields",
    "Region",
    "ceil_div",
    "compute_regions",
    "depth_of",
    "elements",
    "fields_of",
    "load_regions",
    "pack",
    "store_regions",
]

Fields = dict[str, int]


def fields_of(opcode: Opcode, **values: int) -> Fields:
    """All fields of a command, those left out as zero. Raises FieldError for a field or value that there is not."""
    COMMANDS[opcode].pack(values)
    return {**dict.fromkeys(COMMANDS[opcode].fields, 0), **values, "opcode": int(opcode)}


def pack(command: Mapping[str, int]) -> bytes:
    """The descriptor's 128 bytes."""
    return COMMANDS[Opcode(command["opcode"])].pack(command)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


class Region(NamedTuple):
    """``blocks`` stretches of ``rows`` memory rows, the first at ``base``, each ``stride`` after the one before.

    ``memory`` is left, right, out, acc, scale or stat, or v0, v1, program, scalars or key; ``role`` is the name of the check that watches
    over it.
    """

    memory: str
    role: str
    base: int
    blocks: int
    stride: int
    rows: int

    @property
    def end(self) -> int:
        return self.base + (self.blocks - 1) * self.stride + self.rows


def elements(
    base: int, stride: int, lane: np.ndarray, seq: np.ndarray, lanes: int, banks: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Memory row, bank and lane of the elements (lane index, seq index): broadcast arrays."""
    return base + lane // lanes * stride + seq // banks, seq % banks, lane % lanes


def depth_of(memory: str, config: Config) -> int:
    """Rows, words, slots or entries of a memory."""
    few = {"stat": config.stat_slots, "program": PROGRAM_INSTRUCTIONS, "scalars": SCALARS, "key": 1}
    few |= {"v0": config.v0_words, "v1": config.v1_words}
    return few[memory] if memory in few else config.depth(memory)


def _vector_region(name: str, c: Fields, config: Config) -> Region:
    """Of a LOAD or STORE of a memory of the vector unit."""
    if name in ("V0", "V1"):
        count = c["row_bytes"] // FORMAT_BYTES[VectorFormat(c["format"])]
        words = count if c["broadcast"] else ceil_div(count, config.vector_lanes)
        return Region(name.lower(), name, c["base"], c["rows"], c["block_stride"], words)
    size = 4 if name == "SCALARS" else INSTRUCTION_BYTES
    return Region(name.lower(), "PROGRAM" if name == "PROGRAM" else "SCALAR", c["base"], 1, 0, c["row_bytes"] // size)


def load_regions(c: Fields, config: Config) -> list[Region]:
    """What a LOAD writes, in the order of its checks."""
    R, C, W = config.rows, config.cols, config.bus_bytes
    target, rows, row_bytes = c["target"], c["rows"], c["row_bytes"]
    if target > LoadTarget.BOTH:
        return [_vector_region(LoadTarget(target).name, c, config)]
    if target == 2:
        return [Region("scale", "SCALE", c["base"], 1, 0, ceil_div(row_bytes, 4 * R))]
    natural = ceil_div(rows + c["pad_rows"], W)
    if target == 3:
        return [
            Region("left", "LEFT", c["base"], ceil_div(rows, R), c["block_stride"], ceil_div(row_bytes, W)),
            Region("right", "RIGHT", c["right_base"], ceil_div(row_bytes, C), c["right_stride"], natural),
        ]
    memory, role, lanes = ("right", "RIGHT", C) if target else ("left", "LEFT", R)
    if c["transpose"]:
        return [Region(memory, role, c["base"], ceil_div(rows, lanes), c["block_stride"], ceil_div(row_bytes, W))]
    return [Region(memory, role, c["base"], ceil_div(row_bytes, lanes), c["block_stride"], natural)]


def compute_regions(c: Fields, config: Config) -> tuple[list[Region], list[Region]]:
    """What a COMPUTE reads and what it writes; a slot or accumulator words that it does both with stand in both."""
    R, W, fold = config.rows, config.bus_bytes, 1 << c["fold_log2"]
    M, N = c["m_rows"], c["n_cols"]
    mt, nt = ceil_div(M, R), ceil_div(N, config.cols // fold)
    reads, writes = [], []
    for i in range(1 + c["chained"]):
        k, suffix = c[f"k{i}"], "2" * i
        steps = ceil_div(k, fold)
        reads.append(Region("left", f"LEFT{suffix}", c[f"left{i}_base"], mt, c[f"left{i}_stride"], ceil_div(k, W)))
        reads.append(Region("right", f"RIGHT{suffix}", c[f"right{i}_base"], nt, c[f"right{i}_stride"], ceil_div(steps, W)))
    if c["to_out"]:
        width = 4 if c["out_mode"] == 2 else 1
        writes.append(Region("out", "OUT", c["out_base"], mt, c["out_stride"], ceil_div(N * width, W)))
    if c["to_left"]:
        writes.append(Region("left", "LEFT_RESULT", c["result_base"], mt, c["result_stride"], ceil_div(N, W)))
    acc = Region("acc", "ACC", c["acc_base"], mt, c["acc_stride"], N)
    reads += [acc] * c["acc_read"]
    writes += [acc] * c["acc_write"]
    if c["out_mode"] == 1 and c["scale_mode"]:
        reads.append(Region("scale", "SCALE", c["scale_base"], 1, 0, mt if c["scale_mode"] == 1 else ceil_div(N, R)))
    if c["stat_enable"]:
        slot = Region("stat", "STAT", c["stat_slot"], 1, 0, 1)
        reads.append(slot)
        writes.append(slot)
    if c["device_shift"]:
        reads.append(Region("stat", "STAT", c["exponent_slot"], 1, 0, 1))
    return reads, writes


def store_regions(c: Fields, config: Config) -> list[Region]:
    """What a STORE reads on chip."""
    R, W = config.rows, config.bus_bytes
    rows, row_bytes = c["rows"], c["row_bytes"]
    if c["source"] == 1:
        return [Region("stat", "STAT", c["base"], 1, 0, row_bytes // 16)]
    if c["source"] > StoreSource.STATS:
        return [_vector_region(StoreSource(c["source"]).name, c, config)]
    lanes, seq = (row_bytes, rows) if c["transpose"] else (rows, row_bytes)
    return [Region("out", "OUT", c["base"], ceil_div(lanes, R), c["block_stride"], ceil_div(seq, W))]
