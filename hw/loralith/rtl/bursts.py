"""Cuts two-dimensional transfers into AXI bursts."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.spec.config import Config

from .axi import BOUNDARY

__all__ = ["BEAT_BITS", "Burst", "BurstSplitter", "Transfer"]

BEAT_BITS = 22
"""Beats of one row at most: 2**24 - 1 bytes on the narrowest bus."""


class Transfer(data.Struct):
    """``rows`` rows of ``beats`` bus words each, ``stride`` bytes apart; address and stride are multiples of the word."""

    address: 64
    rows: 16
    beats: BEAT_BITS
    stride: 32


class Burst(data.Struct):
    """``beats`` bus words from ``address`` on; ``last`` marks the last burst of its transfer."""

    address: 64
    beats: 9
    last: 1


class BurstSplitter(wiring.Component):
    """Splits each row at every 4 KiB boundary and into bursts of at most ``max_burst`` beats.

    One burst per cycle while each row fits one burst; a row that does not fit takes two cycles per burst.

    Members:
        i: transfers, of at least one row and one beat.
        o: bursts, in order.
        busy: a transfer was taken and its last burst was not.
        clear: reset the block's state.

    Attributes:
        delay: cycles from a transfer to its first burst, if its first row fits one: 3.
    """

    delay = 3

    def __init__(self, config: Config) -> None:
        self._max_burst = config.max_burst
        self._word_bits = exact_log2(config.bus_bytes)
        super().__init__({"i": In(stream.Signature(Transfer)), "o": Out(stream.Signature(Burst)), "busy": Out(1), "clear": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shift = self._word_bits
        boundary = BOUNDARY >> shift
        longest = min(self._max_burst, boundary)

        # Rows: one address per cycle.
        active = Signal()
        short = Signal()
        rows = Signal(16)
        row = Signal(Transfer)
        # The present row: one burst, or several of them.
        valid = Signal()
        single_burst = Signal()
        final = Signal()
        sized = Signal()
        address = Signal(64)
        remaining = Signal(BEAT_BITS)
        cap = Signal(9)
        take_row = Signal()
        advance = Signal()

        m.d.comb += [
            self.i.ready.eq(~active),
            self.busy.eq(active | valid | self.o.valid),
            advance.eq(~self.o.valid | self.o.ready),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                active.eq(1),
                row.eq(self.i.payload),
                rows.eq(self.i.payload.rows),
                short.eq(self.i.payload.beats <= longest),
            ]
        with m.If(take_row):
            m.d.sync += [
                row.address.eq(row.address + row.stride),
                rows.eq(rows - 1),
                active.eq(rows != 1),
                valid.eq(1),
                address.eq(row.address),
                remaining.eq(row.beats),
                final.eq(rows == 1),
                single_burst.eq(short & (row.address[shift:12] + row.beats[:10] <= boundary)),
                sized.eq(0),
            ]

        with m.If(advance):
            m.d.sync += self.o.valid.eq(0)
        with m.If(valid & single_burst):
            m.d.comb += take_row.eq(active & advance)
            with m.If(advance):
                m.d.sync += [
                    self.o.valid.eq(1),
                    self.o.payload.eq(Cat(address, remaining[:9], final)),
                ]
                with m.If(~active):
                    m.d.sync += valid.eq(0)
        with m.Elif(valid & ~sized):  # beats to the boundary, at most a burst
            beats_to_boundary = boundary - address[shift:12]
            m.d.sync += [cap.eq(Mux(beats_to_boundary < longest, beats_to_boundary, longest)), sized.eq(1)]
        with m.Elif(valid):
            ends = remaining <= cap
            with m.If(advance):
                m.d.sync += [
                    self.o.valid.eq(1),
                    self.o.payload.eq(Cat(address, Mux(ends, remaining[:9], cap), final & ends)),
                    address.eq(address + Cat(Const(0, shift), cap)),
                    remaining.eq(remaining - cap),
                    sized.eq(0),
                    valid.eq(~ends),
                ]
        with m.Else():
            m.d.comb += take_row.eq(active)

        with m.If(self.clear):
            m.d.sync += [active.eq(0), valid.eq(0), self.o.valid.eq(0)]
        return m
