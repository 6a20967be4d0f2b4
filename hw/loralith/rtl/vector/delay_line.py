"""Operands that wait for their stage."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .word import StageRegisters

__all__ = ["RING", "DelayLine"]

RING = 16
"""Words of a LUT RAM: a ring costs as many LUTs as one register stage has flip-flops, and delays by one cycle more than it has words."""


class DelayLine(wiring.Component):
    """``o`` is ``i`` ``delay`` cycles earlier: rings in LUT RAM, of RING + 1 cycles each, as long as they fit, then registers.

    Members:
        enable: see ``StageRegisters``; cycles without it do not count.
        place: a number that counts on by one in every cycle with ``enable``; lines share it.
    """

    def __init__(self, width: int, delay: int) -> None:
        self.width, self.delay = width, delay
        super().__init__({"enable": In(1), "place": In(range(RING)), "i": In(width), "o": Out(width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        registers = StageRegisters(m, self.enable)
        value, stages = self.i, self.delay
        rings = 0
        while stages > RING:
            m.submodules[f"ring{rings}"] = ring = Memory(shape=self.width, depth=RING, init=[])
            write, read = ring.write_port(), ring.read_port(domain="comb")
            m.d.comb += [write.en.eq(self.enable), write.addr.eq(self.place), write.data.eq(value), read.addr.eq(self.place)]
            value, stages = registers(f"from_ring{rings}", read.data), stages - RING - 1
            rings += 1
        m.d.comb += self.o.eq(registers("o", value, stages) if stages else value)
        return m


def counter(m: Module, enable) -> Signal:
    """``place`` of the delay lines in ``m``."""
    place = Signal(range(RING))
    with m.If(enable):
        m.d.sync += place.eq(place + 1)
    return place
