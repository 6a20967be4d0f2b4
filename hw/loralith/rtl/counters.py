"""The 64-bit counters of a list."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.spec.config import Config
from loralith.spec.registers import COUNTERS

__all__ = ["Counters"]


class Counters(wiring.Component):
    """Counts while ``running``; ``clear`` zeroes all. Each cycle has one cause, so that the five causes sum to ``cycles``.

    Members:
        clear, running: when to count.
        step, load_active, store_active, drain_busy: what goes on; the first of them is the cycle's cause, else it is idle.
        vector_busy (with vector lanes): a cause as ``drain_busy``, and counted by itself too.
        read_beat, write_beat, read_burst, write_burst: one of these this cycle.
        macs, saturations: how many this cycle.
        <name>_count: the counter of that name.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        flags = ("clear", "running", "step", "load_active", "store_active", "drain_busy")
        pulses = ("read_beat", "write_beat", "read_burst", "write_burst")
        if config.vector_lanes:
            flags += ("vector_busy",)
        super().__init__(
            {name: In(1) for name in flags + pulses}
            | {"macs": In(20), "saturations": In(8)}
            | {f"{name}_count": Out(64) for name, _ in COUNTERS}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shift = exact_log2(self._config.bus_bytes)
        # Pipeline registers: the events come from all over the chip.
        inputs_r = {}
        for name, member in self.signature.members.items():
            if member.flow is In and name not in ("clear", "running"):
                inputs_r[name] = Signal.like(getattr(self, name), name=f"{name}_r")
                m.d.sync += inputs_r[name].eq(getattr(self, name))
        vector = inputs_r.get("vector_busy", Const(0, 1))
        causes = (
            ("busy", inputs_r["step"]),
            ("wait_load", inputs_r["load_active"]),
            ("wait_store", inputs_r["store_active"]),
            ("fill_drain", inputs_r["drain_busy"] | vector),
            ("idle", 1),
        )
        amounts = {"cycles": 1, "read_bursts": inputs_r["read_burst"], "write_bursts": inputs_r["write_burst"]}
        amounts |= {"bytes_read": inputs_r["read_beat"] << shift, "bytes_written": inputs_r["write_beat"] << shift}
        amounts |= {"macs": inputs_r["macs"], "saturations": inputs_r["saturations"], "vector_busy": vector}
        earlier = 0
        for name, cause in causes:
            amounts[name] = Signal(name=f"is_{name}")
            m.d.comb += amounts[name].eq(cause & ~earlier)
            earlier = earlier | cause
        for name, _ in COUNTERS:
            if name == "vector_busy" and not self._config.vector_lanes:
                continue  # 0
            # The carry between the halves takes a cycle: 64 bits are too long for one.
            low, high, carry = Signal(32, name=f"{name}_low"), Signal(32, name=f"{name}_high"), Signal(name=f"{name}_carry")
            m.d.comb += getattr(self, f"{name}_count").eq(Cat(low, high))
            with m.If(self.clear):
                m.d.sync += [low.eq(1 if name in ("cycles", "idle") else 0), high.eq(0), carry.eq(0)]
            with m.Else():
                m.d.sync += [high.eq(high + carry), carry.eq(0)]
                with m.If(self.running):
                    m.d.sync += Cat(low, carry).eq(low + amounts[name])
        return m
