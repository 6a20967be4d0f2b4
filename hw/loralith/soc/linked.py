"""Accelerator and link on one clock, each with a memory port of its own: for simulation, where one memory answers both."""

from __future__ import annotations

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Module, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from loralith.rtl.axi import Axi4Signature, AxiLiteSignature, port_names
from loralith.rtl.top import Loralith
from loralith.spec.config import Config
from loralith.spec.link import ACCELERATOR_BASE
from loralith.spec.registers import ADDRESS_BITS

from .link.decoder import RegisterDecoder
from .link.link import Link, LinkConfig

__all__ = ["LinkedAccelerator"]


class LinkedAccelerator(wiring.Component):
    """The accelerator, driven over a UART.

    Parameters: config; link, whose bus must be as wide as the accelerator's.

    Ports: rx, tx; m_axi_gmem_* (the accelerator's memory port), m_axi_link_* (the link's); irq; aclk; aresetn, synchronous, low for at
    least four cycles. A register outside the accelerator's is answered with DECERR.
    """

    def __init__(self, config: Config, link: LinkConfig) -> None:
        self._config, self._link = config, link
        self._memory = Axi4Signature(config.bus_bytes)
        ports = port_names("m_axi_gmem", self._memory) + port_names("m_axi_link", self._memory)
        super().__init__(
            {name: member for name, _, member in ports}  # type: ignore[dict-item]
            | {"rx": In(1), "tx": Out(1), "irq": Out(1), "aclk": In(1), "aresetn": In(1)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = ClockDomain("sync")
        m.d.comb += [ClockSignal("sync").eq(self.aclk), ResetSignal("sync").eq(~self.aresetn)]
        accelerator = Loralith(self._config)
        m.submodules.accelerator = DomainRenamer("accelerator")(accelerator)  # it brings a clock domain of its own
        m.submodules.link = link = Link(self._link)
        m.d.comb += [
            accelerator.aclk.eq(self.aclk),
            accelerator.aresetn.eq(self.aresetn),
            link.rx.eq(self.rx),
            self.tx.eq(link.tx),
            link.irq.eq(accelerator.irq),
            self.irq.eq(accelerator.irq),
        ]
        for name, member in self._memory.members.items():
            for prefix, port in (("m_axi_gmem", getattr(accelerator, f"m_axi_gmem_{name}")), ("m_axi_link", getattr(link.memory, name))):
                outer = getattr(self, f"{prefix}_{name}")
                m.d.comb += outer.eq(port) if member.flow is Out else port.eq(outer)
        m.submodules.decoder = decoder = RegisterDecoder({"accelerator": (ACCELERATOR_BASE, ADDRESS_BITS)})
        connect(m, link.registers, decoder.i)
        for name, member in AxiLiteSignature(ADDRESS_BITS).members.items():
            inner, outer = getattr(accelerator, f"s_axi_control_{name}"), getattr(decoder.accelerator, name)
            m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)
        return m
