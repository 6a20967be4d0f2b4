"""Cycles that a command takes its unit for, those of the vector unit and of its memories to the last one: for the cycle model and for
estimates of whole steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loralith.compiler.latencies import PIPELINE_LATENCY, TILE_INTERVAL
from loralith.compiler.lists.command_list import Fields
from loralith.spec.commands import FORMAT_BYTES, LoadTarget, Opcode, StoreSource, VectorFormat
from loralith.spec.config import Config

__all__ = ["command_cycles", "row_cycles", "vector_cycles", "vector_memory"]

VECTOR_COMMAND = 2
"""Cycles of a VECTOR beside its outer iterations."""
VECTOR_OUTER = 4
"""Of an outer iteration beside its instructions."""
VECTOR_INSTRUCTION = 57
"""Of an instruction beside its words: docs/vector_unit.md."""
VECTOR_REDUCTION = 6
"""Of a reduction beside its lanes."""


def row_cycles(c: Fields, config: Config) -> int:
    """Cycles that a row of a LOAD or STORE of the vector unit's memories takes there: one a bus word at least, and one for each part of a
    bus word that goes to a word of its own."""
    beats, lanes = -(-c["row_bytes"] // config.bus_bytes), config.vector_lanes
    load = c.opcode == Opcode.LOAD
    if (c["target"] if load else c["source"]) not in ((LoadTarget.V0, LoadTarget.V1) if load else (StoreSource.V0, StoreSource.V1)):
        return max(beats, c["row_bytes"] // 4)
    size = FORMAT_BYTES[VectorFormat(c["format"])]
    group = 1 if c["broadcast"] else min(lanes, config.bus_bytes // size) if load else lanes
    return max(beats, -(-(c["row_bytes"] // size) // group))


def vector_cycles(c: Fields, codes: Sequence[Mapping[str, int]], config: Config) -> int:
    """Cycles in which the vector unit runs a VECTOR with the instructions ``codes``, as its counter has them while no integer is late."""
    each = VECTOR_OUTER
    reductions = 0
    for code in codes:
        each += VECTOR_INSTRUCTION + (1 if code["once"] else c["inner"])
        if code["reduce"]:
            reductions += 1 if code["over_outer"] else c["outer"]
    return VECTOR_COMMAND + c["outer"] * each + reductions * (VECTOR_REDUCTION + config.vector_lanes)


def vector_memory(c: Fields) -> bool:
    """Whether a LOAD or STORE moves words of V0 or V1."""
    if c.opcode is Opcode.LOAD:
        return c["target"] in (LoadTarget.V0, LoadTarget.V1)
    return c["source"] in (StoreSource.V0, StoreSource.V1)


def command_cycles(c: Fields, codes: Sequence[Mapping[str, int]], config: Config) -> int:
    """Cycles that a command's unit works for it, about; ``codes``: the instructions of a VECTOR."""
    if c.opcode is Opcode.VECTOR:
        return vector_cycles(c, codes, config)
    if c.opcode is Opcode.COMPUTE:
        width = config.cols >> c["fold_log2"]
        tiles = -(-c["m_rows"] // config.rows) * -(-c["n_cols"] // width)
        return tiles * max(-(-(c["k0"] + c["k1"]) >> c["fold_log2"]), min(width, c["n_cols"]), TILE_INTERVAL) + PIPELINE_LATENCY
    if vector_memory(c):
        return c["rows"] * row_cycles(c, config)
    return c["rows"] * -(-c["row_bytes"] // config.bus_bytes)
