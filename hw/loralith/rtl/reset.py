"""Local copies of the reset, registered: a single one would be far from most of the chip."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["LocalReset"]


class LocalReset(wiring.Component):
    """``o`` is ``i`` a cycle later. A module of its own, so that synthesis does not merge several into one."""

    i: In(1)
    o: Out(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        reset_r = Signal()
        m.d.sync += reset_r.eq(self.i)
        m.d.comb += self.o.eq(reset_r)
        return m
