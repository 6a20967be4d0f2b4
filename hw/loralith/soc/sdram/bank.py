"""When a bank takes which command."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.sdram import BURST, SdramTiming

__all__ = ["Bank"]


class Bank(wiring.Component):
    """The state of a bank and the cycles that it still needs.

    Members:
        activate, precharge, read, write: one-cycle pulses, the bank is sent that command. push, done: a chunk for it is on its way, and its
            last column command is sent; both at once too.
        open: it has an open row. can_activate, can_column, can_precharge: the bank's own times allow the command in this cycle, and for
            ``can_precharge`` no chunk is on its way. drained: PRECHARGE of all banks may be sent, as far as this one goes.

    Raises ValueError for times in which one counter for the PRECHARGE is not enough.
    """

    def __init__(self, timing: SdramTiming, *, chunks: int) -> None:
        if timing.rcd + BURST < timing.ras:
            raise ValueError(f"ras must be at most rcd + {BURST} cycles, not {timing.ras} with rcd {timing.rcd}")
        self._timing, self._chunks = timing, chunks
        pulses = ("activate", "precharge", "read", "write", "push", "done")
        flags = ("open", "can_activate", "can_column", "can_precharge", "drained")
        super().__init__({name: In(1) for name in pulses} | {name: Out(1) for name in flags})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timing = self._timing
        wait = Signal(range(max(timing.rp, timing.rcd)))
        lock = Signal(range(max(timing.ras, BURST, BURST - 1 + timing.wr)))
        pending = Signal(range(self._chunks + 1))

        with m.If(self.activate):
            m.d.sync += [self.open.eq(1), wait.eq(timing.rcd - 1)]
        with m.Elif(self.precharge):
            m.d.sync += [self.open.eq(0), wait.eq(timing.rp - 1)]
        with m.Elif(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.If(self.activate):
            m.d.sync += lock.eq(timing.ras - 1)
        with m.Elif(self.read):
            m.d.sync += lock.eq(BURST - 1)
        with m.Elif(self.write):
            m.d.sync += lock.eq(BURST - 1 + timing.wr - 1)
        with m.Elif(lock != 0):
            m.d.sync += lock.eq(lock - 1)
        with m.If(self.push & ~self.done):
            m.d.sync += pending.eq(pending + 1)
        with m.Elif(self.done & ~self.push):
            m.d.sync += pending.eq(pending - 1)
        m.d.comb += [
            self.can_activate.eq(~self.open & (wait == 0)),
            self.can_column.eq(self.open & (wait == 0)),
            self.drained.eq((lock == 0) & (pending == 0)),
            self.can_precharge.eq(self.open & self.drained),
        ]
        return m
