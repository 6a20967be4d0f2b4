"""Read-after-write hazards between instructions: words of V0 and V1, lane registers and scalars that are still in the pipeline."""

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

    Only the latest writer of a memory is tracked: results leave the pipeline in order, so that all earlier writes are complete by then.

    Members:
        next_instruction: the one to start next, stable from two cycles before ``start``. starts_iteration: it is the first instruction of
            an outer iteration. target_advances: its target's stride is not 0.
        running: the instruction whose elements enter. issue: an element enters. stalled: none can, for want of integers.
        start: ``next_instruction`` starts; its first element enters in the next cycle or later.
        stall: it must not start yet.
        scalar_pending: a write to a scalar may be in flight, of ``running`` or of an earlier instruction.

    Attributes:
        memory_latency: cycles from the issue of an element to the issue of the first one that reads its result from V0 or V1.
        lane_register_latency: likewise from a lane register.
        scalar_latency: from the issue of an element that writes a scalar to the first cycle without ``scalar_pending``.
    """

    memory_latency = LaneTiming.result + 1 - (LaneTiming.vectors - VectorMemory.delay)
    lane_register_latency = LaneTiming.result
    scalar_latency = LaneTiming.result + 1

    def __init__(self) -> None:
        layout = record_layout(INSTRUCTION)
        super().__init__(
            {
                "next_instruction": In(layout),
                "starts_iteration": In(1),
                "target_advances": In(1),
                "running": In(layout),
                "issue": In(1),
                "stalled": In(1),
                "start": In(1),
                "stall": Out(1),
                "scalar_pending": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        next_instruction, running = self.next_instruction, self.running
        memory_stalls = [self._memory(m, index) for index in range(2)]
        lane_register_pending = self._pending(m, "lane_register", self.issue & (running.target == Target.LANE), self.lane_register_latency)
        reads_lane_register = Signal()
        m.d.sync += reads_lane_register.eq(Cat(next_instruction[name][-1] for name in CONSTANTS).any())
        scalar_count = Signal(range(self.scalar_latency))
        with m.If(self.issue & (running.target == Target.SCALAR)):
            m.d.sync += scalar_count.eq(self.scalar_latency - 1)
        with m.Elif(scalar_count.any()):
            m.d.sync += scalar_count.eq(scalar_count - 1)
        m.d.comb += [
            self.stall.eq(memory_stalls[0] | memory_stalls[1] | (lane_register_pending & reads_lane_register)),
            self.scalar_pending.eq(scalar_count.any()),
        ]
        return m

    def _pending(self, m: Module, name: str, load: Value, distance: int, pause: Value | None = None) -> Value:
        """High while a ``start`` would issue its first element less than ``distance`` cycles after the last ``load``; ``pause`` stops the
        count."""
        count = Signal(range(distance), name=f"{name}_count")
        with m.If(load):
            m.d.sync += count.eq(distance - 2)
        with m.Elif(count.any() if pause is None else count.any() & ~pause):
            m.d.sync += count.eq(count - 1)
        return count.any()

    def _memory(self, m: Module, index: int) -> Value:
        """Whether ``next_instruction`` would read words of V0 or V1 before they are written."""
        next_instruction, running = self.next_instruction, self.running
        source, target = (Source.V0, Source.V1)[index], (Target.V0, Target.V1)[index]
        writes = self.start & (next_instruction.target == target)
        region, in_order = Signal(range(REGIONS), name=f"region{index}"), Signal(name=f"in_order{index}")
        with m.If(writes):
            m.d.sync += [region.eq(next_instruction.target_region), in_order.eq(self.target_advances)]
        with m.Elif(self.start & self.starts_iteration):
            m.d.sync += in_order.eq(0)
        last_pending = self._pending(m, f"last{index}", self.issue & (running.target == target), self.memory_latency)
        # Counts from ``start``, a cycle before the first element; stalls delay all elements alike.
        first_pending = self._pending(m, f"first{index}", writes, self.memory_latency + 1, self.stalled)
        # In order only within an outer iteration: the next one has other addresses.
        from_x, from_y = next_instruction.x_source == source, next_instruction.y_source == source
        same_region, reads_memory = Signal(name=f"same_region{index}"), Signal(name=f"reads{index}")
        m.d.sync += [
            same_region.eq(
                in_order & ~self.starts_iteration & (Mux(from_x, next_instruction.x_region, next_instruction.y_region) == region)
            ),
            reads_memory.eq(from_x | from_y),
        ]
        return reads_memory & Mux(same_region, first_pending, last_pending)
