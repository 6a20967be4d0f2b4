"""Which instructions a list's VECTORs run, and what they touch.

A VECTOR is read with the program that the same list has loaded. Of an instruction that it has not loaded, it may touch all that the
command's regions and the scalars are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from loralith.spec.commands import VECTOR_REGIONS, LoadTarget, Opcode
from loralith.spec.config import Config
from loralith.spec.vector.program import INSTRUCTION_BYTES, PROGRAM_INSTRUCTIONS, SCALARS, Format, Operand, Reduce, Source, Target
from loralith.verif.lists.drawn_places import Fields, depth_of
from loralith.verif.lists.vector_oracle import SUMS, code_of

__all__ = ["Codes", "Programs", "scalars_read", "vector_touches"]

Codes = list[Fields | None]
STREAMS = {Source.V0: "v0", Source.V1: "v1", Source.OUT32: "out"}
TARGETS = {Target.V0: "v0", Target.V1: "v1"}


class Programs:
    """The program memory as a list's commands leave it; ``data``: bytes of DRAM that programs are loaded from, by address."""

    def __init__(self, data: Mapping[int, bytes]) -> None:
        self._data = data
        self._codes: Codes = [None] * PROGRAM_INSTRUCTIONS

    def codes(self, c: Fields) -> Codes:
        """The instructions of a VECTOR, None where not known; none of another command."""
        return self._codes[c["first"] : c["first"] + c["count"]] if c["opcode"] == Opcode.VECTOR else []

    def follow(self, c: Fields) -> None:
        """What the command loads; commands must come in list order."""
        if c["opcode"] == Opcode.LOAD and c["target"] == LoadTarget.PROGRAM:
            data = self._data.get(c["address"], b"")
            for i in range(c["row_bytes"] // INSTRUCTION_BYTES):
                code = data[INSTRUCTION_BYTES * i : INSTRUCTION_BYTES * (i + 1)]
                self._codes[c["base"] + i] = code_of(code) if len(code) == INSTRUCTION_BYTES else None


def scalars_read(code: Fields) -> set[int]:
    """The scalars that an instruction depends on."""
    read = set()
    if code["x_source"] == Source.SCALAR or Operand.SCALAR in (code["a"], code["b"]):
        read.add(code["s0"])
    if Operand.SCALAR in (code["c"], code["d"]):
        read.add(code["s1"])
    if code["format"] >= Format.INT8 or code["reduce"] in SUMS:
        read.add(code["s2"])
    return read


def vector_touches(c: Fields, codes: Codes, config: Config) -> tuple[dict[str, int], dict[str, int]]:
    """(rows read, rows written) by memory, as sets of bits. An instruction with ``once`` counts as one without."""
    reads = {"program": ((1 << c["count"]) - 1) << c["first"], "key": 1}
    writes: dict[str, int] = {}

    def add(touched: dict[str, int], memory: str, rows: int) -> None:
        touched[memory] = touched.get(memory, 0) | rows

    def region(number: int, memory: str) -> int:
        return _rows(c, number, memory, config)

    for code in codes:
        if code is None:
            add(writes, "scalars", (1 << SCALARS) - 1)
            for number in range(VECTOR_REGIONS):
                add(writes, "v0", region(number, "v0"))
                add(writes, "v1", region(number, "v1"))
                add(reads, "out", region(number, "out"))
            continue
        for number in scalars_read(code):
            add(reads, "scalars", 1 << number)
        if code["target"] == Target.SCALAR or (code["reduce"] != Reduce.NONE and code["reduce_to"]):
            add(writes, "scalars", 1 << code["s3"])
        for source, number in ((code["x_source"], code["x_region"]), (code["y_source"], code["y_region"])):
            if source in STREAMS:
                memory = STREAMS[Source(source)]
                add(reads, memory, region(number, memory))
        if code["target"] in TARGETS:
            memory = TARGETS[Target(code["target"])]
            add(writes, memory, region(code["target_region"], memory))
    return reads, writes


def _rows(c: Fields, number: int, memory: str, config: Config) -> int:
    """Rows of a region that lie inside of its memory."""
    o, i = np.arange(c["outer"])[:, None], np.arange(c["inner"])[None]
    places = (c[f"region{number}_base"] + o * c[f"region{number}_outer"] + i * c[f"region{number}_inner"]) & 0xFFFF
    if memory == "out":
        places = 4 * (places // (config.rows // config.vector_lanes)) // config.bus_bytes
    bits = 0
    for place in np.unique(places[places < depth_of(memory, config)]).tolist():
        bits |= 1 << place
    return bits
