"""INT32 words of the output buffer, read ahead of the lanes."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from loralith.rtl.interfaces import IntegerReadSignature
from loralith.rtl.queue import FIFO
from loralith.spec.config import Config

from .command import ADDRESS_BITS, COUNT_BITS

__all__ = ["IntegerReader"]


class IntegerReader(wiring.Component):
    """Reads an instruction's INT32 words, up to ``ahead`` of them before the lanes take them.

    Members:
        start: from the next cycle on read ``count`` words, at ``address``, which counts on by ``stride``; forget what was not taken. No
            read is under way then.
        read: the output buffer.
        o: the words.
        stop: ask for none.
    """

    ahead = 8

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "address": In(ADDRESS_BITS),
                "stride": In(ADDRESS_BITS),
                "count": In(COUNT_BITS),
                "read": Out(IntegerReadSignature(config)),
                "o": Out(stream.Signature(data.ArrayLayout(32, config.vector_lanes))),
                "stop": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.words = words = FIFO(data.ArrayLayout(32, self._config.vector_lanes), self.ahead)
        address, stride, remaining = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS), Signal(COUNT_BITS)
        room = Signal(range(self.ahead + 1), init=self.ahead)  # words that may be asked for
        asks, taken = Signal(), Signal()
        connect(m, words.o, flipped(self.o))
        m.d.comb += [
            self.read.request.valid.eq((remaining != 0) & (room != 0)),
            self.read.request.payload.eq(address),
            asks.eq(self.read.request.valid & self.read.request.ready),
            taken.eq(self.o.valid & self.o.ready),
            words.i.valid.eq(self.read.valid),
            words.i.payload.eq(self.read.data),
            words.clear.eq(self.start),
        ]
        with m.If(asks):
            m.d.sync += [address.eq(address + stride), remaining.eq(remaining - 1)]
        with m.If(asks ^ taken):
            m.d.sync += room.eq(Mux(asks, room - 1, room + 1))
        with m.If(self.stop):
            m.d.sync += remaining.eq(0)
        with m.If(self.start):
            m.d.sync += [address.eq(self.address), stride.eq(self.stride), remaining.eq(self.count), room.eq(self.ahead)]
        return m
