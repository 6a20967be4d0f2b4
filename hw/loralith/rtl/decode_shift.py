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
    """Slots that commands handed on may still record in: all that were named, until none of them is under way.

    Members:
        handed_on, slot: pulse: a command that records in ``slot`` is handed on.
        recorded: pulse: a command's record is in its slot from the next cycle but one on.
        asked: a slot. pending: a record may still come to it, of those handed on up to two cycles ago.

    Parameters: config; most: commands that may be handed on and not recorded.
    """

    def __init__(self, config: Config, most: int) -> None:
        self.config, self.most = config, most
        super().__init__(
            {
                "handed_on": In(1),
                "slot": In(field("stat_slot")),
                "recorded": In(1),
                "asked": In(field("exponent_slot")),
                "pending": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = ceil_log2(self.config.stat_slots)
        unrecorded = Signal(range(self.most + 1))
        dirty = Signal(self.config.stat_slots)
        m.d.sync += [
            self.pending.eq(dirty.bit_select(self.asked[:bits], 1)),
            unrecorded.eq(unrecorded + self.handed_on - (self.recorded & (unrecorded != 0))),
        ]
        with m.If(unrecorded == 0):
            m.d.sync += dirty.eq(0)
        with m.If(self.handed_on):
            m.d.sync += dirty.bit_select(self.slot[:bits], 1).eq(1)
        return m


class ShiftSearch(wiring.Component):
    """Finds t, the least number in t_low..t_high with the slot's maximum at most 127 * 2**t, or t_high.

    The maximum is shifted right by four or by one until it is at most 127, all that falls out kept as one bit.

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
        dropped = Signal()
        # In states MAXIMUM and SHIFT: registers of their own, as a slot's word comes from far away.
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
            # Once too often at the end, when nothing looks at it again: its registers would wait for a late verdict.
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
                m.d.sync += [dropped.eq(0), t.eq(0)]
                m.next = "LOOK"
            with m.State("LOOK"):
                m.d.sync += [
                    large.eq(maximum[7:].any() | (maximum[:7].all() & dropped)),
                    below_low.eq(t < command.t_low),
                    by_four.eq(maximum[11:].any() & (command.t_high >= t + 4)),
                    delta.eq(command.t_high - t),
                    below_high.eq(command.t_high != t),
                    shift_en.eq(1),
                ]
                m.next = "SHIFT"
            with m.State("SHIFT"):
                with m.If(below_low | (large & below_high)):
                    m.next = "LOOK"
                    with m.If(by_four):
                        m.d.sync += [dropped.eq(dropped | maximum[:4].any()), t.eq(t + 4)]
                    with m.Else():
                        m.d.sync += [dropped.eq(dropped | maximum[0]), t.eq(t + 1)]
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
