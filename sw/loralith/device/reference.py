"""The `reference` device: command lists interpreted in numpy, bit for bit docs/machine.md, without timing."""

from __future__ import annotations

import mmap
import sys

import numpy as np

from loralith.device.device import SIMULATED_BYTES, Device
from loralith.device.device_errors import DeviceError, OutOfMemory
from loralith.device.interpreter import units
from loralith.device.interpreter.axi_bursts import beats, bursts
from loralith.device.interpreter.command_checks import UNITS, dram_row_bytes, first_fault, opcode_of, reserved_bits, unpack_fields
from loralith.device.interpreter.onchip import Memories
from loralith.device.interpreter.vector import run_vector
from loralith.device.interpreter.vector_transfers import VectorFault
from loralith.device.run_status import Counters, RunResult, Status
from loralith.spec.commands import COMMAND_BYTES, SEMAPHORE_MAX, SEMAPHORES, Opcode
from loralith.spec.config import Config
from loralith.spec.status import Check, Code, Unit

__all__ = ["DirectDevice", "ReferenceDevice"]


class ReferenceDevice(Device):
    """Commands run one at a time in list order; a wait that is not met there, or a signal to a full semaphore, ends the list as WATCHDOG.

    Memories keep their content from list to list; what a faulting list leaves in them is what ran before the fault. Counters: `busy` and
    `cycles` are both the array steps of the list, an estimate from below, the other causes of cycles are 0; the rest are exact where
    docs/machine.md settles them. `timeout` is not looked at: a list always ends.

    Parameters:
        config: configuration of the machine.
        memory_bytes: size of device memory, taken from the host only where it is written.
        memory_base: address of its first byte, a multiple of 4096.
        window: first DRAM byte that commands may reach, and the first past it; all of the memory if None.
    """

    cycle_unit = "array steps"

    def __init__(
        self, config: Config, memory_bytes: int = SIMULATED_BYTES, memory_base: int = 0x1000_0000, window: tuple[int, int] | None = None
    ) -> None:
        if memory_base % 4096 or memory_base < 0:
            raise DeviceError(f"memory_base must be a multiple of 4096, not {memory_base:#x}")
        if memory_bytes < 4096:
            raise DeviceError(f"memory_bytes must be at least 4096, not {memory_bytes}")
        super().__init__(config, memory_base, memory_bytes)
        self.window = window or (memory_base, memory_base + memory_bytes)
        if not memory_base <= self.window[0] <= self.window[1] <= memory_base + memory_bytes:
            raise DeviceError(f"window must lie inside device memory, not {self.window[0]:#x}..{self.window[1]:#x}")
        self.memories = Memories(config)
        self._dram = _zeros(memory_bytes)

    def close(self) -> None:
        super().close()
        self._dram = np.empty(0, np.uint8)

    def _write(self, address: int, data: np.ndarray) -> None:
        offset = address - self.memory_base
        self._dram[offset : offset + data.size] = data

    def _read(self, address: int, nbytes: int) -> np.ndarray:
        offset = address - self.memory_base
        return self._dram[offset : offset + nbytes].copy()

    def _execute(self, address: int, length: int, timeout: float) -> RunResult:
        run = _Run(self, address, length)
        status = run.list_fault() or run.all_commands()
        return RunResult(status, Counters(**run.counts), run.done)


def _zeros(nbytes: int) -> np.ndarray:
    """uint8 zeros whose pages the host has not set apart before they are written. Raises OutOfMemory."""
    reserve = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)  # older Pythons have no name for it
    try:
        pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | reserve)
    except OSError as error:
        raise OutOfMemory(f"the host has no {nbytes} bytes for the device's memory ({error}); set memory_bytes lower") from None
    return np.frombuffer(pages, np.uint8)


class _Run:
    """One list from doorbell to end."""

    def __init__(self, device: ReferenceDevice, address: int, length: int) -> None:
        self.device, self.address, self.length = device, address, length
        self.done = 0
        self.tokens = [0] * SEMAPHORES
        self.counts = dict.fromkeys(Counters._fields, 0)

    def list_fault(self) -> Status | None:
        """The checks of the list itself."""

        def fault(code: Code) -> Status:
            return Status(code, Check.LIST, Unit.FETCH, 0, self.address)

        if self.address % self.device.config.bus_bytes:
            return fault(Code.MISALIGNED)
        if self.length < 1:
            return fault(Code.BAD_FIELD)
        first, past = self.device.window
        if self.address < first or self.address + self.length * COMMAND_BYTES > past:
            return fault(Code.DRAM_WINDOW)
        return None

    def all_commands(self) -> Status:
        nbytes = self.length * COMMAND_BYTES
        config = self.device.config
        self.counts["bytes_read"] += nbytes
        self.counts["read_bursts"] += bursts(self.address, COMMAND_BYTES, self.length, COMMAND_BYTES, config)  # one by one
        data = self.device._read(self.address, nbytes).tobytes()
        for index in range(self.length):
            status = self.one_command(index, data[index * COMMAND_BYTES : (index + 1) * COMMAND_BYTES])
            if status is not None:
                return status
            self.done += 1
        return Status()

    def one_command(self, index: int, data: bytes) -> Status | None:
        """Check and run one command; the fault that ends the list, or None."""
        opcode = opcode_of(data, self.device.config)
        if opcode is None:
            return Status(Code.BAD_OPCODE, Check.NONE, Unit.FETCH, index)
        if reserved_bits(opcode, data):
            return Status(Code.BAD_FIELD, Check.RESERVED, UNITS[opcode], index)
        c = unpack_fields(opcode, data)
        fault = first_fault(opcode, c, self.device.config, self.device.window, index)
        if fault is not None:
            return fault
        if not (self.take(c["wait"]) and self.take(c.get("segment_wait", 0))):
            return Status(Code.WATCHDOG)
        try:
            self.effect(opcode, c)
        except VectorFault as fault:
            return Status(fault.code, fault.detail, UNITS[opcode], index, fault.instruction)
        if not (self.give(c.get("read_signal", 0)) and self.give(c["signal"])):
            return Status(Code.WATCHDOG)
        return None

    def take(self, mask: int) -> bool:
        wanted = [i for i in range(SEMAPHORES) if mask >> i & 1]
        if not all(self.tokens[i] for i in wanted):
            return False
        for i in wanted:
            self.tokens[i] -= 1
        return True

    def give(self, mask: int) -> bool:
        signalled = [i for i in range(SEMAPHORES) if mask >> i & 1]
        if any(self.tokens[i] == SEMAPHORE_MAX for i in signalled):
            return False
        for i in signalled:
            self.tokens[i] += 1
        return True

    def effect(self, opcode: Opcode, c: dict[str, int]) -> None:
        device, config, counts = self.device, self.device.config, self.counts
        if opcode is Opcode.COMPUTE:
            steps, saturated = units.compute(c, device.memories, config)
            counts["busy"] += steps
            counts["cycles"] += steps
            counts["macs"] += c["m_rows"] * c["n_cols"] * (c["k0"] + c["k1"])
            counts["saturations"] += saturated
            return
        if opcode is Opcode.VECTOR:
            counts["saturations"] += run_vector(c, device.memories, config)
            return
        address, rows, row_bytes, stride = c["address"], c["rows"], dram_row_bytes(c), c["row_stride"]
        if c.get("packed"):  # one contiguous stretch
            rows, row_bytes, stride = 1, rows * row_bytes, 0
        moved = beats(row_bytes, rows, config) * config.bus_bytes
        count = bursts(address, row_bytes, rows, stride, config)
        if opcode is Opcode.LOAD:
            units.load(c, device._dram, address - device.memory_base, device.memories, config)
            counts["bytes_read"] += moved
            counts["read_bursts"] += count
        else:
            units.store(c, device._dram, address - device.memory_base, device.memories)
            counts["bytes_written"] += moved
            counts["write_bursts"] += count


class DirectDevice(ReferenceDevice):
    """`device.products` and `lora.direct_passes` multiply whole matrices here, without lists: integers are exact, so the bits are the
    reference's. Counters have only the lists that somebody runs; training runs none."""

    direct = True
    cycle_unit = None

    def view(self, address: int, nbytes: int) -> np.ndarray:
        self._check_open()
        self._check_range(address, nbytes)
        offset = address - self.memory_base
        return self._dram[offset : offset + nbytes]
