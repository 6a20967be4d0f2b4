"""The system with a board's pins around it: of the ULX3S, and for simulation."""

from __future__ import annotations

from amaranth.hdl import ClockDomain, ClockSignal, Instance, IOPort, Module, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.rtl.axi import port_names
from loralith.spec.config import Config
from loralith.spec.sdram import SdramChip

from .clock import BoardClock, PllSettings
from .lights import LIGHTS
from .sdram.interfaces import PinsSignature
from .system import System, SystemSettings

__all__ = ["SimulatedBoard", "Ulx3s"]

OSCILLATOR_MHZ = 25


class SimulatedBoard(wiring.Component):
    """Ports: clk, rst (for at least four cycles), rx, tx, led, sdram_* (the chip's, its data pins in three parts). No PLL."""

    def __init__(self, config: Config, settings: SystemSettings) -> None:
        self._system = System(config, settings)
        self._pins = port_names("sdram", PinsSignature(settings.chip))
        ports = {"clk": In(1), "rst": In(1), "rx": In(1), "tx": Out(1), "led": Out(len(LIGHTS))}
        super().__init__(ports | {name: member for name, _, member in self._pins})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = ClockDomain("sync")
        m.submodules.system = system = self._system
        m.d.comb += [ClockSignal().eq(self.clk), ResetSignal().eq(self.rst)]
        m.d.comb += [system.rx.eq(self.rx), self.tx.eq(system.tx), self.led.eq(system.led)]
        for name, path, member in self._pins:
            outer, inner = getattr(self, name), getattr(system.pins, path)
            m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)  # type: ignore[attr-defined]
        return m


class Ulx3s(wiring.Component):
    """Ports are named as in the board's constraints: clk_25mhz, ftdi_txd (to the FPGA), ftdi_rxd, led, wifi_gpio0, sdram_*.

    ``phase``: degrees by which the memory chip's clock is late; docs/board.md has why.

    Attributes: io_ports: ports that no signature has.
    """

    def __init__(self, config: Config, settings: SystemSettings, *, phase: float = 270) -> None:
        self._system = System(config, settings)
        self._pll = PllSettings.of(OSCILLATOR_MHZ, settings.timing.mhz, phase)
        self._chip: SdramChip = settings.chip
        self.io_ports = [IOPort(16, name="sdram_d")]
        ports = {"clk_25mhz": In(1), "ftdi_txd": In(1), "ftdi_rxd": Out(1), "led": Out(len(LIGHTS)), "wifi_gpio0": Out(1)}
        controls = ("sdram_cke", "sdram_csn", "sdram_rasn", "sdram_casn", "sdram_wen", "sdram_clk")
        buses = {"sdram_ba": Out(2), "sdram_a": Out(self._chip.row_bits), "sdram_dqm": Out(2)}
        super().__init__(ports | {name: Out(1) for name in controls} | buses)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = ClockDomain("sync")
        m.submodules.clock = clock = BoardClock(self._pll)
        m.submodules.system = system = self._system
        pins = system.pins
        m.d.comb += [
            clock.i.eq(self.clk_25mhz),
            ClockSignal().eq(clock.clock),
            ResetSignal().eq(clock.reset),
            system.rx.eq(self.ftdi_txd),
            self.ftdi_rxd.eq(system.tx),
            self.led.eq(system.led),
            self.wifi_gpio0.eq(1),  # a low level asks the board's ESP32 to load another bitstream
            self.sdram_clk.eq(clock.o),
            self.sdram_cke.eq(pins.cke),
            self.sdram_csn.eq(pins.cs_n),
            self.sdram_rasn.eq(pins.ras_n),
            self.sdram_casn.eq(pins.cas_n),
            self.sdram_wen.eq(pins.we_n),
            self.sdram_ba.eq(pins.ba),
            self.sdram_a.eq(pins.a),
            self.sdram_dqm.eq(pins.dqm),
        ]
        for bit in range(16):
            m.submodules[f"dq{bit}"] = Instance("BB", io_B=self.io_ports[0][bit], i_I=pins.dq_o[bit], i_T=~pins.dq_oe, o_O=pins.dq_i[bit])
        return m
