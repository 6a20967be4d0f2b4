"""The bench inside a simulation: clock, reset, register port and memory around the machine."""

from __future__ import annotations

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiSlave

from loralith.spec.registers import COUNTERS, REGISTERS
from loralith.spec.status import Check, Code, Unit
from loralith.verif.bench.axi_memory import ImageTarget, stall_all
from loralith.verif.bench.pins import PinMemory
from loralith.verif.bench.program import Program

__all__ = ["Bench", "Refused", "case"]

PERIOD = 10  # ns
ANSWER = 2000
"""Cycles in which a register access must be answered."""

case = cocotb.test(timeout_time=100, timeout_unit="ms")
"""Marks a test of a simulation; one that has not ended after ten million cycles fails."""


class Refused(Exception):
    """A register access was answered with an error."""


class Bench:
    """The machine with its register port; `attach` or `attach_pins` put memory behind it, before `reset`."""

    def __init__(self, dut) -> None:
        self.dut = dut
        self.memory: ImageTarget | PinMemory | None = None
        self.slave: AxiSlave | None = None
        Clock(dut.aclk, PERIOD, "ns").start()
        dut.aresetn.value = 0
        self.control = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi_control"), dut.aclk, dut.aresetn, reset_active_level=False)

    def attach(self, base: int, image: np.ndarray, *, stall: float = 0.0, latency: tuple[int, int] = (0, 0), seed: int = 1) -> ImageTarget:
        """cocotbext-axi's slave in front of the image, with random stalls on all channels and random read latency."""
        target = ImageTarget(self.dut.aclk, base, image)
        target.latency = latency
        target.random.seed(seed)
        bus = AxiBus.from_prefix(self.dut, "m_axi_gmem")
        self.slave = AxiSlave(bus, self.dut.aclk, self.dut.aresetn, target=target, reset_active_level=False)
        if stall:
            stall_all(self.slave, seed, stall)
        self.memory = target
        return target

    def attach_pins(self, base: int, image: np.ndarray, trace: bytes = b"") -> PinMemory:
        """The bench's own memory: replays ready and valid, answers single beats with errors."""
        memory = PinMemory(self.dut, base, image, trace)
        cocotb.start_soon(memory.run())
        self.memory = memory
        return memory

    async def reset(self, cycles: int = 5) -> None:
        self.dut.aresetn.value = 0
        await ClockCycles(self.dut.aclk, cycles)
        self.dut.aresetn.value = 1
        await ClockCycles(self.dut.aclk, 2)

    # Registers, by name; 64-bit ones as whole values.

    async def get(self, name: str) -> int:
        register = REGISTERS[name]
        value = 0
        for i in range(register.width // 32):
            answer = await with_timeout(self.control.read(register.offset + 4 * i, 4), ANSWER * PERIOD, "ns")
            if answer.resp:
                raise Refused(f"read of {name}: {answer.resp!r}")
            value |= int.from_bytes(answer.data, "little") << 32 * i
        return value

    async def set(self, name: str, value: int) -> None:
        register = REGISTERS[name]
        for i in range(register.width // 32):
            data = (value >> 32 * i & 0xFFFF_FFFF).to_bytes(4, "little")
            answer = await with_timeout(self.control.write(register.offset + 4 * i, data), ANSWER * PERIOD, "ns")
            if answer.resp:
                raise Refused(f"write of {value:#x} to {name}: {answer.resp!r}")

    async def status(self) -> tuple[Code, Check, Unit]:
        raw = await self.get("STATUS")
        return Code(raw >> 8 & 0xFF), Check(raw >> 16 & 0xFF), Unit(raw >> 24 & 0xFF)

    async def counters(self) -> dict[str, int]:
        return {name: await self.get(name.upper()) for name, _ in COUNTERS}

    # Lists.

    async def open(self, window_base: int, window_limit: int) -> None:
        await self.set("WINDOW_BASE", window_base)
        await self.set("WINDOW_LIMIT", window_limit)
        await self.set("IRQ_ENABLE", 3)

    async def start(self, list_base: int, list_length: int) -> None:
        await self.set("IRQ_STATUS", 3)
        await self.set("LIST_BASE", list_base)
        await self.set("LIST_LENGTH", list_length)
        await self.set("CONTROL", 1)

    async def end(self, most_cycles: int = 200_000) -> tuple[Code, Check, Unit]:
        """Wait for irq; the decoded status. Raises cocotb's SimTimeoutError after `most_cycles`."""
        if self.dut.irq.value != 1:
            await with_timeout(RisingEdge(self.dut.irq), most_cycles * PERIOD, "ns")
        return await self.status()

    async def run(self, list_base: int, list_length: int, most_cycles: int = 200_000) -> tuple[Code, Check, Unit]:
        await self.start(list_base, list_length)
        return await self.end(most_cycles)

    async def run_program(self, program: Program, most_cycles: int = 200_000) -> None:
        """Run a program whose image is in memory already; assert its status, memory and counters. Raises cocotb's SimTimeoutError."""
        assert self.memory is not None
        status = await self.run(program.list_base, program.list_length, most_cycles)
        assert status[0] is Code.OK, f"the list stopped: {status}"
        difference = program.difference(self.memory.image)
        assert not difference, difference
        assert not self.memory.outside, f"accesses outside the window: {self.memory.outside[:3]}"
        counters = await self.counters()
        for name, value in program.counters.items():
            assert counters[name] == value, f"counter {name} is {counters[name]} and not {value}"
        causes = ("busy", "wait_load", "wait_store", "fill_drain", "idle")
        assert sum(counters[name] for name in causes) == counters["cycles"], counters
