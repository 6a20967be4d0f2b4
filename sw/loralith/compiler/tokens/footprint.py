"""What a command reads and writes: rows of on-chip memories by stage, and bytes of DRAM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

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
from loralith.spec.vector.program import (
    INSTRUCTION,
    INSTRUCTION_BYTES,
    PROGRAM_INSTRUCTIONS,
    SCALARS,
    Format,
    Operand,
    Reduce,
    Source,
    Target,
)

__all__ = ["MEMORIES", "Footprint", "ProgramMemory", "Use", "footprint", "memory_rows", "scalars_read", "scalars_written"]


MEMORIES = ("left", "right", "out", "acc", "scale", "stat", "v0", "v1", "program", "scalars", "key")


def memory_rows(memory: str, config: Config) -> int:
    """Rows, words, slots or entries of an on-chip memory."""
    others = {"stat": config.stat_slots, "v0": config.v0_words, "v1": config.v1_words}
    others |= {"program": PROGRAM_INSTRUCTIONS, "scalars": SCALARS, "key": 1}
    return others[memory] if memory in others else config.depth(memory)


@dataclass(frozen=True)
class Use:
    """Rows of `memory` that a stage reads or writes: half-open `ranges`. `second`: only once the second segment may start."""

    stage: Stage
    memory: str
    write: bool
    ranges: tuple[tuple[int, int], ...]
    second: bool = False


@dataclass(frozen=True)
class Footprint:
    """Bytes of DRAM: `rows` of `row_bytes`, `stride` apart."""

    address: int
    rows: int
    row_bytes: int
    stride: int

    @property
    def past(self) -> int:
        """First byte after the last one."""
        return self.address + (self.rows - 1) * self.stride + self.row_bytes

    def overlaps(self, other: Footprint) -> bool:
        """Whether any byte is in both; true in doubt where the strides differ."""
        if self.past <= other.address or other.past <= self.address:
            return False
        stride = self.stride
        if stride != other.stride or not 0 < max(self.row_bytes, other.row_bytes) <= stride:
            return True
        offset = (other.address - self.address) % stride
        return offset < self.row_bytes or offset + other.row_bytes > stride


def _ranges(base: int, stride: int, blocks: int, rows: int) -> tuple[tuple[int, int], ...]:
    if blocks == 1 or stride == rows:
        return ((base, base + blocks * rows),)
    return tuple((base + i * stride, base + i * stride + rows) for i in range(blocks))


def footprint(command: Command, config: Config, program: ProgramMemory | None = None) -> tuple[list[Use], Footprint | None]:
    """What a legal command touches: on chip, and in DRAM. ``program``: what the program memory holds, for a VECTOR."""
    f = Fields(command)
    if command.opcode is Opcode.COMPUTE:
        return _compute(f, config), None
    if command.opcode is Opcode.VECTOR:
        return _vector(f, config, program), None
    rows, nbytes = f["rows"], f["row_bytes"]
    matrix = Footprint(f["address"], rows, bytes_in_dram(f), f["row_stride"] if rows > 1 else 0)
    base, W = f["base"], config.banks
    if command.opcode is Opcode.LOAD:
        target = LoadTarget(f["target"])
        if target in _VECTOR_TARGETS:
            return [Use(Stage.LOAD, _VECTOR_TARGETS[target], True, _transfer_words(f, _VECTOR_TARGETS[target], config))], matrix
        if target is LoadTarget.SCALE:
            return [Use(Stage.LOAD, "scale", True, ((base, base - (-nbytes // (4 * config.rows))),))], matrix
        memory, lanes = ("right", config.cols) if target is LoadTarget.RIGHT else ("left", config.rows)
        across, along = (rows, nbytes) if f["transpose"] else (nbytes, rows + f["pad_rows"])
        ranges = _ranges(base, f["block_stride"], -(-across // lanes), -(-along // W))
        uses = [Use(Stage.LOAD, memory, True, ranges)]
        if target is LoadTarget.BOTH:
            beside = _ranges(f["right_base"], f["right_stride"], -(-nbytes // config.cols), -(-rows // W))
            uses.append(Use(Stage.LOAD, "right", True, beside))
        return uses, matrix
    if f["source"] in _VECTOR_SOURCES:
        memory = _VECTOR_SOURCES[StoreSource(f["source"])]
        return [Use(Stage.STORE, memory, False, _transfer_words(f, memory, config))], matrix
    if f["source"] == StoreSource.STATS:
        return [Use(Stage.STORE, "stat", False, ((base, base + nbytes // STAT_BYTES),))], matrix
    across, along = (nbytes, rows) if f["transpose"] else (rows, nbytes)
    return [Use(Stage.STORE, "out", False, _ranges(base, f["block_stride"], -(-across // config.rows), -(-along // W)))], matrix


_VECTOR_TARGETS = {
    LoadTarget.V0: "v0",
    LoadTarget.V1: "v1",
    LoadTarget.PROGRAM: "program",
    LoadTarget.SCALARS: "scalars",
    LoadTarget.KEY: "key",
}
_VECTOR_SOURCES = {StoreSource.V0: "v0", StoreSource.V1: "v1", StoreSource.SCALARS: "scalars"}


def _transfer_words(f: Fields, memory: str, config: Config) -> tuple[tuple[int, int], ...]:
    """What a LOAD or STORE touches of a memory of the vector unit."""
    if memory not in ("v0", "v1"):
        unit = 4 if memory == "scalars" else 8
        return ((f["base"], f["base"] + f["row_bytes"] // unit),)
    elements = f["row_bytes"] // FORMAT_BYTES[VectorFormat(f["format"])]
    return _ranges(f["base"], f["block_stride"], f["rows"], elements if f["broadcast"] else -(-elements // config.vector_lanes))


class ProgramMemory:
    """Follows what a list loads into the program memory, so that it is known which regions a VECTOR reads and writes.

    Parameter: contents, bytes of DRAM by address, from which programs are loaded.
    """

    def __init__(self, contents: Mapping[int, bytes]) -> None:
        self._contents = contents
        self._codes: list[dict[str, int] | None] = [None] * PROGRAM_INSTRUCTIONS

    def follow(self, command: Command) -> None:
        """Takes in a LOAD of instructions; other commands change nothing."""
        if command.opcode is not Opcode.LOAD or command["target"] != LoadTarget.PROGRAM:
            return
        data, first = self._contents.get(command["address"], b""), command["base"]
        for i in range(command["row_bytes"] // INSTRUCTION_BYTES):
            code = data[i * INSTRUCTION_BYTES : (i + 1) * INSTRUCTION_BYTES]
            self._codes[first + i] = INSTRUCTION.unpack(code) if len(code) == INSTRUCTION_BYTES else None

    def codes(self, first: int, count: int) -> list[dict[str, int]] | None:
        """The instructions' fields; None where one is not known."""
        found = [code for code in self._codes[first : first + count] if code is not None]
        return found if len(found) == count else None


# Plain numbers, since every instruction of a long list is compared with them.
_SCALAR, _SCALAR_X = int(Operand.SCALAR), int(Source.SCALAR)
_SCALED = (int(Format.INT8), int(Format.INT8_STOCHASTIC))
_SUMS = (int(Reduce.SUM_LANE), int(Reduce.SUM_ALL))


def scalars_read(code: Mapping[str, int]) -> list[str]:
    """Names of the fields of an instruction whose scalars it reads."""
    found = []
    if code["a"] == _SCALAR or code["b"] == _SCALAR or code["x_source"] == _SCALAR_X:
        found.append("s0")
    if code["c"] == _SCALAR or code["d"] == _SCALAR:
        found.append("s1")
    if code["format"] in _SCALED or code["reduce"] in _SUMS:
        found.append("s2")
    return found


def scalars_written(code: Mapping[str, int]) -> list[str]:
    """The same of what it writes."""
    return ["s3"] if code["target"] == Target.SCALAR or (code["reduce"] and code["reduce_to"]) else []


def _vector(f: Fields, config: Config, program: ProgramMemory | None) -> list[Use]:
    """What a VECTOR touches. Of a program that is not known, each region counts in every memory where it fits, and all scalars."""
    uses = [Use(Stage.VECTOR, "program", False, ((f["first"], f["first"] + f["count"]),)), Use(Stage.VECTOR, "key", False, ((0, 1),))]
    codes = None if program is None else program.codes(f["first"], f["count"])
    regions: set[tuple[int, str, bool]] = set()
    if codes is None:
        uses.append(Use(Stage.VECTOR, "scalars", True, ((0, SCALARS),)))
        regions = {(i, memory, memory != "out") for i in range(VECTOR_REGIONS) for memory in ("v0", "v1", "out")}
    for code in codes or ():
        for stream in ("x", "y"):
            if code[f"{stream}_source"] in _SOURCES:
                regions.add((code[f"{stream}_region"], _SOURCES[code[f"{stream}_source"]], False))
        if code["target"] in (Target.V0, Target.V1):
            regions.add((code["target_region"], "v0" if code["target"] == Target.V0 else "v1", True))
        for names, write in ((scalars_read(code), False), (scalars_written(code), True)):
            uses += [Use(Stage.VECTOR, "scalars", write, ((code[name], code[name] + 1),)) for name in names]
    for i, memory, write in regions:
        ranges = tuple(_region_words(f, i, memory, config))
        if ranges:
            uses.append(Use(Stage.VECTOR, memory, write, ranges))
    return uses


_SOURCES: dict[int, str] = {Source.V0: "v0", Source.V1: "v1", Source.OUT32: "out"}


def _region_words(f: Fields, i: int, memory: str, config: Config) -> Iterator[tuple[int, int]]:
    """Ranges of a region's words; of the output buffer, its rows."""
    base, outer, inner = (f[f"region{i}_{name}"] for name in ("base", "outer", "inner"))
    depth, unit = memory_rows(memory, config), 1
    if memory == "out":
        unit = config.rows // config.vector_lanes * config.banks // 4
    # One range where the strides go up and leave no large gaps; else a range for each outer iteration.
    step = (f["inner"] - 1) * inner
    spans = (
        [(base, base + (f["outer"] - 1) * outer + step)]
        if outer <= step + 1
        else [(base + o * outer, base + o * outer + step) for o in range(f["outer"])]
    )
    for first, last in spans:
        if last < 1 << 16:
            start, stop = first // unit, min(last // unit + 1, depth)
        else:
            start, stop = 0, depth  # a negative stride, which runs around
        if start < stop:
            yield start, stop


def _compute(f: Fields, config: Config) -> list[Use]:
    W = config.banks
    fold = 1 << f["fold_log2"]
    M, N, mode = f["m_rows"], f["n_cols"], f["out_mode"]
    mt, nt = -(-M // config.rows), -(-N * fold // config.cols)
    # A chained command waits once more before its second segment, and its results cannot come before that.
    late = bool(f["chained"])
    uses = []

    def results(memory: str, write: bool, base: int, stride: int, blocks: int, rows: int) -> None:
        uses.append(Use(Stage.DONE, memory, write, _ranges(base, stride, blocks, rows), late))

    for i in range(1 + late):
        k = f[f"k{i}"]
        steps = -(-k // fold)
        left = _ranges(f[f"left{i}_base"], f[f"left{i}_stride"], mt, -(-k // W))
        right = _ranges(f[f"right{i}_base"], f[f"right{i}_stride"], nt, -(-steps // W))
        uses += [Use(Stage.READ, "left", False, left, bool(i)), Use(Stage.READ, "right", False, right, bool(i))]
    if f["device_shift"]:
        uses.append(Use(Stage.READ, "stat", False, ((f["exponent_slot"], f["exponent_slot"] + 1),), False))
    if f["to_out"]:
        results("out", True, f["out_base"], f["out_stride"], mt, -(-N * (4 if mode == OutMode.INT32 else 1) // W))
    if f["to_left"]:
        results("left", True, f["result_base"], f["result_stride"], mt, -(-N // W))
    for flag, write in (("acc_read", False), ("acc_write", True)):
        if f[flag]:
            results("acc", write, f["acc_base"], f["acc_stride"], mt, N)
    if mode == OutMode.INT8 and f["scale_mode"] != ScaleMode.TENSOR:
        words = mt if f["scale_mode"] == ScaleMode.ROW else -(-N // config.rows)
        results("scale", False, f["scale_base"], 0, 1, words)
    if f["stat_enable"]:
        results("stat", True, f["stat_slot"], 0, 1, 1)
    return uses
