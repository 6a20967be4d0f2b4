"""The shift that the device sets itself: from the maximum that an earlier command has recorded (docs/machine.md, device_shift)."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.commands import COMPUTE
from loralith.spec.config import Config

from .interfaces import StatReadSignature, record_layout
from .tile import field

__all__ = ["ShiftSearch", "SlotScoreboard"]


class SlotScoreboard(wiring.Component):
    """Slots that issued commands may still record in: all slots that they name, until none of them is in flight.

    Members:
        issued, slot: pulse: a command that records in ``slot`` is issued.
        recorded: pulse: a command's record is in its slot from the next cycle but one on.
        lookup_slot: a slot. pending: a record may still come to it, of commands issued up to two cycles ago.

    Parameters: config; max_in_flight: commands that may be issued and not yet recorded.
    """

    def __init__(self, config: Config, max_in_flight: int) -> None:
        self.config, self.max_in_flight = config, max_in_flight
        super().__init__(
            {
                "issued": In(1),
                "slot": In(field("stat_slot")),
                "recorded": In(1),
                "lookup_slot": In(field("exponent_slot")),
                "pending": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = ceil_log2(self.config.stat_slots)
        unrecorded = Signal(range(self.max_in_flight + 1))
        dirty = Signal(self.config.stat_slots)
        m.d.sync += [
            self.pending.eq(dirty.bit_select(self.lookup_slot[:bits], 1)),
            unrecorded.eq(unrecorded + self.issued - (self.recorded & (unrecorded != 0))),
        ]
        with m.If(unrecorded == 0):
            m.d.sync += dirty.eq(0)
        with m.If(self.issued):
            m.d.sync += dirty.bit_select(self.slot[:bits], 1).eq(1)
        return m


class ShiftSearch(wiring.Component):
    """Finds t, the least number in t_low..t_high with the slot's maximum at most 127 * 2**t, or t_high.

    The maximum is shifted right by four or by one until it is at most 127, with one sticky bit for what is shifted out.

    Members:
        command: held from ``start`` to ``done``.
        start: pulse: begin. pending: the slot may still change; it is read once that falls.
        exponent: the slot's read port.
        done: pulse: from the next cycle on ``t``, and ``shift``, the left shift of a chain, hold until the next ``start``.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "command": In(record_layout(COMPUTE)),
                "start": In(1),
                "pending": In(1),
                "exponent": Out(StatReadSignature),
                "done": Out(1),
                "t": Out(field("t_high")),
                "shift": Out(field("shift")),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        command, t = self.command, self.t
        maximum = Signal(48)
        sticky = Signal()
        # In states MAXIMUM and SHIFT: registered enables, since a slot's word arrives late.
        capture = Signal()
        shift_en = Signal()
        large = Signal()
        below_low = Signal()
        by_four = Signal()
        below_high = Signal()
        delta = Signal.like(t)
        m.d.comb += self.exponent.slot.eq(command.exponent_slot)
        m.d.sync += [capture.eq(0), shift_en.eq(0)]
        with m.If(capture):
            m.d.sync += maximum.eq(self.exponent.data[:48])
        with m.Elif(shift_en):
            # Also once after the last comparison, when nothing reads it: gating that would put the comparison on the enable's path.
            m.d.sync += maximum.eq(Mux(by_four, maximum >> 4, maximum >> 1))
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.next = "SLOT"
            with m.State("SLOT"):
                m.d.comb += self.exponent.en.eq(1)
                with m.If(~self.pending):
                    m.d.sync += capture.eq(1)
                    m.next = "MAXIMUM"
            with m.State("MAXIMUM"):
                m.d.sync += [sticky.eq(0), t.eq(0)]
                m.next = "COMPARE"
            with m.State("COMPARE"):
                m.d.sync += [
                    large.eq(maximum[7:].any() | (maximum[:7].all() & sticky)),
                    below_low.eq(t < command.t_low),
                    by_four.eq(maximum[11:].any() & (command.t_high >= t + 4)),
                    delta.eq(command.t_high - t),
                    below_high.eq(command.t_high != t),
                    shift_en.eq(1),
                ]
                m.next = "SHIFT"
            with m.State("SHIFT"):
                with m.If(below_low | (large & below_high)):
                    m.next = "COMPARE"
                    with m.If(by_four):
                        m.d.sync += [sticky.eq(sticky | maximum[:4].any()), t.eq(t + 4)]
                    with m.Else():
                        m.d.sync += [sticky.eq(sticky | maximum[0]), t.eq(t + 1)]
                with m.Else():
                    m.next = "SPAN"
            with m.State("SPAN"):
                with m.If(~command.shift_up):
                    m.d.sync += delta.eq(t - command.t_low)
                m.next = "CHAIN"
            with m.State("CHAIN"):
                m.d.sync += self.shift.eq(command.shift - delta)
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m
