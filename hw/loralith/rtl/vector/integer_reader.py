"""INT32 words of the output buffer, read ahead of the lanes."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from loralith.rtl.interfaces import IntegerReadSignature
from loralith.rtl.queue import FIFO
from loralith.spec.config import Config

from .command import ADDRESS_BITS, COUNT_BITS
from .set_up import FetchRequest

__all__ = ["IntegerReader"]


class IntegerReader(wiring.Component):
    """Reads instructions' INT32 words, up to ``ahead`` of them before the lanes take them.

    Members:
        request: an instruction's words; taken once all words of the previous request are requested.
        read: the output buffer.
        o: the words.
        clear: drop words that were not taken; no read is in flight then. stop: drop the rest of this request.
    """

    ahead = 8

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__(
            {
                "request": In(stream.Signature(FetchRequest)),
                "clear": In(1),
                "read": Out(IntegerReadSignature(config)),
                "o": Out(stream.Signature(data.ArrayLayout(32, config.vector_lanes))),
                "stop": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.words = words = FIFO(data.ArrayLayout(32, self._config.vector_lanes), self.ahead)
        address, stride, remaining = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS), Signal(COUNT_BITS)
        credits = Signal(range(self.ahead + 1), init=self.ahead)  # words that may be requested
        accepted, taken, none_left = Signal(), Signal(), Signal()
        connect(m, words.o, flipped(self.o))
        m.d.comb += [
            none_left.eq(remaining == 0),
            self.request.ready.eq(none_left),
            self.read.request.valid.eq(~none_left & (credits != 0)),
            self.read.request.payload.eq(address),
            accepted.eq(self.read.request.valid & self.read.request.ready),
            taken.eq(self.o.valid & self.o.ready),
            words.i.valid.eq(self.read.valid),
            words.i.payload.eq(self.read.data),
            words.clear.eq(self.clear),
        ]
        request = self.request.payload
        with m.If(accepted):
            m.d.sync += [address.eq(address + stride), remaining.eq(remaining - 1)]
        with m.Elif(none_left):
            m.d.sync += [address.eq(request.address), stride.eq(request.stride), remaining.eq(Mux(self.request.valid, request.count, 0))]
        with m.If(accepted ^ taken):
            m.d.sync += credits.eq(Mux(accepted, credits - 1, credits + 1))
        with m.If(self.stop | self.clear):
            m.d.sync += remaining.eq(0)
        with m.If(self.clear):
            m.d.sync += credits.eq(self.ahead)
        return m
