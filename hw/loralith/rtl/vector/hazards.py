"""What an instruction that reads has to wait for: words, lane registers and scalars that are on their way."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.rtl.interfaces import record_layout
from loralith.spec.vector.program import INSTRUCTION, REGIONS, Source, Target

from .lane import CONSTANTS, LaneTiming
from .vector_memory import VectorMemory

__all__ = ["VectorHazards"]


class VectorHazards(wiring.Component):
    """The rules of docs/vector_unit.md, Hazards.

    Of the instructions that write a memory only the latest one counts: where its first word can be read, all earlier ones' words can.

    Members:
        following: the instruction that begins next, from two cycles before ``start`` on. opens: it is the first one of an outer iteration.
            moves: its target's address changes from word to word.
        running: the instruction whose elements enter. issue: one does. stalled: one cannot.
        start: ``following`` begins; its first element enters in the next cycle or later.
        wait: it may not start.
        scalars_late: a result may be on its way to a scalar from ``running`` or one before it.

    Attributes:
        words: cycles from an element to the first one that reads what it writes in V0 or V1. registers: likewise of a lane register.
        scalars: from an element that writes a scalar to the first cycle without ``scalars_late``.
    """

    words = LaneTiming.result + 1 - (LaneTiming.vectors - VectorMemory.delay)
    registers = LaneTiming.result
    scalars = LaneTiming.result + 1

    def __init__(self) -> None:
        layout = record_layout(INSTRUCTION)
        super().__init__(
            {
                "following": In(layout),
                "opens": In(1),
                "moves": In(1),
                "running": In(layout),
                "issue": In(1),
                "stalled": In(1),
                "start": In(1),
                "wait": Out(1),
                "scalars_late": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        following, running = self.following, self.running
        waits = [self._memory(m, which) for which in range(2)]
        lanes = self._late(m, "lanes", self.issue & (running.target == Target.LANE), self.registers)
        reads = Signal()
        m.d.sync += reads.eq(Cat(following[name][-1] for name in CONSTANTS).any())
        scalars = Signal(range(self.scalars))
        with m.If(self.issue & (running.target == Target.SCALAR)):
            m.d.sync += scalars.eq(self.scalars - 1)
        with m.Elif(scalars.any()):
            m.d.sync += scalars.eq(scalars - 1)
        m.d.comb += [self.wait.eq(waits[0] | waits[1] | (lanes & reads)), self.scalars_late.eq(scalars.any())]
        return m

    def _late(self, m: Module, name: str, load: Value, distance: int, holds: Value | None = None) -> Value:
        """High until a ``start`` puts its first element ``distance`` cycles or more after the last ``load``; ``holds`` pauses the count."""
        count = Signal(range(distance), name=f"{name}_count")
        with m.If(load):
            m.d.sync += count.eq(distance - 2)
        with m.Elif(count.any() if holds is None else count.any() & ~holds):
            m.d.sync += count.eq(count - 1)
        return count.any()

    def _memory(self, m: Module, which: int) -> Value:
        """Whether ``following`` reads words of V0 or V1 that come later than it would read them."""
        following, running = self.following, self.running
        source, target = (Source.V0, Source.V1)[which], (Target.V0, Target.V1)[which]
        writes = self.start & (following.target == target)
        region, in_order = Signal(range(REGIONS), name=f"region{which}"), Signal(name=f"in_order{which}")
        with m.If(writes):
            m.d.sync += [region.eq(following.target_region), in_order.eq(self.moves)]
        with m.Elif(self.start & self.opens):
            m.d.sync += in_order.eq(0)
        last = self._late(m, f"last{which}", self.issue & (running.target == target), self.words)
        # From the cycle of ``start``, one before the first element; integers that are late delay it and those after it.
        first = self._late(m, f"first{which}", writes, self.words + 1, self.stalled)
        # Another iteration has other addresses.
        from_x, from_y = following.x_source == source, following.y_source == source
        same, reads = Signal(name=f"same{which}"), Signal(name=f"reads{which}")
        m.d.sync += [
            same.eq(in_order & ~self.opens & (Mux(from_x, following.x_region, following.y_region) == region)),
            reads.eq(from_x | from_y),
        ]
        return reads & Mux(same, first, last)
