"""Window and 4 KiB check of bursts, before their addresses leave the chip."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.spec.config import Config

from .axi import BOUNDARY
from .bursts import Burst
from .compare import LessThan
from .queue import SkidBuffer

__all__ = ["BurstGate"]


class BurstGate(wiring.Component):
    """Passes bursts that lie in the window and cross no 4 KiB boundary; the first other one is refused, and it and all after it are held.

    The window is compared in bus words: a burst passes if its first byte is not below ``window_base`` and its last word
    begins below ``window_limit``.

    Members:
        i: bursts to issue, with ``source`` (1 bit), the requester.
        o: bursts that may be issued, two cycles later at the soonest; may be withdrawn by ``stop`` and a refusal.
        window_base, window_limit: the window; it must not change while a burst is here.
        stop: take nothing in, pass nothing on.
        clear: reset the block's state.
        refused: a burst was refused; held until ``clear``, with its ``refused_address`` and ``refused_source``.
        pending: a burst was taken and not accepted.
    """

    def __init__(self, config: Config) -> None:
        self._word_bits = exact_log2(config.bus_bytes)
        super().__init__(
            {
                "i": In(stream.Signature(Burst)),
                "i_source": In(1),
                "o": Out(stream.Signature(Burst)),
                "o_source": Out(1),
                "window_base": In(64),
                "window_limit": In(64),
                "stop": In(1),
                "clear": In(1),
                "refused": Out(1),
                "refused_address": Out(64),
                "refused_source": Out(1),
                "pending": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shift = self._word_bits
        valid = Signal()
        burst = Signal(Burst)
        source = Signal()
        # Skid buffer for accepted bursts; isolates AXI ready.
        m.submodules.accepted = accepted = SkidBuffer(data.StructLayout({"burst": Burst, "source": 1}))
        # The comparisons are registered with the burst; only their conjunction is left for the next cycle.
        m.submodules.below_base = below_base = LessThan(64)
        m.submodules.below_limit = below_limit = LessThan(64)
        legal_length = Signal()
        fits = Signal()
        first_byte = self.i.payload.address
        # In words from the boundary below: wide enough for a longest burst that starts at the last word before a boundary, on any bus.
        last_word = Signal(10)
        in_page, past_page = last_word[: 12 - shift], last_word[12 - shift :]
        last = Cat(Const(0, shift), in_page, first_byte[12:])
        m.d.comb += [
            below_base.a.eq(first_byte),
            below_base.b.eq(self.window_base),
            below_limit.a.eq(last),
            below_limit.b.eq(self.window_limit),
            below_base.enable.eq(self.i.ready),
            below_limit.enable.eq(self.i.ready),
            fits.eq(legal_length & ~below_base.less & below_limit.less),
            last_word.eq(first_byte[shift:12] + self.i.payload.beats - 1),
            accepted.i.valid.eq(valid & fits & ~self.stop & ~self.refused),
            accepted.i.payload.burst.eq(burst),
            accepted.i.payload.source.eq(source),
            accepted.o.ready.eq(self.o.valid & self.o.ready),
            accepted.clear.eq(self.stop | self.clear),
            self.o.valid.eq(accepted.o.valid & ~self.stop & ~self.refused),
            self.o.payload.eq(accepted.o.payload.burst),
            self.o_source.eq(accepted.o.payload.source),
            self.i.ready.eq(~self.stop & ~self.refused & (~valid | (fits & accepted.i.ready))),
            self.pending.eq(valid | accepted.o.valid),
            self.refused_address.eq(burst.address),
            self.refused_source.eq(source),
        ]
        with m.If(self.i.ready):
            m.d.sync += [
                valid.eq(self.i.valid),
                burst.eq(self.i.payload),
                source.eq(self.i_source),
                legal_length.eq(~past_page.any() & (self.i.payload.beats != 0)),
            ]
        with m.If(valid & ~fits & ~self.stop):
            m.d.sync += self.refused.eq(1)
        with m.If(self.stop):
            m.d.sync += valid.eq(0)
        with m.If(self.clear):
            m.d.sync += [valid.eq(0), self.refused.eq(0)]
        assert BOUNDARY == 1 << 12
        return m
