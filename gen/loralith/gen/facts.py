"""What several emitters say of `loralith.spec`: enumerations with their meanings, registers as 32-bit words, named limits."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from loralith.spec import commands, numerics, status
from loralith.spec.registers import REGISTERS, Access, Register
from loralith.spec.version import VERSION

__all__ = [
    "COMMAND_ENUMS",
    "LIMITS",
    "REGISTER_ENUMS",
    "STATUS_ENUMS",
    "VERSION_WORD",
    "Choice",
    "Latency",
    "Word",
    "choices",
    "latencies",
    "reset_of",
    "words",
]

VERSION_WORD = VERSION[0] << 16 | VERSION[1] << 8 | VERSION[2]
"""What the VERSION register reads."""

COMMAND_ENUMS: dict[str, type[IntEnum]] = {
    "opcode": commands.Opcode,
    "target": commands.LoadTarget,
    "source": commands.StoreSource,
    "out_mode": commands.OutMode,
    "scale_mode": commands.ScaleMode,
}
"""Fields of commands whose values have names."""

STATUS_ENUMS: dict[str, type[IntEnum]] = {"code": status.Code, "detail": status.Check, "unit": status.Unit}
REGISTER_ENUMS: dict[tuple[str, str], type[IntEnum]] = {("STATUS", name): enum for name, enum in STATUS_ENUMS.items()}
"""Bits of registers, as (register, bits), whose values have names."""

LIMITS: tuple[tuple[str, int, str], ...] = (
    ("COMMAND_BYTES", commands.COMMAND_BYTES, "bytes of a descriptor"),
    ("SEMAPHORES", commands.SEMAPHORES, "semaphores, one bit each in wait and signal"),
    ("SEMAPHORE_MAX", commands.SEMAPHORE_MAX, "tokens that a semaphore holds at most"),
    ("STAT_BYTES", commands.STAT_BYTES, "bytes of a statistics slot in DRAM: max |p| (uint64), saturations (uint32), zero (uint32)"),
    ("Q8_MAX", numerics.Q8_MAX, "largest magnitude of a quantized INT8 value"),
    ("Q4_MAX", numerics.Q4_MAX, "largest magnitude of a quantized INT4 value"),
    ("K_LIMIT", numerics.K_LIMIT, "longest exact INT32 reduction"),
    ("MANTISSA_MIN", numerics.MANTISSA_MIN, "smallest mantissa of a scale"),
    ("MANTISSA_MAX", numerics.MANTISSA_MAX, "largest mantissa of a scale"),
    ("SHIFT_MAX", numerics.SHIFT_MAX, "largest right shift of a scale"),
)
"""(name, value, meaning) of constants that a host needs."""


class Choice(NamedTuple):
    """A named value, and what it means ("" where its name says all)."""

    name: str
    value: int
    doc: str


def choices(enum: type[IntEnum]) -> list[Choice]:
    """The members in order of definition; a member's meaning is the string that stands under it in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(enum))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for member, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(member, ast.Assign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            target = member.targets[0]
            assert isinstance(target, ast.Name)
            docs[target.id] = str(after.value.value)
    return [Choice(member.name, int(member), docs.get(member.name, "")) for member in enum]


class Latency(NamedTuple):
    """A named number of cycles of the RTL, and from what to what it counts."""

    name: str
    cycles: int
    doc: str


def latencies() -> list[Latency]:
    """From the attributes of the RTL's blocks, which their tests measure. A semaphore's grant takes a cycle more."""
    return _bus_latencies() + _compute_latencies() + _vector_latencies()


def _bus_latencies() -> list[Latency]:
    from loralith.rtl.block_queue import CommandQueue
    from loralith.rtl.bursts import BurstSplitter
    from loralith.rtl.fetch import Fetch
    from loralith.rtl.load import LoadUnit
    from loralith.rtl.load_data import LoadData
    from loralith.rtl.memories import OperandMemory
    from loralith.rtl.queue import SkidBuffer
    from loralith.rtl.store import StoreUnit
    from loralith.rtl.transfer_check import TransferCheck

    grant = 1
    assert LoadUnit.max_in_flight == StoreUnit.max_in_flight
    return [
        Latency("FETCH_AHEAD", Fetch.max_prefetched, "Descriptors that the fetch requests before the queues take them."),
        Latency("QUEUE_LATENCY", SkidBuffer.delay + CommandQueue.delay, "From a descriptor's last word out of the fetch to its unit."),
        Latency("CHECK_LATENCY", TransferCheck.delay, "From a transfer taken from its queue to the end of its check."),
        Latency("CHECK_BOTH_LATENCY", TransferCheck.both_delay, "The same of a load into both scratchpads, which has two regions."),
        Latency("BURST_SPLIT_LATENCY", BurstSplitter.delay, "From a transfer's tokens taken to its bursts being prepared."),
        Latency("LOAD_DONE_LATENCY", LoadData.done_delay + OperandMemory.write_delay + grant, "From a load's last write to its tokens."),
        Latency("TRANSFERS_IN_FLIGHT", LoadUnit.max_in_flight, "Of each transfer unit."),
    ]


def _compute_latencies() -> list[Latency]:
    from loralith.rtl.array import ProcessingArray
    from loralith.rtl.decode import ComputeDecoder
    from loralith.rtl.drain import Drain
    from loralith.rtl.operands import OperandPath
    from loralith.rtl.results import Results
    from loralith.rtl.sequencer import Sequencer

    grant, rows = 1, 8
    capture = OperandPath.delay - 1 + ProcessingArray.accumulate_delay + 1
    pipeline = capture + Drain.delay + Results.completion_delay_of(rows)
    return [
        Latency(
            "DECODE_LATENCY",
            ComputeDecoder.check_delay + grant,
            "From a command taken from its queue to its tokens taken, if they are there.",
        ),
        Latency("START_LATENCY", ComputeDecoder.offer_delay + Sequencer.start_delay, "From a command's tokens taken to its first step."),
        Latency("READ_DONE_LATENCY", Sequencer.read_delay + grant, "From a command's last step to its read tokens."),
        Latency("TILE_INTERVAL", Sequencer.least_spacing, "Least cycles between the last steps of two tiles."),
        Latency(
            "PIPELINE_LATENCY", pipeline, f"From a command's last step to its tokens, less the columns of its last tile; of {rows} rows."
        ),
    ]


def _vector_latencies() -> list[Latency]:
    from loralith.rtl.memories import OutputMemory
    from loralith.rtl.queue import FIFO
    from loralith.rtl.vector.hazards import VectorHazards
    from loralith.rtl.vector.lane import LaneTiming
    from loralith.rtl.vector.lane_group import LaneGroup
    from loralith.rtl.vector.reduction import ReductionReader
    from loralith.rtl.vector.set_up import VectorSetUp

    integer = VectorSetUp.fetch_delay + 1 + OutputMemory.delay + FIFO.delay  # a cycle to the request, which no earlier one holds up
    return [
        Latency("VECTOR_SET_UP", VectorSetUp.delay, "From the start of an instruction of a VECTOR to that of the next one, at least."),
        Latency("VECTOR_ITERATION", VectorSetUp.delay_iteration - VectorSetUp.delay, "More, to the first one of an outer iteration."),
        Latency("VECTOR_SCALAR_READ", VectorSetUp.scalar_delay, "From a start to the read of the next instruction's scalars, at least."),
        Latency("VECTOR_INTEGERS", integer - VectorSetUp.delay - 1, "More than the set-up, until the first word of OUT32 is there."),
        Latency("VECTOR_GAP", LaneTiming.gap, "From an instruction's last element to the next one's first, at least."),
        Latency(
            "VECTOR_MEMORY_LATENCY", VectorHazards.memory_latency, "From an element to the first one that reads what it writes in V0 or V1."
        ),
        Latency("VECTOR_LANE_REGISTER_LATENCY", VectorHazards.lane_register_latency, "Likewise of a lane register."),
        Latency("VECTOR_SCALAR_LATENCY", VectorHazards.scalar_latency, "From an element to the first read of the scalar that it writes."),
        Latency("VECTOR_DRAIN", LaneGroup.delay + 1, "From the last element to its reduction, or to a cycle before the end."),
        Latency("VECTOR_REDUCTION", ReductionReader.delay, "From the beginning of a reduction to the first lane's word."),
    ]


def reset_of(register: Register) -> int | None:
    """What the register reads after reset; None where that follows from the configuration."""
    if register.name == "CONFIG_HASH":
        return None
    return VERSION_WORD if register.name == "VERSION" else register.reset


@dataclass(frozen=True)
class Word:
    """32 bits at an offset: a register, or one half of a 64-bit one."""

    name: str
    offset: int
    register: Register
    high: bool = False

    @property
    def reset(self) -> int | None:
        value = reset_of(self.register)
        return value if value is None else value >> (32 * self.high) & 0xFFFF_FFFF

    @property
    def access(self) -> Access:
        return self.register.access


def words() -> list[Word]:
    """All words of the register map in order of offset; halves of 64-bit registers are named `<register>_LOW` and `<register>_HIGH`."""
    found = []
    for r in sorted(REGISTERS.values(), key=lambda r: r.offset):
        if r.width == 64:
            found += [Word(f"{r.name}_LOW", r.offset, r), Word(f"{r.name}_HIGH", r.offset + 4, r, high=True)]
        else:
            found.append(Word(r.name, r.offset, r))
    return found
