"""Power-up and refresh."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.sdram import BURST, MOST_POSTPONED, SdramChip, SdramTiming

from .interfaces import Command, Operation

__all__ = ["Maintenance", "mode_word"]

ALL_BANKS = 1 << 10
"""A10 of a PRECHARGE."""


def mode_word(cas: int) -> int:
    """The mode register: sequential bursts of `BURST` words for reads and writes."""
    return cas << 4 | (BURST.bit_length() - 1)


class Maintenance(wiring.Component):
    """Starts the chip. Begins refreshing when nothing else is to do, or when `MOST_POSTPONED` - 1 refreshes are due, and then performs all
    that are due.

    Members:
        idle: nothing is to be done. drained: nothing is on its way, and PRECHARGE of all banks may be sent.
        hold: start nothing new. command, valid: what to send in this cycle; only while ``hold`` and ``drained``.
        precharge: all banks are sent PRECHARGE. started: the chip has its mode. refreshes_due: how many.
    """

    def __init__(self, chip: SdramChip, timing: SdramTiming) -> None:
        self._timing = timing
        super().__init__(
            {
                "idle": In(1),
                "drained": In(1),
                "hold": Out(1, init=1),  # pyright: ignore[reportCallIssue]
                "command": Out(Command(chip)),
                "valid": Out(1),
                "precharge": Out(1),
                "started": Out(1),
                "refreshes_due": Out(range(MOST_POSTPONED + 2), init=MOST_POSTPONED),  # pyright: ignore[reportCallIssue]
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timing, operation = self._timing, self.command.operation
        wait = Signal(range(timing.power_up + 1), init=timing.power_up)
        interval = Signal(range(timing.interval), init=timing.interval - 1)
        elapsed, refreshed = Signal(), Signal()
        wait_done = Signal()
        m.d.comb += [elapsed.eq((interval == 0) & self.started), wait_done.eq(wait == 0)]
        m.d.sync += interval.eq(Mux(interval == 0, timing.interval - 1, interval - 1))
        with m.If(elapsed & ~refreshed):
            m.d.sync += self.refreshes_due.eq(self.refreshes_due + 1)
        with m.Elif(refreshed & ~elapsed):
            m.d.sync += self.refreshes_due.eq(self.refreshes_due - 1)
        with m.If(~wait_done):
            m.d.sync += wait.eq(wait - 1)

        with m.FSM():
            with m.State("WAIT"):
                with m.If(wait_done & self.drained):
                    m.next = "PRECHARGE"
            with m.State("PRECHARGE"):
                m.d.comb += [self.valid.eq(1), self.precharge.eq(1), operation.eq(Operation.PRECHARGE), self.command.address.eq(ALL_BANKS)]
                m.d.sync += wait.eq(timing.rp - 1)
                m.next = "REFRESH"
            with m.State("REFRESH"):
                with m.If(wait_done):
                    m.d.comb += [self.valid.eq(1), refreshed.eq(1), operation.eq(Operation.REFRESH)]
                    m.d.sync += wait.eq(timing.rfc - 1)
                    m.next = "REFRESHED"
            with m.State("REFRESHED"):
                with m.If(self.refreshes_due != 0):
                    m.next = "REFRESH"
                with m.Elif(~self.started):
                    m.next = "MODE"
                with m.Elif(wait_done):
                    m.d.sync += self.hold.eq(0)
                    m.next = "RUN"
            with m.State("MODE"):
                with m.If(wait_done):
                    m.d.comb += [self.valid.eq(1), operation.eq(Operation.MODE), self.command.address.eq(mode_word(timing.cas))]
                    m.d.sync += [wait.eq(timing.mrd - 1), self.started.eq(1)]
                    m.next = "REFRESHED"
            with m.State("RUN"):
                with m.If((self.refreshes_due >= MOST_POSTPONED - 1) | (self.idle & (self.refreshes_due != 0))):
                    m.d.sync += self.hold.eq(1)
                    m.next = "WAIT"
        return m
