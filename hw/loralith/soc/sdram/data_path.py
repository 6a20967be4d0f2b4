"""Beats of the bus to words of the chip, and back."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.sdram import BEAT_BYTES, BURST

from .interfaces import Column

__all__ = ["BeatReader", "BeatWriter", "ReadBeat", "WriteBeat"]


WriteBeat = data.StructLayout({"data": 8 * BEAT_BYTES, "strobe": BEAT_BYTES})
"""A beat to write, and which of its bytes."""


class ReadBeat(data.StructLayout):
    """A beat that was read, and what it belongs to."""

    def __init__(self, id_bits: int) -> None:
        super().__init__({"data": 8 * BEAT_BYTES, "id": id_bits, "last": 1, "error": 1})


class BeatWriter(wiring.Component):
    """Sends a beat's words, the lowest first, from the cycle after its WRITE on.

    Members:
        i: beats; one must be there in the cycle of a WRITE. column: the commands; of one with ``error`` nothing is written.
        dq, dqm, oe: to the pins' registers.
        done: stream without backpressure: a burst's last beat is on its way; id and error of it.
    """

    def __init__(self, id_bits: int) -> None:
        self._id_bits = id_bits
        super().__init__(
            {
                "i": In(stream.Signature(WriteBeat)),
                "column": In(Column(id_bits)),
                "dq": Out(16),
                "dqm": Out(2),
                "oe": Out(1),
                "done": Out(data.StructLayout({"valid": 1, "id": id_bits, "error": 1})),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words, masks, remaining = Signal(8 * BEAT_BYTES), Signal(BEAT_BYTES), Signal(BURST)
        write = Signal()
        m.d.comb += [
            write.eq(self.column.valid & self.column.write),
            self.i.ready.eq(write),
            self.dq.eq(words),
            self.dqm.eq(masks),
            self.oe.eq(remaining[0]),
        ]
        m.d.sync += [words.eq(words >> 16), masks.eq(masks >> 2), remaining.eq(remaining >> 1)]
        with m.If(write):
            m.d.sync += [
                words.eq(self.i.payload.data),
                masks.eq(~self.i.payload.strobe | self.column.error.replicate(BEAT_BYTES)),
                remaining.eq(~0),
            ]
        m.d.sync += [
            self.done.valid.eq(write & self.column.last),
            self.done.id.eq(self.column.id),
            self.done.error.eq(self.column.error),
        ]
        return m


class BeatReader(wiring.Component):
    """Collects a beat's words, the lowest first.

    Parameter: latency, cycles from a READ at ``column`` to its first word at ``dq``.

    Members: column: the commands. dq: from the pins' registers. o: stream without backpressure: the beats.
    """

    def __init__(self, id_bits: int, *, latency: int) -> None:
        self._latency = latency
        super().__init__(
            {"column": In(Column(id_bits)), "dq": In(16), "o": Out(data.StructLayout({"valid": 1, "beat": ReadBeat(id_bits)}))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat = self.o.beat
        column = self.column
        for i in range(self._latency + BURST - 1):
            column_r = Signal.like(self.column, name=f"column_r{i}")
            m.d.sync += column_r.eq(column)
            column = column_r
        words = Signal(16 * (BURST - 1))
        m.d.sync += [
            words.eq(Cat(words, self.dq)[16:]),
            self.o.valid.eq(column.valid & ~column.write),
            beat.data.eq(Cat(words, self.dq)),
            beat.id.eq(column.id),
            beat.last.eq(column.last),
            beat.error.eq(column.error),
        ]
        return m
