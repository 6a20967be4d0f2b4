"""Structures between the blocks of the memory controller."""

from __future__ import annotations

from amaranth.hdl import unsigned
from amaranth.lib import data, enum
from amaranth.lib.wiring import In, Out, Signature

from loralith.spec.sdram import SdramChip

__all__ = ["CHUNK_BEATS", "Address", "Chunk", "Column", "Command", "Operation", "PinsSignature"]

CHUNK_BEATS = 16
"""Beats of a chunk at most; a chunk crosses no multiple of it."""


class Operation(enum.Enum, shape=unsigned(3)):
    """RAS#, CAS# and WE#, from bit 2."""

    MODE = 0b000
    REFRESH = 0b001
    PRECHARGE = 0b010
    ACTIVE = 0b011
    WRITE = 0b100
    READ = 0b101
    NOP = 0b111


class Address(data.StructLayout):
    """An AXI burst: ``beat``, the address in beats; ``length``, beats less one; its id; ``error``: no memory there, and answered so."""

    def __init__(self, chip: SdramChip, id_bits: int) -> None:
        super().__init__({"beat": _beat_bits(chip), "length": 8, "id": id_bits, "error": 1})


class Chunk(data.StructLayout):
    """``beats`` + 1 column commands in one row, from ``column`` (a beat's number in its row) on; ``last``: they end their burst."""

    def __init__(self, chip: SdramChip, id_bits: int) -> None:
        super().__init__(
            {
                "write": 1,
                "bank": range(chip.banks),
                "row": chip.row_bits,
                "column": range(chip.row_beats),
                "beats": range(CHUNK_BEATS),
                "id": id_bits,
                "last": 1,
                "error": 1,
            }
        )


class Command(data.StructLayout):
    """Commands of the chip, by its command pins."""

    def __init__(self, chip: SdramChip) -> None:
        super().__init__({"operation": Operation, "bank": range(chip.banks), "address": chip.row_bits})


class Column(data.StructLayout):
    """A column command as the data path sees it: whether there is one, which, and what its beat belongs to."""

    def __init__(self, id_bits: int) -> None:
        super().__init__({"valid": 1, "write": 1, "id": id_bits, "last": 1, "error": 1})


class PinsSignature(Signature):
    """The chip's pins, seen from the FPGA, without the clock. ``dq_oe``: the FPGA drives ``dq_o``."""

    def __init__(self, chip: SdramChip) -> None:
        super().__init__(
            {
                "cke": Out(1),
                "cs_n": Out(1),
                "ras_n": Out(1, init=1),  # pyright: ignore[reportCallIssue]
                "cas_n": Out(1, init=1),  # pyright: ignore[reportCallIssue]
                "we_n": Out(1, init=1),  # pyright: ignore[reportCallIssue]
                "ba": Out(range(chip.banks)),
                "a": Out(chip.row_bits),
                "dqm": Out(2, init=3),  # pyright: ignore[reportCallIssue]
                "dq_o": Out(16),
                "dq_oe": Out(1),
                "dq_i": In(16),
            }
        )


def _beat_bits(chip: SdramChip) -> int:
    return (chip.bytes // 8 - 1).bit_length()
