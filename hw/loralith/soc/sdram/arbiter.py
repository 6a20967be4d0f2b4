"""Chooses between reads and writes, in long runs: a turnaround of the data bus takes cycles."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.sdram import SdramChip

from .interfaces import CHUNK_BEATS, Chunk

__all__ = ["DirectionArbiter"]


class DirectionArbiter(wiring.Component):
    """Stays with one direction while that has chunks and the other has none, or for at least ``run`` beats.

    Members: read, write: chunks. o: chunks.
    """

    def __init__(self, chip: SdramChip, id_bits: int, *, run: int = 128) -> None:
        self._run = run
        chunks = stream.Signature(Chunk(chip, id_bits))
        super().__init__({"read": In(chunks), "write": In(chunks), "o": Out(chunks)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        writing = Signal()
        run_beats = Signal(range(self._run + CHUNK_BEATS + 1))
        run_complete = Signal()
        choice = Signal()
        take = Signal()
        grant = Signal.like(self.o.payload)
        other = Mux(writing, self.read.valid, self.write.valid)
        same = Mux(writing, self.write.valid, self.read.valid)
        advance = ~self.o.valid | self.o.ready
        m.d.comb += [
            choice.eq(writing ^ (other & (run_complete | ~same))),
            self.read.ready.eq(advance & ~choice),
            self.write.ready.eq(advance & choice),
            take.eq(advance & (self.read.valid | self.write.valid)),
            grant.eq(Mux(choice, self.write.payload, self.read.payload)),
            run_complete.eq(run_beats >= self._run),
        ]
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(take), self.o.payload.eq(grant)]
        with m.If(take):
            beats = grant.beats + 1
            m.d.sync += writing.eq(choice)
            with m.If(choice != writing):
                m.d.sync += run_beats.eq(beats)
            with m.Elif(~run_complete):
                m.d.sync += run_beats.eq(run_beats + beats)
        return m
