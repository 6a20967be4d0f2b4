"""Delay lines that align an operand with its pipeline stage."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .word import StageRegisters

__all__ = ["RING_WORDS", "DelayLine"]

RING_WORDS = 16
"""Words of a LUT RAM: a ring costs as many LUTs as one register stage has flip-flops, and delays by one cycle more than it has words."""


class DelayLine(wiring.Component):
    """``o`` is ``i`` ``delay`` cycles earlier: rings in LUT RAM, of RING_WORDS + 1 cycles each, as long as they fit, then registers.

    Members:
        enable: see ``StageRegisters``; cycles without it do not count.
        pointer: write and read pointer of the rings, which advances in every cycle with ``enable``; all lines share it.
    """

    def __init__(self, width: int, delay: int) -> None:
        self.width, self.delay = width, delay
        super().__init__({"enable": In(1), "pointer": In(range(RING_WORDS)), "i": In(width), "o": Out(width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        registers = StageRegisters(m, self.enable)
        value, stages = self.i, self.delay
        rings = 0
        while stages > RING_WORDS:
            m.submodules[f"ring{rings}"] = ring = Memory(shape=self.width, depth=RING_WORDS, init=[])
            write, read = ring.write_port(), ring.read_port(domain="comb")
            m.d.comb += [write.en.eq(self.enable), write.addr.eq(self.pointer), write.data.eq(value), read.addr.eq(self.pointer)]
            value, stages = registers(f"from_ring{rings}", read.data), stages - RING_WORDS - 1
            rings += 1
        m.d.comb += self.o.eq(registers("o", value, stages) if stages else value)
        return m


def delay_pointer(m: Module, enable) -> Signal:
    """``pointer`` of the delay lines in ``m``."""
    pointer = Signal(range(RING_WORDS))
    with m.If(enable):
        m.d.sync += pointer.eq(pointer + 1)
    return pointer
