"""Cuts AXI bursts into chunks of one row."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.spec.sdram import SdramChip

from .interfaces import CHUNK_BEATS, Address, Chunk

__all__ = ["ChunkSplitter", "map_address"]


def map_address(chip: SdramChip, beat: int) -> tuple[int, int, int]:
    """(bank, row, column in beats) of a beat of memory: bank bits XOR low row bits (permutation-based page interleaving).

    So neighbouring rows are in different banks, and so are most rows that are a power of two apart.
    """
    column, rest = beat % chip.row_beats, beat // chip.row_beats
    row = rest // chip.banks
    return rest % chip.banks ^ row % chip.banks, row, column


class ChunkSplitter(wiring.Component):
    """Each burst cut at every multiple of `CHUNK_BEATS`; bank, row and column as `map_address` has them. One chunk per cycle.

    Members: i: bursts. o: chunks, with ``write`` as the parameter says.
    """

    def __init__(self, chip: SdramChip, id_bits: int, *, write: bool) -> None:
        self._chip, self._write = chip, write
        super().__init__({"i": In(stream.Signature(Address(chip, id_bits))), "o": Out(stream.Signature(Chunk(chip, id_bits)))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chip, chunk = self._chip, self.o.payload
        burst = Signal.like(self.i.payload)
        active = Signal()
        step, advance, ends = Signal(), Signal(), Signal()
        beats_to_boundary_minus_1 = Signal(range(CHUNK_BEATS + 1))
        beats_minus_1 = Signal(range(CHUNK_BEATS))
        low = exact_log2(CHUNK_BEATS)
        column_bits, bank_bits = exact_log2(chip.row_beats), exact_log2(chip.banks)
        bank = burst.beat[column_bits : column_bits + bank_bits]
        row = burst.beat[column_bits + bank_bits :]

        m.d.comb += [
            self.i.ready.eq(~active),
            advance.eq(~self.o.valid | self.o.ready),
            step.eq(active & advance),
            beats_to_boundary_minus_1.eq(~burst.beat[:low]),
            ends.eq(burst.length <= beats_to_boundary_minus_1),
            beats_minus_1.eq(Mux(ends, burst.length, beats_to_boundary_minus_1)),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [burst.eq(self.i.payload), active.eq(1)]
        with m.If(advance):
            m.d.sync += self.o.valid.eq(active)
        with m.If(step):
            m.d.sync += [
                chunk.write.eq(self._write),
                chunk.bank.eq(bank ^ row[:bank_bits]),
                chunk.row.eq(row),
                chunk.column.eq(burst.beat[:column_bits]),
                chunk.beats.eq(beats_minus_1),
                chunk.id.eq(burst.id),
                chunk.last.eq(ends),
                chunk.error.eq(burst.error),
                burst.beat.eq(Cat(burst.beat[:low] & 0, burst.beat[low:] + 1)),
                burst.length.eq(burst.length - beats_to_boundary_minus_1 - 1),
                active.eq(~ends),
            ]
        return m
