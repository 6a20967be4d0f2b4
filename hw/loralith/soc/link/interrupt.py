"""Edge detector of the interrupt that the host is notified of."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["InterruptNotice"]


class InterruptNotice(wiring.Component):
    """Detects and counts rising edges of the accelerator's irq.

    Members:
        irq: the level.
        pending: it has risen since ``sent``. count: how often it has risen, modulo 2**16.
    """

    irq: In(1)
    pending: Out(1)
    count: Out(16)
    sent: In(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        irq_r = Signal()
        m.d.sync += irq_r.eq(self.irq)
        with m.If(self.sent):
            m.d.sync += self.pending.eq(0)
        with m.If(self.irq & ~irq_r):
            m.d.sync += [self.pending.eq(1), self.count.eq(self.count + 1)]
        return m
