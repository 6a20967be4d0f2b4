"""Does a strided region end inside its memory? Serial, so that a check costs adders and no multiplier."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .compare import LessThan

__all__ = ["Extent"]


class Extent(wiring.Component):
    """ok = (base + (count - 1) * stride + length <= limit), without overflow.

    Parameters: the widths of base, count, stride, length and limit in bits.

    Members:
        start: begin a check; one cycle. A start during a check begins anew.
        base, count, stride, length, limit: unsigned; must hold from ``start`` until ``done``. ``count`` is at least 1.
        done: the result is there; low in the cycle after ``start``, then high ``delay`` cycles after it until the next one.
        ok: the region fits; meaningful while ``done``.

    Attributes:
        delay: cycles from ``start`` to the first cycle of ``done``: count width + 4.
    """

    @staticmethod
    def delay_of(count: int) -> int:
        """``delay`` of an extent whose count has ``count`` bits."""
        return count + 4

    def __init__(self, *, base: int, count: int, stride: int, length: int, limit: int) -> None:
        self.delay = self.delay_of(count)
        self._product_width = count + stride
        self._sum_width = max(count + stride, length, limit) + 1
        super().__init__(
            {
                "start": In(1),
                "base": In(base),
                "count": In(count),
                "stride": In(stride),
                "length": In(length),
                "limit": In(limit),
                "done": Out(1),
                "ok": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = len(self.count)
        bits = Signal(width)
        product = Signal(self._product_width)
        total = Signal(self._sum_width)
        space = Signal(signed(max(len(self.base), len(self.limit)) + 1))
        m.submodules.too_long = too_long = LessThan(self._sum_width)
        phase = Signal(range(width + 4))

        with m.If(self.start):
            m.d.sync += [phase.eq(width + 3), self.done.eq(0), bits.eq(self.count - 1), product.eq(0)]
        with m.Elif(phase != 0):
            m.d.sync += phase.eq(phase - 1)
            with m.If(phase > 3):  # high bit first: the product never grows past its final width
                m.d.sync += [
                    product.eq((product << 1) + Mux(bits[-1], self.stride, 0)),
                    bits.eq(bits << 1),
                ]
            with m.If(phase == 3):
                m.d.sync += total.eq(product + self.length)
            with m.If(phase == 1):
                m.d.sync += [self.ok.eq(~space[-1] & ~too_long.less), self.done.eq(1)]
        m.d.sync += space.eq(self.limit - self.base)
        m.d.comb += [too_long.a.eq(space), too_long.b.eq(total), too_long.enable.eq(phase == 2)]
        return m
