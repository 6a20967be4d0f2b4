"""Where the elements of a command's operands and results lie, for the race detector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from loralith.compiler.lists.command_list import Fields, bytes_in_dram
from loralith.compiler.tokens.stages import Stage
from loralith.spec.commands import (
    FORMAT_BYTES,
    STAT_BYTES,
    VECTOR_REGIONS,
    Command,
    LoadTarget,
    Opcode,
    OutMode,
    ScaleMode,
    StoreSource,
    VectorFormat,
)
from loralith.spec.config import Config
from loralith.spec.vector.program import INSTRUCTION, PROGRAM_INSTRUCTIONS, SCALARS, Format, Operand, Reduce, Source, Target

__all__ = ["Access", "Bytes", "accesses", "dram_bytes", "rows_of", "vector_accesses"]


@dataclass(frozen=True, eq=False)
class Access:
    """Row numbers (a row twice where blocks overlap) that a stage of a command reads or writes; `second`: after its segment wait."""

    stage: Stage
    memory: str
    write: bool
    rows: np.ndarray
    second: bool = False


@dataclass(frozen=True)
class Bytes:
    """DRAM bytes first .. first + (rows - 1) * stride + width - 1, `width` of every `stride`."""

    first: int
    rows: int
    width: int
    stride: int

    @property
    def end(self) -> int:
        """First byte past the last one."""
        return self.first + (self.rows - 1) * self.stride + self.width

    def meets(self, other: Bytes) -> bool:
        """Whether a byte may be in both: exact for equal strides, by first and last byte otherwise."""
        if other.end <= self.first or self.end <= other.first:
            return False
        if self.stride != other.stride or self.width > self.stride or other.width > self.stride:
            return True
        phase, other_phase = self.first % self.stride, other.first % self.stride
        starts = {phase, phase - self.stride}, {other_phase, other_phase - self.stride}
        return any(a < b + other.width and b < a + self.width for a in starts[0] for b in starts[1])


def dram_bytes(command: Command) -> Bytes:
    """What a LOAD reads or a STORE writes."""
    stride = command["row_stride"] if command["rows"] > 1 else 0
    return Bytes(command["address"], command["rows"], bytes_in_dram(Fields(command)), stride)


def _rows(base: int, stride: int, lanes: int, seqs: int, lanes_per_word: int, seqs_per_row: int) -> np.ndarray:
    blocks = np.arange((lanes - 1) // lanes_per_word + 1)[:, None] * stride
    return (base + blocks + np.arange((seqs - 1) // seqs_per_row + 1)).reshape(-1)


def accesses(command: Command, config: Config) -> Iterator[Access]:
    """Every on-chip access of a legal command."""
    c = Fields(command)
    W, R = config.banks, config.rows
    if command.opcode in (Opcode.LOAD, Opcode.STORE):
        place = _in_vector_unit(c, config)
        if place is not None:
            stage = Stage.LOAD if command.opcode is Opcode.LOAD else Stage.STORE
            yield Access(stage, *place)
            return
    if command.opcode is Opcode.LOAD:
        if c["target"] == LoadTarget.SCALE:
            yield Access(Stage.LOAD, "scale", True, np.arange(c["base"], c["base"] + (c["row_bytes"] - 1) // (4 * R) + 1))
            return
        memory, lanes_per_word = ("right", config.cols) if c["target"] == LoadTarget.RIGHT else ("left", R)
        lanes, seqs = (c["rows"], c["row_bytes"]) if c["transpose"] else (c["row_bytes"], c["rows"] + c["pad_rows"])
        yield Access(Stage.LOAD, memory, True, _rows(c["base"], c["block_stride"], lanes, seqs, lanes_per_word, W))
        if c["target"] == LoadTarget.BOTH:
            beside = _rows(c["right_base"], c["right_stride"], c["row_bytes"], c["rows"], config.cols, W)
            yield Access(Stage.LOAD, "right", True, beside)
    elif command.opcode is Opcode.STORE:
        if c["source"] == StoreSource.STATS:
            yield Access(Stage.STORE, "stat", False, np.arange(c["base"], c["base"] + c["row_bytes"] // STAT_BYTES))
            return
        lanes, seqs = (c["row_bytes"], c["rows"]) if c["transpose"] else (c["rows"], c["row_bytes"])
        yield Access(Stage.STORE, "out", False, _rows(c["base"], c["block_stride"], lanes, seqs, R, W))
    else:
        yield from _compute(c, config)


_UNIT_MEMORIES = {(Opcode.LOAD, int(t)): t.name.lower() for t in LoadTarget if t > LoadTarget.BOTH}
_UNIT_MEMORIES |= {(Opcode.STORE, int(s)): s.name.lower() for s in StoreSource if s > StoreSource.STATS}


def rows_of(memory: str, config: Config) -> int:
    """How many rows, words, slots or entries a memory has."""
    if memory in ("v0", "v1"):
        return config.v1_words if memory == "v1" else config.v0_words
    few = {"stat": config.stat_slots, "program": PROGRAM_INSTRUCTIONS, "scalars": SCALARS, "key": 1}
    return few.get(memory) or config.depth(memory)


def _in_vector_unit(c: Fields, config: Config) -> tuple[str, bool, np.ndarray] | None:
    """(memory, whether it is written, entries) of a transfer of the vector unit's memories."""
    loads = c.opcode is Opcode.LOAD
    memory = _UNIT_MEMORIES.get((c.opcode, c["target" if loads else "source"]))
    if memory is None:
        return None
    if memory[0] == "v":
        count = c["row_bytes"] // FORMAT_BYTES[VectorFormat(c["format"])]
        words = np.arange(count) if c["broadcast"] else np.arange(count) // config.vector_lanes
        entries = (c["base"] + np.arange(c["rows"])[:, None] * c["block_stride"] + np.unique(words)).reshape(-1)
    else:
        entries = c["base"] + np.arange(c["row_bytes"] // (4 if memory == "scalars" else 8))
    return memory, loads, entries


def vector_accesses(command: Command, config: Config, codes: Sequence[bytes | None]) -> Iterator[Access]:
    """What a VECTOR touches while ``codes`` is what the program memory holds, as far as that is known."""
    c = Fields(command)
    numbers = range(c["first"], c["first"] + c["count"])
    yield Access(Stage.VECTOR, "program", False, np.array(numbers))
    yield Access(Stage.VECTOR, "key", False, np.array([0]))
    o, i = np.arange(c["outer"])[:, None], np.arange(c["inner"])[None]

    @cache
    def region(number: int, memory: str, write: bool) -> Access:
        places = (c[f"region{number}_base"] + o * c[f"region{number}_outer"] + i * c[f"region{number}_inner"]) % (1 << 16)
        if memory == "out":  # word a is in column a // (R / L), whose four bytes begin at seq 4 (a // (R / L))
            places = 4 * (places * config.vector_lanes // config.rows) // config.banks
        places = np.unique(places)
        return Access(Stage.VECTOR, memory, write, places[places < rows_of(memory, config)])

    for number in numbers:
        code = codes[number]
        if code is None:
            yield Access(Stage.VECTOR, "scalars", True, np.arange(SCALARS))
            for at in range(VECTOR_REGIONS):
                yield from (region(at, memory, memory != "out") for memory in ("v0", "v1", "out"))
            continue
        fields = INSTRUCTION.unpack(code)
        first, second = (Operand.SCALAR in pair for pair in ((fields["a"], fields["b"]), (fields["c"], fields["d"])))
        scale = fields["format"] >= Format.INT8 or fields["reduce"] in (Reduce.SUM_LANE, Reduce.SUM_ALL)
        wanted = {"s0": first or fields["x_source"] == Source.SCALAR, "s1": second, "s2": scale}
        if any(wanted.values()):
            yield Access(Stage.VECTOR, "scalars", False, np.unique([fields[name] for name, own in wanted.items() if own]))
        if fields["target"] == Target.SCALAR or (fields["reduce"] != Reduce.NONE and fields["reduce_to"]):
            yield Access(Stage.VECTOR, "scalars", True, np.array([fields["s3"]]))
        for source, at in ((fields["x_source"], fields["x_region"]), (fields["y_source"], fields["y_region"])):
            if source in (Source.V0, Source.V1, Source.OUT32):
                yield region(at, Source(source).name.lower().removesuffix("32"), False)
        if fields["target"] in (Target.V0, Target.V1):
            yield region(fields["target_region"], Target(fields["target"]).name.lower(), True)


def _compute(c: Fields, config: Config) -> Iterator[Access]:
    W, R = config.banks, config.rows
    M, N, fold = c["m_rows"], c["n_cols"], 1 << c["fold_log2"]
    chained = bool(c["chained"])
    for i in (0, 1)[: 1 + chained]:
        k = c[f"k{i}"]
        yield Access(Stage.READ, "left", False, _rows(c[f"left{i}_base"], c[f"left{i}_stride"], M, k, R, W), i == 1)
        rows = _rows(c[f"right{i}_base"], c[f"right{i}_stride"], N, (k - 1) // fold + 1, config.cols // fold, W)
        yield Access(Stage.READ, "right", False, rows, i == 1)
    if c["device_shift"]:
        # The machine reads it when all earlier commands of the queue have recorded, and before this one does.
        yield Access(Stage.DONE, "stat", False, np.array([c["exponent_slot"]]))
    if c["to_out"]:
        seqs = 4 * N if c["out_mode"] == OutMode.INT32 else N
        yield Access(Stage.DONE, "out", True, _rows(c["out_base"], c["out_stride"], M, seqs, R, W), chained)
    if c["to_left"]:
        yield Access(Stage.DONE, "left", True, _rows(c["result_base"], c["result_stride"], M, N, R, W), chained)
    for flag in ("acc_read", "acc_write"):
        if c[flag]:
            yield Access(Stage.DONE, "acc", flag == "acc_write", _rows(c["acc_base"], c["acc_stride"], M, N, R, 1), chained)
    if c["out_mode"] == OutMode.INT8 and c["scale_mode"] != ScaleMode.TENSOR:
        entries = M if c["scale_mode"] == ScaleMode.ROW else N
        yield Access(Stage.DONE, "scale", False, np.arange(c["scale_base"], c["scale_base"] + (entries - 1) // R + 1), chained)
    if c["stat_enable"]:
        yield Access(Stage.DONE, "stat", True, np.array([c["stat_slot"]]), chained)
