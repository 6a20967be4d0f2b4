"""Controller and pins' registers with plain ports, for simulation by itself."""

from __future__ import annotations

from amaranth.hdl import ClockDomain, ClockSignal, Module, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from loralith.rtl.axi import Axi4Signature, port_names
from loralith.spec.sdram import BEAT_BYTES, SdramChip, SdramTiming

from .controller import SdramController
from .interfaces import PinsSignature
from .phy import PIN_DELAY, SdramPhy

__all__ = ["SdramSystem"]


class SdramSystem(wiring.Component):
    """Ports: s_axi_* (AXI4 slave), sdram_* (the chip's pins), started, clk, rst."""

    def __init__(self, chip: SdramChip, timing: SdramTiming, *, base: int, id_bits: int) -> None:
        self._chip = chip
        self._controller = SdramController(chip, timing, base=base, id_bits=id_bits, pin_delay=PIN_DELAY)
        self._axi = port_names("s_axi", Axi4Signature(BEAT_BYTES, id_bits))
        self._pins = port_names("sdram", PinsSignature(chip))
        members = {name: member.flip() for name, _, member in self._axi}  # type: ignore[attr-defined]
        super().__init__(members | {name: member for name, _, member in self._pins} | {"started": Out(1), "clk": In(1), "rst": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = ClockDomain("sync")
        m.submodules.controller = controller = self._controller
        m.submodules.phy = phy = SdramPhy(self._chip, io_cells=False)
        connect(m, controller.pins, phy.i)
        m.d.comb += [ClockSignal().eq(self.clk), ResetSignal().eq(self.rst), self.started.eq(controller.started)]
        for name, path, member in self._pins:
            outer, inner = getattr(self, name), getattr(phy.o, path)
            m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)  # type: ignore[attr-defined]
        for name, path, member in self._axi:
            outer, inner = getattr(self, name), getattr(controller.axi, path)
            m.d.comb += inner.eq(outer) if member.flow is Out else outer.eq(inner)  # type: ignore[attr-defined]
        return m
