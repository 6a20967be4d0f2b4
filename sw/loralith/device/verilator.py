"""The RTL as a device: Verilated, with its memory, in native code."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from loralith.device.device import SIMULATED_BYTES, Device
from loralith.device.device_errors import DeviceError, DeviceTimeout
from loralith.device.driver import Registers
from loralith.device.native.build import build
from loralith.device.native.library import Library, Model, Stats
from loralith.device.native.memory_model import Faults, MemoryTiming, settings_for
from loralith.device.run_status import RunResult, Status
from loralith.files import FileError, check_output
from loralith.spec.config import Config

__all__ = ["Faults", "MemoryTiming", "ProtocolViolation", "VerilatorDevice"]

SLICE = 200_000
"""Cycles between two looks at the clock and at Ctrl-C."""
DRAIN = 100_000
"""Cycles that an aborted list has to take in its outstanding responses."""
RESPONSES = {-1: "no answer", 2: "SLVERR", 3: "DECERR"}


class ProtocolViolation(DeviceError):
    """The hardware broke a rule of the bus: a defect of the RTL, and nothing that a command list may cause."""


class VerilatorDevice(Device):
    """The accelerator's Verilog as a native model, cycle by cycle, with simulated DRAM. Everything about it is deterministic.

    The first device of a configuration builds the model, which takes from tens of seconds (tiny) to minutes (paper); later ones load it.

    Parameters:
        memory_base, memory_bytes: place and size of DRAM, all of it the machine's window. Pages that nobody touches cost nothing.
        timing: latency, bandwidth and stalls of DRAM.
        max_cycles: cycles that a list may take before it times out, whatever its timeout in seconds; None for any number.
        progress: called with the cycles so far of the running list, a few times a second.
        waveform: a VCD file to write from now on; takes another, slower build.
        source: a Verilog file in place of the emitted one.
        profiled: compile by a profile of a short run: takes twice as long to build, and less for each cycle.
        library: a built library in place of all that.

    Attributes:
        cycles: clock cycles since the device was opened, register accesses included.
        seconds: wall time spent in command lists.
        record: set it to have each list's handshakes recorded.
        recording: of the latest list, one byte per cycle from the one in which the doorbell was taken: what the memory drove on ARREADY,
            RVALID, AWREADY, WREADY and BVALID, from bit 0. A bench that drives the same sees the same cycles.
    """

    patience = math.inf
    """Ctrl-C ends a list, and the machine's watchdog one that makes no progress."""

    def __init__(
        self,
        config: Config,
        *,
        memory_base: int = 1 << 32,
        memory_bytes: int = SIMULATED_BYTES,
        timing: MemoryTiming | None = None,
        max_cycles: int | None = None,
        progress: Callable[[int], None] | None = None,
        waveform: str | Path | None = None,
        source: Path | None = None,
        profiled: bool = False,
        library: Path | None = None,
    ) -> None:
        super().__init__(config, memory_base, memory_bytes)
        if waveform is not None:  # before a build of minutes
            try:
                check_output(Path(waveform))
            except FileError as error:
                raise DeviceError(str(error)) from None
        self.max_cycles, self.progress = max_cycles, progress
        self.seconds = 0.0
        self.record, self.recording = False, b""
        self._timing, self._faults = timing or MemoryTiming(), Faults()
        self._window = (memory_base, memory_base + memory_bytes)
        self._settings = settings_for(config, memory_base, memory_bytes, self._timing, self._faults)
        self._library = Library(library or build(config, trace=waveform is not None, source=source, profiled=profiled))
        self.model = Model(self._library, self._settings)
        self.registers = Registers(self)
        try:
            if waveform is not None and not self.model.trace_open(Path(waveform)):
                raise DeviceError(f"{waveform} cannot be written")
            self.registers.open(config, *self._window)
        except DeviceError:
            self.close()
            raise

    # Memory and registers.

    def _write(self, address: int, data: np.ndarray) -> None:
        start = address - self.memory_base
        self.model.memory[start : start + data.size] = data

    def _read(self, address: int, nbytes: int) -> np.ndarray:
        start = address - self.memory_base
        return self.model.memory[start : start + nbytes].copy()

    def read_register(self, offset: int) -> int:
        """A 32-bit register. Raises DeviceError for an answer other than OKAY."""
        response, value = self.model.read(offset)
        if response:
            raise DeviceError(f"read of register {offset:#x}: {RESPONSES.get(response, response)}")
        return value

    def write_register(self, offset: int, value: int) -> None:
        """Write a 32-bit register. Raises DeviceError for an answer other than OKAY."""
        response = self.model.write(offset, value)
        if response:
            raise DeviceError(f"write of {value:#x} to register {offset:#x}: {RESPONSES.get(response, response)}")

    # Lists.

    def _execute(self, address: int, length: int, timeout: float) -> RunResult:
        before = self.cycles
        self.model.record(self.record)
        self.registers.start(address, length)
        doorbell = self.model.stats().last_write - before
        started = time.monotonic()
        cycles = 0
        try:
            while not self.model.wait(SLICE if self.max_cycles is None else min(SLICE, self.max_cycles - cycles)):
                cycles += SLICE
                if self.progress:
                    self.progress(cycles)
                if time.monotonic() - started > timeout or (self.max_cycles is not None and cycles >= self.max_cycles):
                    raise DeviceTimeout(timeout, self._stop())
        except KeyboardInterrupt:
            self._stop()
            raise
        finally:
            self.seconds += time.monotonic() - started
        if self.record:
            self.recording = self.model.recording()[doorbell:]
            self.model.record(False)
        self._check_protocol()
        return self.registers.result()

    def _stop(self) -> Status:
        """Abort the running list and return the status from before; afterwards the device takes the next list."""
        status = self.registers.status()
        self.registers.abort()
        for _ in range(DRAIN // 1000):
            if not self.registers.busy():
                return status
            self.model.tick(1000)
        # The memory itself does not answer: only a reset of machine and memory together helps.
        self.reset()
        return status

    def _check_protocol(self) -> None:
        violation = self.model.violation()
        if violation:
            raise ProtocolViolation(f"the hardware broke the bus protocol: {violation}")

    # What only a simulation offers.

    @property
    def used_bytes(self) -> int:
        """Bytes from the start of device memory to the end of the last allocation."""
        return max(0, self._heap.past - self.memory_base)

    @property
    def cycles(self) -> int:
        return self.model.stats().cycles

    def bus(self) -> Stats:
        """What the memory has seen since the device was opened."""
        return self.model.stats()

    def reset(self) -> None:
        """Reset the machine and forget its bursts; memory keeps its content."""
        self.model.reset()
        self.registers.open(self.config, *self._window)

    def power_cycle(self) -> None:
        """A new machine with all its memories zero, as is DRAM, and no fault injected. Allocations stay."""
        self.model.close()
        self._faults, self._window = Faults(), (self.memory_base, self.memory_base + self.memory_bytes)
        self._settings = settings_for(self.config, self.memory_base, self.memory_bytes, self._timing, self._faults)
        self.model = Model(self._library, self._settings)
        self.registers.open(self.config, *self._window)

    def configure(
        self,
        *,
        timing: MemoryTiming | None = None,
        faults: Faults | None = None,
        window: tuple[int, int] | None = None,
    ) -> None:
        """Change how memory behaves, from now on, or the machine's window (first address, first address past it). None keeps what is."""
        self._timing, self._faults, self._window = timing or self._timing, faults or self._faults, window or self._window
        self._settings = settings_for(self.config, self.memory_base, self.memory_bytes, self._timing, self._faults, self._window)
        self.model.configure(self._settings)
        if window:
            self.registers.set("WINDOW_BASE", window[0])
            self.registers.set("WINDOW_LIMIT", window[1])

    def close(self) -> None:
        super().close()
        self.model.close()
