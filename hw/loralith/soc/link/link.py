"""The board's side of the serial link. docs/link.md is its specification."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from loralith.rtl.axi import Axi4Signature, AxiLiteSignature
from loralith.spec.link import MAGIC, PROTOCOL, REGISTER_ADDRESS_BITS, Operation

from .cobs import CobsDecoder, CobsEncoder
from .duplicate_cache import DuplicateCache
from .executor import RequestExecutor
from .interrupt import InterruptNotice
from .memory_unit import MemoryUnit
from .parser import RequestParser
from .receiver import FrameBuffer, FrameCheck
from .registers import RegisterMaster
from .response import CrcAppender, HalfRateRegister, ResponseWriter
from .uart import LineByte, UartReceiver, UartTransmitter

__all__ = ["Link", "LinkConfig", "LinkCore"]


@dataclass(frozen=True)
class LinkConfig:
    """What is fixed when the link is built.

    Attributes:
        divider: clock cycles per bit, at least 4; see `loralith.spec.link.divider`.
        bus_bytes: bytes of a word of the memory bus: a power of two.
        config_hash: of the accelerator's configuration.
        memory_base, memory_bytes: where memory lies; its end is at most 4 GiB.
        clock_hz: told to the host.
        timeout: cycles that the bus may be silent in the middle of an operation.
    """

    divider: int
    bus_bytes: int
    config_hash: int
    memory_base: int
    memory_bytes: int
    clock_hz: int = 100_000_000
    timeout: int = 1 << 16

    def __post_init__(self) -> None:
        if self.bus_bytes < 4 or self.bus_bytes & (self.bus_bytes - 1):
            raise ValueError(f"bus_bytes must be a power of two of at least 4, not {self.bus_bytes}")
        if self.memory_bytes < 1 or self.memory_base < 0 or self.memory_base + self.memory_bytes > 1 << 32:
            raise ValueError(f"memory must lie below 4 GiB, not {self.memory_bytes:#x} bytes at {self.memory_base:#x}")
        if self.timeout < 2:
            raise ValueError(f"timeout must be at least 2 cycles, not {self.timeout}")

    @property
    def identity(self) -> dict[str, int]:
        """The fields of `IDENTITY`."""
        names = ("bus_bytes", "config_hash", "clock_hz", "memory_base", "memory_bytes")
        return {"magic": MAGIC, "protocol": PROTOCOL} | {name: getattr(self, name) for name in names}


class LinkCore(wiring.Component):
    """Receives requests as bytes, executes them on two buses and sends responses.

    Members:
        i: bytes from the line; always ready.
        o: bytes for the line.
        irq: level of the accelerator's interrupt.
        memory: bytes of memory; 32 bits of the address are used. One burst at a time in each direction, of id 0.
        registers: the accelerator's registers and the system's own, at the bases that loralith.spec.link gives.
    """

    def __init__(self, config: LinkConfig) -> None:
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(LineByte, always_ready=True)),
                "o": Out(stream.Signature(8)),
                "irq": In(1),
                "memory": Out(Axi4Signature(config.bus_bytes)),
                "registers": In(AxiLiteSignature(REGISTER_ADDRESS_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.decoder = decoder = CobsDecoder()
        m.submodules.check = check = FrameCheck()
        m.submodules.buffer = buffer = FrameBuffer()
        m.submodules.parser = parser = RequestParser()
        m.submodules.cache = cache = DuplicateCache()
        m.submodules.executor = executor = RequestExecutor(config.timeout)
        m.submodules.register_master = registers = RegisterMaster()
        m.submodules.memory_unit = memory = MemoryUnit(config.bus_bytes)
        m.submodules.notice = notice = InterruptNotice()
        m.submodules.response_writer = response = ResponseWriter(config.identity)
        m.submodules.appender = appender = CrcAppender()
        m.submodules.encoder = encoder = CobsEncoder()
        # Without them the path from the block RAM of a response's payload to the encoder's counters took 16 ns.
        m.submodules.response_register, m.submodules.frame_register = response_register, frame_register = (
            HalfRateRegister(),
            HalfRateRegister(),
        )

        for source, sink in (
            (flipped(self.i), decoder.i),
            (decoder.o, check.i),
            (check.o, buffer.i),
            (buffer.o, parser.i),
            (parser.request, executor.request),
            (parser.payload, executor.payload),
            (executor.memory_i, memory.i),
            (executor.registers, registers.control),
            (executor.memory, memory.control),
            (executor.response, response.i),
            (executor.response_payload, response.payload),
            (memory.o, response.memory),
            (response.o, response_register.i),
            (response_register.o, appender.i),
            (appender.o, frame_register.i),
            (frame_register.o, encoder.i),
            (encoder.o, flipped(self.o)),
            (memory.axi, flipped(self.memory)),
            (registers.axi, flipped(self.registers)),
        ):
            connect(m, source, sink)
        m.d.comb += [
            notice.irq.eq(self.irq),
            cache.header.eq(executor.header),
            cache.begin.eq(executor.begin),
            cache.record.eq(executor.record),
            cache.result_status.eq(executor.status),
            cache.result_value.eq(executor.value),
            executor.verdict.eq(cache.verdict),
            executor.stored_status.eq(cache.status),
            executor.stored_value.eq(cache.value),
            executor.session.eq(cache.session),
            executor.interrupt.eq(notice.pending),
            executor.interrupts.eq(notice.count),
            notice.sent.eq(executor.interrupt_sent),
            executor.damaged.eq(check.damaged),
            registers.write.eq(executor.header.operation == Operation.WRITE_REGISTER),
            registers.address.eq(executor.header.value),
            registers.data.eq(executor.operand),
            memory.operation.eq(executor.header.operation),
            memory.address.eq(executor.header.value),
            memory.length.eq(executor.header.length),
            memory.operand.eq(executor.operand),
        ]
        return m


class Link(wiring.Component):
    """The link at a UART's pins.

    Members:
        rx, tx: the line; rx is asynchronous.
        irq, memory, registers: see `LinkCore`.
    """

    def __init__(self, config: LinkConfig) -> None:
        self._config = config
        super().__init__(
            {
                "rx": In(1),
                "tx": Out(1),
                "irq": In(1),
                "memory": Out(Axi4Signature(config.bus_bytes)),
                "registers": In(AxiLiteSignature(REGISTER_ADDRESS_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(self._config.divider)
        m.submodules.core = core = LinkCore(self._config)
        m.submodules.transmitter = transmitter = UartTransmitter(self._config.divider)
        connect(m, receiver.o, core.i)
        connect(m, core.o, transmitter.i)
        connect(m, core.memory, flipped(self.memory))
        connect(m, core.registers, flipped(self.registers))
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx), core.irq.eq(self.irq)]
        return m
