"""Signatures between the blocks, and the layouts of their payloads."""

from amaranth.hdl import unsigned
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Member, Out, Signature

from loralith.spec.commands import COMMAND_BYTES, COMPUTE, SEMAPHORES
from loralith.spec.config import Config
from loralith.spec.fields import Record
from loralith.spec.vector.numbers import WORD_BITS
from loralith.spec.vector.program import INSTRUCTION_BYTES, PROGRAM_INSTRUCTIONS, SCALARS

__all__ = [
    "INDEX_BITS",
    "ROW_BITS",
    "CommandEntry",
    "FaultSignature",
    "IntegerReadSignature",
    "KeyWriteSignature",
    "OperandWrite",
    "OutReadSignature",
    "ProgramWriteSignature",
    "ScalarReadSignature",
    "ScalarWrite",
    "ScaleWrite",
    "SignalSignature",
    "StatReadSignature",
    "UnitControl",
    "VectorReadDataSignature",
    "VectorRead",
    "VectorWrite",
    "WaitSignature",
    "compute_ports",
    "record_layout",
    "vector_ports",
]

INDEX_BITS = 32

ROW_BITS = COMPUTE.fields["left0_base"].width
"""Of a row of an on-chip memory, as commands name it."""


def record_layout(record: Record) -> data.FlexibleLayout:
    """The command record's fields as an Amaranth layout of the record's full size."""
    return data.FlexibleLayout(8 * record.size, {f.name: data.Field(unsigned(f.width), f.offset) for f in record.fields.values()})


class CommandEntry(data.Struct):
    """A fetched command in its queue: raw descriptor bits and its index in the list."""

    bits: unsigned(8 * COMMAND_BYTES)
    index: unsigned(INDEX_BITS)


UnitControl = Signature(
    {
        # High from a fault or abort on: start nothing new, finish outstanding bus work, take responses in.
        "stop": Out(1),
        # One-cycle pulse at a doorbell while everything is idle: reset all state but the contents of memories.
        "clear": Out(1),
        # The unit has work in progress: a command taken from its queue and not complete, or outstanding responses.
        "busy": In(1),
        # One-cycle pulse per completed command, and one whenever the unit moves (for the watchdog).
        "complete": In(1),
        "progress": In(1),
    }
)
"""Controller's view. A unit embeds it as ``In(UnitControl)``."""

FaultSignature = Signature({"valid": Out(1), "code": Out(8), "detail": Out(8), "command": Out(32), "address": Out(64)})
"""``valid`` is held, payload stable, from the fault until ``clear``."""

WaitSignature = Signature({"valid": Out(1), "mask": Out(SEMAPHORES), "ready": In(1)})
"""Take one token of each semaphore in ``mask``: done in the cycle with valid and ready; an empty mask is granted as well."""

SignalSignature = Signature({"valid": Out(1), "mask": Out(SEMAPHORES), "ready": In(1)})
"""Give one token to each semaphore in ``mask``: done in the cycle with valid and ready."""


class OperandWrite(data.StructLayout):
    """One write into the left or right scratchpad: bank b, lane l is written if bank_mask[b] and lane_mask[l].

    The byte is ``seq[b]`` when ``transpose`` else ``word[l]``. One bank is written, or, transposed, one lane; the right scratchpad's
    ``word`` repeats itself after W lanes (see ``OperandMemory``). Members: right (1: right scratchpad), row, bank_mask [W],
    lane_mask [max(R, C)], transpose, seq [W bytes], word [max(R, C) bytes]; both: this goes to the left one, and ``word`` to row
    right_row of the right one, right_bank_mask and right_lane_mask [C].
    """

    def __init__(self, config: Config) -> None:
        lanes = max(config.rows, config.cols)
        super().__init__(
            {
                "right": 1,
                "row": ROW_BITS,
                "transpose": 1,
                "bank_mask": config.banks,
                "lane_mask": lanes,
                "seq": data.ArrayLayout(8, config.banks),
                "word": data.ArrayLayout(8, lanes),
                "both": 1,
                "right_row": ROW_BITS,
                "right_bank_mask": config.banks,
                "right_lane_mask": config.cols,
            }
        )


class ScaleWrite(data.StructLayout):
    """One beat into the scale memory: bytes group * W .. group * W + W - 1 of word ``row`` (4R bytes)."""

    def __init__(self, config: Config) -> None:
        super().__init__({"row": ROW_BITS, "group": 8, "data": data.ArrayLayout(8, config.bus_bytes)})


class OutReadSignature(Signature):
    """Read port of the output buffer. ``word`` and ``lane_data`` are valid ``OutputMemory.delay`` cycles after ``en``.

    Members: en, row, lane (which lane to pick from every bank), bank (which bank's word), lane_data [W bytes: seq
    row*W .. row*W+W-1 of that lane], word [R bytes: all lanes of that bank].
    """

    def __init__(self, config: Config) -> None:
        super().__init__(
            {
                "en": Out(1),
                "row": Out(ROW_BITS),
                "lane": Out(8),
                "bank": Out(8),
                "lane_data": In(data.ArrayLayout(8, config.bus_bytes)),
                "word": In(data.ArrayLayout(8, config.rows)),
            }
        )


class IntegerReadSignature(Signature):
    """INT32 words of the output buffer, as docs/machine.md, VECTOR, numbers them; STORE's reads go first.

    Members: request: a word's number, modulo their number; valid: ``data``, the lanes of a word, is there, ``OutputMemory.delay`` cycles
        later.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(
            {"request": Out(stream.Signature(ROW_BITS)), "valid": In(1), "data": In(data.ArrayLayout(32, config.vector_lanes))}
        )


StatReadSignature = Signature({"en": Out(1), "slot": Out(8), "data": In(128)})
"""Read port of the statistics: ``data`` (16 bytes as in DRAM) is valid ``Statistics.delay`` (1) cycle after ``en``."""


def compute_ports(config: Config) -> dict[str, Member]:
    """What joins the bus side and the compute unit, as the bus side sees it.

    commands: COMPUTE commands, out of their queue.
    compute, compute_fault: the compute unit's control and fault. While ``stop`` its ``busy`` must fall by itself.
    compute_wait, segment_wait: tokens that it takes, for a command and for a second segment.
    compute_read, compute_done: tokens that it gives, for operands that were read and for results.
    operand: loads into the scratchpads; not ready in a cycle in which a result goes to the left one. scale: loads into the scale memory;
        always ready.
    out_read, stat_read: the store unit's reads; never stalled, as the vector unit's of the output buffer give way.
    step: the array takes a step with operands in this cycle. drain_busy: work is in the pipeline or waits for tokens.
    macs, saturations: to be added to the counters in this cycle.
    """
    return {
        "commands": Out(stream.Signature(CommandEntry)),
        "compute": Out(UnitControl),
        "compute_fault": In(FaultSignature),
        "compute_wait": In(WaitSignature),
        "segment_wait": In(WaitSignature),
        "compute_read": In(SignalSignature),
        "compute_done": In(SignalSignature),
        "operand": Out(stream.Signature(OperandWrite(config))),
        "scale": Out(stream.Signature(ScaleWrite(config))),
        "out_read": Out(OutReadSignature(config)),
        "stat_read": Out(StatReadSignature),
        "step": In(1),
        "drain_busy": In(1),
        "macs": In(20),
        "saturations": In(8),
    }


VectorRead = data.StructLayout({"memory": 1, "address": ROW_BITS})
"""A word of a vector scratchpad: memory 0 is V0, 1 is V1."""


class VectorWrite(data.StructLayout):
    """A word into a vector scratchpad: ``memory`` and ``address`` as of ``VectorRead``; data: lane i in bits i * WORD_BITS and up."""

    def __init__(self, config: Config) -> None:
        super().__init__({"memory": 1, "address": ROW_BITS, "data": config.vector_lanes * WORD_BITS})


class VectorReadDataSignature(Signature):
    """``data``, the lanes of a word as in ``VectorWrite``, is valid with ``valid``; there is no ready."""

    def __init__(self, config: Config) -> None:
        super().__init__({"valid": Out(1), "data": Out(config.vector_lanes * WORD_BITS)})


ScalarWrite = data.StructLayout({"address": range(SCALARS), "data": WORD_BITS})

ScalarReadSignature = Signature({"address": Out(range(SCALARS)), "data": In(WORD_BITS)})
"""Read port of the scalars: ``data`` is that of ``address`` a cycle earlier."""

ProgramWriteSignature = Signature({"en": Out(1), "address": Out(range(PROGRAM_INSTRUCTIONS * INSTRUCTION_BYTES // 4)), "data": Out(32)})
"""Half an instruction; address 2i is the low half of instruction i, 2i + 1 its high half."""

KeyWriteSignature = Signature({"en": Out(1), "which": Out(1), "data": Out(32)})
"""Word ``which`` of the loaded hash key."""


def vector_ports(config: Config) -> dict[str, Member]:
    """What joins the bus side and the vector unit, as the bus side sees it; nothing without vector lanes.

    vector_commands: VECTOR commands, out of their queue.
    vector, vector_fault: the unit's control and fault. vector_wait, vector_done: tokens that it takes and gives.
    vector_active: it runs a command. vector_saturations: INT8 results that were clipped in this cycle.
    vector_load: LOAD's words for V0 and V1; not ready in a cycle in which the unit writes that memory.
    program_write, key_write: LOAD's, always taken. scalar_write: not ready in a cycle in which the unit writes a scalar.
    vector_store: words of V0 and V1 that STORE wants; not ready in a cycle in which the unit reads that memory. vector_stored: they, in
        the order in which they were requested, ``VectorSide.store_delay`` cycles later.
    scalar_read: STORE's.
    """
    if not config.vector_lanes:
        return {}
    return {
        "vector_commands": Out(stream.Signature(CommandEntry)),
        "vector": Out(UnitControl),
        "vector_fault": In(FaultSignature),
        "vector_wait": In(WaitSignature),
        "vector_done": In(SignalSignature),
        "vector_active": In(1),
        "vector_saturations": In(8),
        "vector_load": Out(stream.Signature(VectorWrite(config))),
        "program_write": Out(ProgramWriteSignature),
        "scalar_write": Out(stream.Signature(ScalarWrite)),
        "key_write": Out(KeyWriteSignature),
        "vector_store": Out(stream.Signature(VectorRead)),
        "vector_stored": In(VectorReadDataSignature(config)),
        "scalar_read": Out(ScalarReadSignature),
    }
