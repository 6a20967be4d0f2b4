"""The accelerator: bus side, compute unit and vector unit behind AXI4, AXI4-Lite and an interrupt."""

from __future__ import annotations

from amaranth.hdl import ClockDomain, ClockSignal, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Member, Out, connect

from loralith.spec.config import Config
from loralith.spec.registers import ADDRESS_BITS

from .axi import Axi4Signature, AxiLiteSignature, port_names
from .bus import BusSide
from .compute import ComputeUnit
from .interfaces import compute_ports, vector_ports
from .memories import OperandMemory, OutputMemory, Statistics
from .vector.side import VectorSide

__all__ = ["Loralith"]


class Loralith(wiring.Component):
    """Top level. One clock, `aclk`; `aresetn` is active low and synchronous, and must be low for four cycles.

    Ports: m_axi_gmem_* (AXI4 master, 64-bit addresses, 8 * bus_bytes data bits), s_axi_control_* (AXI4-Lite slave, 32 bits),
    irq (level), aclk, aresetn.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._ports = port_names("m_axi_gmem", Axi4Signature(config.bus_bytes)) + port_names(
            "s_axi_control", AxiLiteSignature(ADDRESS_BITS)
        )
        super().__init__(
            {name: member for name, _, member in self._ports} | {"irq": Out(1), "aclk": In(1), "aresetn": In(1)}  # type: ignore[dict-item]
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        # Each unit has a reset of its own, see `LocalReset`.
        m.domains.sync = ClockDomain("sync", reset_less=True)
        # A register keeps the pin out of every cone of logic: for timing, and so that a simulator need not evaluate them for it.
        reset = Signal(init=1)
        m.d.sync += reset.eq(~self.aresetn)
        m.d.comb += ClockSignal("sync").eq(self.aclk)

        m.submodules.compute = compute = ComputeUnit(config)
        m.submodules.bus = bus = BusSide(
            config, write_delay=OperandMemory.write_delay, out_delay=OutputMemory.delay, stat_delay=Statistics.delay
        )
        for prefix, port in (("m_axi_gmem", bus.axi), ("s_axi_control", bus.control)):
            for name, path, member in self._ports:
                if not name.startswith(prefix):
                    continue
                outer, inner = getattr(self, name), getattr(port, path)
                m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)  # type: ignore[attr-defined]
        m.d.comb += [self.irq.eq(bus.irq), bus.reset.eq(reset), compute.reset.eq(reset)]

        self._join(m, compute_ports(config), bus, compute)
        if config.vector_lanes:
            m.submodules.vector = vector = VectorSide(config)
            m.d.comb += vector.reset.eq(reset)
            self._join(m, vector_ports(config), bus, vector)
            connect(m, vector.integers, compute.integers)
        return m

    def _join(self, m: Module, ports: dict[str, Member], bus: BusSide, unit: wiring.Component) -> None:
        """The ports that the bus side shares with a unit."""
        for name, member in ports.items():
            ours, theirs = getattr(bus, name), getattr(unit, name)
            if member.is_signature:
                connect(m, ours, theirs)
            else:
                m.d.comb += ours.eq(theirs) if member.flow is In else theirs.eq(ours)
