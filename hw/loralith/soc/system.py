"""The system on chip: accelerator, serial link and memory controller, from the clock to the pins' registers."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import ClockSignal, DomainRenamer, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from loralith.rtl.axi import Axi4ReadSignature, Axi4WriteSignature, AxiLiteSignature
from loralith.rtl.top import Loralith
from loralith.spec.config import Config, ConfigError
from loralith.spec.link import ACCELERATOR_BASE, SOC_BASE
from loralith.spec.registers import ADDRESS_BITS
from loralith.spec.sdram import BEAT_BYTES, MEMORY_BASE, SdramChip, SdramTiming
from loralith.spec.soc import SOC_ADDRESS_BITS

from .interconnect import ReadArbiter, WriteArbiter
from .lights import LIGHTS, Lights
from .link.decoder import RegisterDecoder
from .link.link import Link, LinkConfig
from .registers import SocRegisters
from .sdram.controller import SdramController
from .sdram.interfaces import PinsSignature
from .sdram.phy import PIN_DELAY, SdramPhy

__all__ = ["System", "SystemSettings"]


@dataclass(frozen=True)
class SystemSettings:
    """What is fixed of a system, the accelerator's configuration apart.

    Attributes: chip, timing: of the memory. divider: clock cycles per bit of the serial line. io_cells: the pins' registers are those of
        the ECP5's I/O cells. accelerator: False leaves it out, all its outputs 0: for what the rest takes, and how fast it is.
    """

    chip: SdramChip
    timing: SdramTiming
    divider: int
    io_cells: bool
    accelerator: bool = True


class System(wiring.Component):
    """In the domain ``sync``, whose reset has to last for four cycles.

    Members: rx, tx: the serial line. led: see `LIGHTS`. pins: the memory chip's.

    Raises ConfigError for a configuration whose bus is not as wide as the memory controller's.
    """

    def __init__(self, config: Config, settings: SystemSettings) -> None:
        if config.bus_bytes != BEAT_BYTES:
            raise ConfigError(f"the board's memory controller has a bus of {BEAT_BYTES} bytes, not {config.bus_bytes}")
        self._config, self._settings = config, settings
        super().__init__(
            {"rx": In(1, init=1), "tx": Out(1), "led": Out(len(LIGHTS)), "pins": Out(PinsSignature(settings.chip))}  # pyright: ignore[reportCallIssue]
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, settings = self._config, self._settings
        accelerator = Loralith(config) if settings.accelerator else _TiedOff(Loralith(config).signature)
        m.submodules.accelerator = DomainRenamer("accelerator")(accelerator)  # it brings a clock domain of its own
        m.submodules.link = link = Link(
            LinkConfig(
                divider=settings.divider,
                bus_bytes=config.bus_bytes,
                config_hash=config.hash,
                memory_base=MEMORY_BASE,
                memory_bytes=settings.chip.bytes,
                clock_hz=round(settings.timing.mhz * 1e6),
            )
        )
        m.submodules.memory = memory = SdramController(settings.chip, settings.timing, base=MEMORY_BASE, id_bits=2, pin_delay=PIN_DELAY)
        m.submodules.phy = phy = SdramPhy(settings.chip, io_cells=settings.io_cells)
        m.submodules.registers = registers = SocRegisters()
        m.submodules.lights = lights = Lights(settings.timing.mhz * 1e6)
        m.d.comb += [accelerator.aclk.eq(ClockSignal()), accelerator.aresetn.eq(~ResetSignal())]
        m.d.comb += [link.rx.eq(self.rx), self.tx.eq(link.tx), link.irq.eq(accelerator.irq), self.led.eq(lights.led)]
        connect(m, memory.pins, phy.i)
        connect(m, phy.o, wiring.flipped(self.pins))
        self._buses(m, accelerator, link, memory)
        m.submodules.decoder = decoder = RegisterDecoder(
            {"accelerator": (ACCELERATOR_BASE, ADDRESS_BITS), "soc": (SOC_BASE, SOC_ADDRESS_BITS)}
        )
        connect(m, link.registers, decoder.i)
        connect(m, decoder.soc, registers.axi)
        _join(m, AxiLiteSignature(ADDRESS_BITS), accelerator, "s_axi_control_", decoder.accelerator)

        gmem = {name: getattr(accelerator, f"m_axi_gmem_{name}") for name in ("arvalid", "arready", "awvalid", "awready")}
        # Registers: counters behind a handshake across the part took 13 ns.
        read, write = Signal(), Signal()
        m.d.sync += [read.eq(memory.axi.rvalid & memory.axi.rready), write.eq(memory.axi.wvalid & memory.axi.wready)]
        m.d.comb += [
            registers.started.eq(memory.started),
            registers.irq.eq(accelerator.irq),
            registers.read_beat.eq(read),
            registers.write_beat.eq(write),
            lights.memory.eq(memory.started),
            lights.irq.eq(accelerator.irq),
            lights.receive.eq(self.rx),
            lights.transmit.eq(link.tx),
            lights.list.eq((gmem["arvalid"] & gmem["arready"]) | (gmem["awvalid"] & gmem["awready"])),
            lights.read.eq(read),
            lights.write.eq(write),
        ]
        return m

    def _buses(self, m: Module, accelerator: wiring.Component, link: Link, memory: SdramController) -> None:
        """Both masters' memory ports on the controller's."""
        width = self._config.bus_bytes
        m.submodules.reads, m.submodules.writes = reads, writes = ReadArbiter(width), WriteArbiter(width)
        for arbiter, signature in ((reads, Axi4ReadSignature), (writes, Axi4WriteSignature)):
            _join(m, signature(width), accelerator, "m_axi_gmem_", arbiter.master0)
            _join(m, signature(width), link.memory, "", arbiter.master1)
            for name, member in signature(width, 2).members.items():
                outer, inner = getattr(memory.axi, name), getattr(arbiter.slave, name)
                m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)


class _TiedOff(wiring.Component):
    """Ports without logic: all outputs are 0."""

    def elaborate(self, platform: object) -> Module:
        return Module()


def _join(m: Module, signature: wiring.Signature, source: object, prefix: str, sink: object) -> None:
    """Members of a bus by name: ``source``'s, with a prefix, drive ``sink``'s where the signature says Out, else the other way."""
    for name, member in signature.members.items():
        outer, inner = getattr(source, f"{prefix}{name}"), getattr(sink, name)
        m.d.comb += inner.eq(outer) if member.flow is Out else outer.eq(inner)  # type: ignore[attr-defined]
