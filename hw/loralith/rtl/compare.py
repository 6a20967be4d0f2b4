"""Comparison of wide numbers in a pipeline stage."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["LessThan"]


class LessThan(wiring.Component):
    """Whether a < b, both unsigned, ``delay`` cycles later. It compares in two halves, which halves the carry chain.

    Parameter: width of ``a`` and ``b`` in bits, at least 2.

    Members:
        a, b: what to compare in a cycle with ``enable``.
        less: a < b of the last cycle with ``enable``; before the first one, unspecified.

    Attributes:
        delay: 1.

    Raises:
        ValueError: ``width`` is less than 2.
    """

    delay = 1

    def __init__(self, width: int) -> None:
        if width < 2:
            raise ValueError(f"a comparison in halves takes at least two bits, not {width}")
        super().__init__({"a": In(width), "b": In(width), "enable": In(1), "less": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        half = len(self.a) // 2
        low_less = Signal()
        high_less = Signal()
        high_equal = Signal()
        with m.If(self.enable):
            m.d.sync += [
                low_less.eq(self.a[:half] < self.b[:half]),
                high_less.eq(self.a[half:] < self.b[half:]),
                high_equal.eq(self.a[half:] == self.b[half:]),
            ]
        m.d.comb += self.less.eq(high_less | (high_equal & low_less))
        return m
