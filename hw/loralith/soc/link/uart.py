"""Bytes on two wires: 8 data bits, no parity, one stop bit."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["MIN_DIVIDER", "LineByte", "UartReceiver", "UartTransmitter"]

MIN_DIVIDER = 4
FRAME_BITS = 10


class LineByte(data.Struct):
    """A byte from the line; ``broken``: its stop bit was missing."""

    byte: 8
    broken: 1


def _check_divider(divider: int) -> None:
    if divider < MIN_DIVIDER:
        raise ValueError(f"divider must be at least {MIN_DIVIDER} cycles per bit, not {divider}")


class UartReceiver(wiring.Component):
    """Samples each bit in its middle. A start bit that is over by then is ignored; a line that stays low gives one broken byte.

    Parameter: divider, cycles per bit.

    Members:
        rx: the pin; asynchronous.
        o: the bytes, valid for one cycle; there is no ready.

    Raises ValueError for a divider below 4.
    """

    def __init__(self, divider: int) -> None:
        _check_divider(divider)
        self._divider = divider
        super().__init__({"rx": In(1), "o": Out(stream.Signature(LineByte, always_ready=True))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        level, before = Signal(init=1), Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.rx, level, init=1)
        timer = Signal(range(self._divider))
        remaining = Signal(range(FRAME_BITS + 1))  # bits to sample, the start bit included
        bits = Signal(FRAME_BITS - 1)
        m.d.sync += [before.eq(level), self.o.valid.eq(0)]
        with m.If(remaining == 0):
            with m.If(before & ~level):
                m.d.sync += [remaining.eq(FRAME_BITS), timer.eq(self._divider // 2 - 1)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [timer.eq(self._divider - 1), remaining.eq(remaining - 1), bits.eq(Cat(bits[1:], level))]
            with m.If((remaining == FRAME_BITS) & level):
                m.d.sync += remaining.eq(0)
            with m.If(remaining == 1):
                m.d.sync += [self.o.valid.eq(1), self.o.payload.byte.eq(bits[1:]), self.o.payload.broken.eq(~level)]
        return m


class UartTransmitter(wiring.Component):
    """Sends bytes, the next one straight after the stop bit of the one before.

    Parameter: divider, cycles per bit.

    Members:
        i: the bytes.
        tx: the pin, a register.

    Raises ValueError for a divider below 4.
    """

    def __init__(self, divider: int) -> None:
        _check_divider(divider)
        self._divider = divider
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timer = Signal(range(self._divider))
        remaining = Signal(range(FRAME_BITS + 1))
        bits = Signal(FRAME_BITS, init=-1)
        ends = timer == 0
        m.d.comb += [self.i.ready.eq((remaining == 0) | (ends & (remaining == 1))), self.tx.eq(bits[0])]
        m.d.sync += timer.eq(Mux(ends, self._divider - 1, timer - 1))
        with m.If(ends & (remaining != 0)):
            m.d.sync += [bits.eq(Cat(bits[1:], Const(1, 1))), remaining.eq(remaining - 1)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [bits.eq(Cat(Const(0, 1), self.i.payload, Const(1, 1))), remaining.eq(FRAME_BITS), timer.eq(self._divider - 1)]
        return m
