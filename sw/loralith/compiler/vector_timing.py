"""Cycles that a command takes its unit for, those of the vector unit and of its memories to the last one: for the cycle model and for
estimates of whole steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from loralith.compiler.latencies import (
    PIPELINE_LATENCY,
    TILE_INTERVAL,
    VECTOR_DRAIN,
    VECTOR_GAP,
    VECTOR_INTEGERS,
    VECTOR_ITERATION,
    VECTOR_LANE_REGISTER_LATENCY,
    VECTOR_MEMORY_LATENCY,
    VECTOR_REDUCTION,
    VECTOR_SCALAR_LATENCY,
    VECTOR_SCALAR_READ,
    VECTOR_SET_UP,
)
from loralith.compiler.lists.command_list import Fields
from loralith.spec.commands import FORMAT_BYTES, LoadTarget, Opcode, StoreSource, VectorFormat
from loralith.spec.config import Config
from loralith.spec.vector.program import REGIONS, Operand, Source, Target

__all__ = ["command_cycles", "row_cycles", "vector_cycles", "vector_memory"]

_V0, _V1, _OUT32 = int(Source.V0), int(Source.V1), int(Source.OUT32)
_SCRATCHPADS, _LANE, _SCALAR = (int(Target.V0), int(Target.V1)), int(Target.LANE), int(Target.SCALAR)
_FIRST_REGISTER = int(Operand.L0)


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


VECTOR_END = 1
"""Cycles of a VECTOR after its last word is written and its reductions done."""


@dataclass(frozen=True)
class _Instruction:
    """What counts of an instruction: ``words`` it takes; ``reads``: the region of each vector scratchpad that it reads, or None."""

    words: int
    reads: tuple[int | None, int | None]
    integers: bool
    registers: bool
    target: int
    region: int
    reduces: bool
    over_outer: bool
    to_scalar: bool

    @classmethod
    def of(cls, code: Mapping[str, int], inner: int) -> _Instruction:
        sources = {code["y_source"]: code["y_region"], code["x_source"]: code["x_region"]}
        return cls(
            words=1 if code["once"] else inner,
            reads=(sources.get(_V0), sources.get(_V1)),
            integers=code["x_source"] == _OUT32,
            registers=any(code[name] >= _FIRST_REGISTER for name in "abcd"),
            target=code["target"],
            region=code["target_region"],
            reduces=bool(code["reduce"]),
            over_outer=bool(code["over_outer"]),
            to_scalar=bool(code["reduce_to"]),
        )


class _Unit:
    """The vector unit's progress: cycles since it has taken the command.

    Attributes: ``start``: the latest instruction has started, its first element follows in the next cycle; ``first``: for each vector
    scratchpad that of the first element of the latest instruction that writes it, and ``last`` of the last one; ``free``, ``registers``,
    ``scalars``: the next instruction may start, one that reads lane registers may, scalars can be read; ``end``: the last word is written.
    """

    def __init__(self, moves: tuple[bool, ...], lanes: int) -> None:
        self.moves, self.lanes = moves, lanes
        self.start = self.free = self.registers = self.scalars = self.end = 0
        self.first, self.last = [-VECTOR_MEMORY_LATENCY] * 2, [-VECTOR_MEMORY_LATENCY] * 2
        self.in_order: list[int | None] = [None, None]  # region that the latest writer writes, while that has the iteration's addresses

    def iteration(self, instructions: Sequence[_Instruction], last_outer: bool) -> None:
        more = VECTOR_ITERATION
        self.in_order = [None, None]
        for instruction in instructions:
            self.run(instruction, more, instruction.reduces and (last_outer or not instruction.over_outer))
            more = 0

    def run(self, instruction: _Instruction, more: int, reduces: bool) -> None:
        scalars = max(self.start + more + VECTOR_SCALAR_READ, self.scalars)
        ready = scalars + VECTOR_SET_UP - VECTOR_SCALAR_READ
        start = max(ready, self.free)
        for memory, region in enumerate(instruction.reads):
            if region is not None:
                same = region == self.in_order[memory] and self.moves[region]
                start = max(start, (self.first if same else self.last)[memory] + VECTOR_MEMORY_LATENCY - 1)
        if instruction.registers:
            start = max(start, self.registers)
        first = max(start, ready + instruction.integers * VECTOR_INTEGERS) + 1
        last = first + instruction.words - 1
        self.start, self.free, self.end = start, last + VECTOR_GAP - 1, last + VECTOR_DRAIN
        if instruction.target in _SCRATCHPADS:
            memory = _SCRATCHPADS.index(instruction.target)
            self.first[memory], self.last[memory], self.in_order[memory] = first, last, instruction.region
        elif instruction.target == _LANE:
            self.registers = last + VECTOR_LANE_REGISTER_LATENCY - 1
        elif instruction.target == _SCALAR:
            self.scalars = last + VECTOR_SCALAR_LATENCY
        if reduces:
            self.free = self.end = last + VECTOR_DRAIN + VECTOR_REDUCTION + self.lanes
            if instruction.to_scalar:
                self.scalars = self.free

    def pending(self) -> tuple[int, ...]:
        """What the next iteration's time depends on, from the latest start on."""
        times = (self.free, self.registers, self.scalars, *(time + VECTOR_MEMORY_LATENCY for time in self.last))
        return tuple(max(time - self.start, 0) for time in times)

    def skip(self, cycles: int) -> None:
        """So much later."""
        for name in ("start", "free", "registers", "scalars", "end"):
            setattr(self, name, getattr(self, name) + cycles)
        self.last = [time + cycles for time in self.last]


@lru_cache(maxsize=4096)
def _cycles(instructions: tuple[_Instruction, ...], moves: tuple[bool, ...], outer: int, lanes: int) -> int:
    unit, done = _Unit(moves, lanes), 0
    while done < outer:
        before, began = unit.pending(), unit.start
        unit.iteration(instructions, done == outer - 1)
        done += 1
        # As soon as one iteration leaves what it has found, all but the last one are as it is.
        if unit.pending() == before and done < outer - 1:
            unit.skip((unit.start - began) * (outer - 1 - done))
            done = outer - 1
    return unit.end + VECTOR_END + 1


def vector_cycles(c: Fields, codes: Sequence[Mapping[str, int]], config: Config) -> int:
    """Cycles in which the vector unit runs a VECTOR with the instructions ``codes``, as its counter has them while no integer is late: the
    rules of docs/vector_unit.md, Hazards."""
    instructions = tuple(_Instruction.of(code, c["inner"]) for code in codes)
    moves = tuple(c[f"region{region}_inner"] != 0 for region in range(REGIONS))
    return _cycles(instructions, moves, c["outer"], config.vector_lanes)


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
