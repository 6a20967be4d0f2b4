"""The command set: four fixed-size descriptors, read from DRAM, one queue each.

Words used below: *lane* is the position in a scratchpad word (a row of the left operand, a column of the right one, a
row of the output); *seq* is the other dimension (the reduction index of an operand, the output's column). All three
scratchpads store element (lane index a, seq index s) at

    bank s % banks,  row base + (a // lanes) * stride + s // banks,  byte a % lanes

with ``lanes`` = rows R for left and out, columns C for right, and ``banks`` = bus_bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from .fields import Field, FieldError, Record

__all__ = [
    "COMMANDS",
    "COMMAND_BYTES",
    "COMPUTE",
    "FORMAT_BYTES",
    "LOAD",
    "SEMAPHORES",
    "SEMAPHORE_MAX",
    "STAT_BYTES",
    "STORE",
    "VECTOR",
    "VECTOR_REGIONS",
    "Command",
    "LoadTarget",
    "Opcode",
    "OutMode",
    "ScaleMode",
    "StoreSource",
]

COMMAND_BYTES = 128
SEMAPHORES = 16
SEMAPHORE_MAX = 15
"""A signal to a semaphore that holds this many tokens waits until one is taken."""
VECTOR_REGIONS = 4
"""Regions on chip that a VECTOR command describes."""
STAT_BYTES = 16
"""A slot in DRAM: max |p| (uint64), saturations (uint32), zero (uint32)."""


class Opcode(IntEnum):
    LOAD = 1
    COMPUTE = 2
    STORE = 3
    VECTOR = 4
    """Of a configuration with vector lanes; otherwise the opcode is unknown."""


class LoadTarget(IntEnum):
    LEFT = 0
    RIGHT = 1
    SCALE = 2
    BOTH = 3
    """Left, transposed, and right, natural, from one pass over the bus."""
    V0 = 4
    V1 = 5
    PROGRAM = 6
    SCALARS = 7
    KEY = 8


class StoreSource(IntEnum):
    OUT = 0
    STATS = 1
    V0 = 2
    V1 = 3
    SCALARS = 4


class VectorFormat(IntEnum):
    """What lies in DRAM for the words of a vector scratchpad."""

    FP32 = 0
    BF16 = 1
    INT8 = 2


FORMAT_BYTES = {VectorFormat.FP32: 4, VectorFormat.BF16: 2, VectorFormat.INT8: 1}


class OutMode(IntEnum):
    NONE = 0
    INT8 = 1
    INT32 = 2


class ScaleMode(IntEnum):
    TENSOR = 0
    ROW = 1
    COLUMN = 2


_HEADER = (
    Field("opcode", 0, 0, 8, "LOAD 1, COMPUTE 2, STORE 3, VECTOR 4"),
    Field("wait", 1, 0, 16, "semaphores of which one token each is taken before the command starts"),
    Field("signal", 1, 16, 16, "semaphores given one token each when the command is complete"),
)

_DRAM = (
    Field("rows", 3, 0, 16, "rows of the matrix in DRAM, at least 1"),
    Field("address", 4, 0, 64, "first byte in DRAM, a multiple of bus_bytes"),
    Field("row_bytes", 6, 0, 24, "bytes of each row, at least 1"),
    Field("row_stride", 7, 0, 32, "bytes from one row to the next, a multiple of bus_bytes (ignored when rows is 1)"),
    Field("base", 8, 0, 16, "first row of the region in the on-chip memory"),
    Field("block_stride", 8, 16, 16, "memory rows from one block of lanes to the next"),
)

LOAD = Record(
    "LOAD",
    COMMAND_BYTES,
    (
        *_HEADER,
        *_DRAM,
        Field(
            "target",
            2,
            0,
            4,
            "memory to fill: LEFT 0, RIGHT 1, SCALE 2 (rows must be 1, not transposed), BOTH 3 (left transposed, right natural); with "
            "vector lanes also V0 4, V1 5, PROGRAM 6, SCALARS 7, KEY 8",
        ),
        Field(
            "transpose",
            2,
            4,
            1,
            "0: DRAM row = seq, bytes along lanes. 1: DRAM row = lane, bytes along seq; the end of each row is filled "
            "with zeros up to a multiple of banks",
        ),
        Field(
            "packed4",
            2,
            5,
            1,
            "1: DRAM holds two INT4 per byte, the first one in the low nibble; they are loaded as INT8, and row_bytes counts them as "
            "such. Not for SCALE",
        ),
        Field("format", 2, 6, 2, "V0, V1: elements in DRAM are FP32 0, BF16 1, INT8 2"),
        Field("broadcast", 2, 8, 1, "V0, V1: 1: each element fills all lanes of a word of its own"),
        Field("pad_rows", 3, 16, 16, "rows of zeros written after the last one; not transposed only"),
        Field("right_base", 9, 0, 16, "BOTH: first row of the region in the right scratchpad"),
        Field("right_stride", 9, 16, 16, "BOTH: right scratchpad rows from one block of lanes to the next"),
    ),
    "Copy a row-major matrix of bytes from DRAM to a scratchpad. A natural load fills the last lanes of a row up to a "
    "multiple of bus_bytes with zeros (of the lanes, where the memory has fewer). Completes when its last byte is readable.",
)

COMPUTE = Record(
    "COMPUTE",
    COMMAND_BYTES,
    (
        *_HEADER,
        Field("fold_log2", 2, 0, 4, "log2 of the fold f: the columns form f groups, each with its own slice of k"),
        Field("chained", 2, 4, 1, "1: a second segment is accumulated onto the first"),
        Field("shift", 2, 8, 5, "exact left shift of the accumulators between the segments, 0..16"),
        Field("acc_read", 2, 16, 1, "add the accumulate buffer's word to each sum"),
        Field("acc_write", 2, 17, 1, "write each sum back to the accumulate buffer"),
        Field("out_mode", 2, 20, 2, "NONE 0, INT8 1 (requantized), INT32 2 (unscaled)"),
        Field("to_out", 2, 22, 1, "write results to the output buffer"),
        Field("to_left", 2, 23, 1, "write INT8 results to the left scratchpad, as left operand of a later product"),
        Field("stochastic", 2, 24, 1, "0: round half even. 1: stochastic rounding"),
        Field("scale_mode", 2, 26, 2, "TENSOR 0: scale_m and scale_n; ROW 1, COLUMN 2: vectors in the scale memory"),
        Field("stat_clear", 2, 29, 1, "start the slot anew instead of merging into it"),
        Field("stat_enable", 2, 28, 1, "record max |p| and saturations of this command in stat_slot"),
        Field("device_shift", 2, 30, 1, "1: take t from exponent_slot; it is the scale's right shift, or changes the chain's left shift"),
        Field("shift_up", 2, 31, 1, "chained device_shift: 0, the left shift falls as t grows; 1, it grows with t"),
        Field("segment_wait", 3, 0, 16, "semaphores to wait for before the first step of the second segment"),
        Field("read_signal", 3, 16, 16, "semaphores signalled when the last operand was read"),
        Field("m_rows", 4, 0, 16, "rows M of the output, at least 1"),
        Field("n_cols", 4, 16, 16, "columns N of the output, at least 1"),
        Field("k0", 5, 0, 17, "reduction length of the first segment, 1..131071"),
        Field("t_low", 5, 17, 6, "device_shift: least t"),
        Field("t_high", 5, 23, 6, "device_shift: largest t, at most 47"),
        Field("k1", 6, 0, 17, "reduction length of the second segment; 0 when not chained"),
        Field("left0_base", 7, 0, 16, "first row of the first segment's left operand"),
        Field("left0_stride", 7, 16, 16, "rows per block of R output rows"),
        Field("right0_base", 8, 0, 16, "first row of the first segment's right operand"),
        Field("right0_stride", 8, 16, 16, "rows per block of C / f output columns"),
        Field("left1_base", 9, 0, 16, "first row of the second segment's left operand"),
        Field("left1_stride", 9, 16, 16, "rows per block of R output rows"),
        Field("right1_base", 10, 0, 16, "first row of the second segment's right operand"),
        Field("right1_stride", 10, 16, 16, "rows per block of C / f output columns"),
        Field("out_base", 11, 0, 16, "first row of the result in the output buffer"),
        Field("out_stride", 11, 16, 16, "output buffer rows per block of R output rows"),
        Field("result_base", 12, 0, 16, "first row of the result in the left scratchpad"),
        Field("result_stride", 12, 16, 16, "left scratchpad rows per block of R output rows"),
        Field("acc_base", 13, 0, 16, "first word in the accumulate buffer; a word holds R rows of one output column"),
        Field("acc_stride", 13, 16, 16, "accumulate buffer words per block of R output rows"),
        Field("scale_m", 14, 0, 16, "mantissa of the scale, 32768..65535 (TENSOR mode)"),
        Field("scale_n", 14, 16, 6, "right shift of the scale, 0..47 (TENSOR mode)"),
        Field("stat_slot", 14, 24, 8, "slot of the maximum and saturation count"),
        Field("scale_base", 15, 0, 16, "first word of the scale vector: one entry per output row or column"),
        Field("exponent_slot", 15, 16, 8, "device_shift: slot whose maximum t is made from"),
        Field("key0", 16, 0, 32, "hash key of stochastic rounding, first word"),
        Field("key1", 17, 0, 32, "hash key of stochastic rounding, second word"),
        Field("index_base", 18, 0, 32, "hash index of output element (0, 0)"),
        Field("index_row_stride", 19, 0, 32, "added to the hash index per output row, modulo 2**32"),
        Field("index_col_stride", 20, 0, 32, "added to the hash index per output column, modulo 2**32"),
    ),
    "out[m, n] = requantize((sum over k0 of left0 right0) * 2**shift + sum over k1 of left1 right1 + accumulate buffer). "
    "With fold f, step t reads seq t*f .. t*f+f-1 of the left operand, and word t of the right one, which holds f "
    "consecutive k of C/f columns each: byte g * (C/f) + n is right[t*f + g, n]. k past the end must meet a zero on one "
    "side. An INT32 result takes four seq positions per column, little endian. With device_shift, t is the least number in "
    "t_low..t_high with the slot's maximum at most 127 * 2**t (t_high if there is none): the scale's right shift is t; of a "
    "chained command the left shift is shift - (t - t_low), or shift - (t_high - t) with shift_up. Completes when its results "
    "are readable and its slot is updated.",
)

STORE = Record(
    "STORE",
    COMMAND_BYTES,
    (
        *_HEADER,
        *_DRAM,
        Field(
            "source",
            2,
            0,
            4,
            "OUT 0, STATS 1 (rows 1; base is a slot, row_bytes 16 per slot); with vector lanes also V0 2, V1 3, SCALARS 4",
        ),
        Field(
            "transpose",
            2,
            4,
            1,
            "0: DRAM row = lane (output row), bytes along seq. 1: DRAM row = seq (output column), bytes along lanes",
        ),
        Field("packed", 2, 5, 1, "rows are packed: row_bytes is a power of two below bus_bytes and row_stride equals it"),
        Field("format", 2, 6, 2, "V0, V1: elements in DRAM are FP32 0, BF16 1, INT8 2"),
        Field("broadcast", 2, 8, 1, "V0, V1: 1: a word gives one element, that of its first lane"),
    ),
    "Copy a matrix of bytes from the output buffer to DRAM. Bytes past row_bytes are not written. Completes after its last write response.",
)

VECTOR = Record(
    "VECTOR",
    COMMAND_BYTES,
    (
        *_HEADER,
        Field("first", 2, 0, 6, "first instruction in the program memory"),
        Field("count", 2, 6, 7, "instructions, at least 1"),
        Field("lanes", 2, 13, 7, "lanes of a partial word that are in the tensor, 1 .. vector lanes"),
        Field("partial_inner", 2, 20, 1, "partial words are: 0, all of the last outer iteration; 1, the last one of each inner loop"),
        Field("outer", 3, 0, 16, "outer iterations, at least 1"),
        Field("inner", 3, 16, 16, "inner iterations, at least 1"),
        *(
            field
            for i in range(VECTOR_REGIONS)
            for field in (
                Field(f"region{i}_base", 4 + 2 * i, 0, 16, "first word"),
                Field(f"region{i}_outer", 4 + 2 * i, 16, 16, "words from one outer iteration to the next"),
                Field(f"region{i}_inner", 5 + 2 * i, 0, 16, "words from one inner iteration to the next"),
            )
        ),
        Field("key0", 12, 0, 32, "hash key of stochastic rounding, first word, exclusive or the loaded one"),
        Field("key1", 13, 0, 32, "hash key of stochastic rounding, second word, likewise"),
        Field("index_base", 14, 0, 32, "hash index of the first word"),
        Field("index_outer", 15, 0, 32, "added to the hash index per outer iteration, modulo 2**32"),
        Field("index_inner", 16, 0, 32, "added to the hash index per inner iteration, modulo 2**32"),
    ),
    "Run instructions of the program memory, each over its inner loop, once for each outer iteration. Completes when its results are "
    "readable.",
)

COMMANDS: dict[Opcode, Record] = {Opcode.LOAD: LOAD, Opcode.COMPUTE: COMPUTE, Opcode.STORE: STORE, Opcode.VECTOR: VECTOR}


@dataclass(frozen=True)
class Command:
    """One command: an opcode and its fields (those left out are zero). Hashable by identity of content."""

    opcode: Opcode
    fields: tuple[tuple[str, int], ...]

    @classmethod
    def make(cls, opcode: Opcode, **values: int) -> Command:
        """A checked command. Raises FieldError for an unknown field or a value that it cannot hold."""
        COMMANDS[opcode].pack(values)
        return cls(opcode, tuple(values.items()))

    def __getitem__(self, name: str) -> int:
        if name not in COMMANDS[self.opcode].fields:
            raise FieldError(f"{self.opcode.name} has no field {name!r}")
        return dict(self.fields).get(name, 0)

    def pack(self) -> bytes:
        """The descriptor's 128 bytes."""
        return COMMANDS[self.opcode].pack({"opcode": int(self.opcode), **dict(self.fields)})

    @classmethod
    def unpack(cls, data: bytes) -> Command:
        """The command in 128 bytes. Raises FieldError for an unknown opcode or reserved bits that are set."""
        if len(data) != COMMAND_BYTES:
            raise FieldError(f"a command takes {COMMAND_BYTES} bytes, not {len(data)}")
        if data[0] not in COMMANDS:
            raise FieldError(f"opcode {data[0]} is unknown; known are {', '.join(f'{int(o)} {o.name}' for o in Opcode)}")
        record = COMMANDS[Opcode(data[0])]
        reserved = int.from_bytes(data, "little") & record.reserved_mask
        if reserved:
            raise FieldError(f"{record.name}: reserved bit {(reserved & -reserved).bit_length() - 1} is set")
        values = record.unpack(data)
        values.pop("opcode")
        return cls(Opcode(data[0]), tuple(values.items()))
