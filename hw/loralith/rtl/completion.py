"""The end of a command: tokens first, then the count of commands done."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.commands import SEMAPHORES

from .interfaces import SignalSignature

__all__ = ["Completion"]


class Completion(wiring.Component):
    """Takes the signal mask of a finished command, waits ``delay`` cycles, gives the tokens and says so.

    Members:
        i: signal masks; taken while nothing is pending.
        signal: to the semaphores; valid from ``delay`` + 1 cycles after ``i`` on.
        complete: one-cycle pulse when the tokens are given.
        pending: a mask was taken and its tokens are not given.
        clear: drop it.
    """

    def __init__(self, delay: int = 0) -> None:
        self.delay = delay
        super().__init__(
            {
                "i": In(stream.Signature(SEMAPHORES)),
                "signal": Out(SignalSignature),
                "complete": Out(1),
                "pending": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        remaining = Signal(range(self.delay + 1))
        m.d.comb += [
            self.i.ready.eq(~self.pending),
            self.signal.valid.eq(self.pending & (remaining == 0)),
            self.complete.eq(self.signal.valid & self.signal.ready),
        ]
        with m.If(remaining != 0):
            m.d.sync += remaining.eq(remaining - 1)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [self.pending.eq(1), self.signal.mask.eq(self.i.payload), remaining.eq(self.delay)]
        with m.Elif(self.complete):
            m.d.sync += self.pending.eq(0)
        with m.If(self.clear):
            m.d.sync += self.pending.eq(0)
        return m
