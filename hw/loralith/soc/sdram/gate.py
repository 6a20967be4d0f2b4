"""Holds a chunk back until nothing outside can delay it."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.sdram import SdramChip

from .interfaces import CHUNK_BEATS, Chunk

__all__ = ["CreditGate"]


class CreditGate(wiring.Component):
    """Offers a chunk when there is a credit for each of its beats, and takes these with it.

    For reads a credit is a free entry of the FIFO that takes the beats, for writes a beat that waits in one. So a chunk that is through
    ends in a bounded time, whatever the bus's masters do, and a refresh is never late. A chunk takes three cycles.

    Parameters: depth, most credits, at least `CHUNK_BEATS`; credits, at the start.

    Members: i, o: chunks. credit: one more credit.

    Raises ValueError for a depth that is too small.
    """

    def __init__(self, chip: SdramChip, id_bits: int, depth: int, *, credits: int) -> None:
        if depth < CHUNK_BEATS:
            raise ValueError(f"depth must be at least a chunk's {CHUNK_BEATS} beats, not {depth}")
        self._depth, self._credits = depth, credits
        chunks = stream.Signature(Chunk(chip, id_bits))
        super().__init__({"i": In(chunks), "o": Out(chunks), "credit": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held = Signal()
        credits = Signal(range(self._depth + 1), init=self._credits)
        take = Signal()
        m.d.comb += [self.i.ready.eq(~held), take.eq(self.o.valid & self.o.ready)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [self.o.payload.eq(self.i.payload), held.eq(1)]
        # The credits only rise until the chunk is taken.
        m.d.sync += self.o.valid.eq(held & ~take & (credits > self.o.payload.beats))
        with m.If(take):
            m.d.sync += [held.eq(0), credits.eq(credits - self.o.payload.beats - 1 + self.credit)]
        with m.Elif(self.credit):
            m.d.sync += credits.eq(credits + 1)
        return m
