"""A board behind a serial port: registers and memory by the frames of docs/link.md."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence

import numpy as np

from loralith.device.device import Device
from loralith.device.device_errors import ConfigMismatch, DeviceError, DeviceTimeout
from loralith.device.driver import Registers
from loralith.device.link.connection import Connection
from loralith.device.link.link_errors import LinkError
from loralith.device.link.port import BAUD, SerialPort
from loralith.device.link.request import Request
from loralith.device.run_status import RunResult, Status
from loralith.spec.config import Config
from loralith.spec.link import ACCELERATOR_BASE, MAX_SPAN, SOC_BASE, Operation

__all__ = ["SerialDevice"]

FIRST_POLL, LONGEST_POLL = 0.05, 0.5
DRAIN_SECONDS = 2.0
"""Time that an aborted list has to take in its outstanding responses."""


class SerialDevice(Device):
    """The accelerator of a board whose host link is a serial port. Bytes that the line loses or damages are sent again.

    Parameters:
        path: the port, such as /dev/ttyUSB0, or the pseudo terminal of a simulated board.
        memory_bytes: how much of the board's memory to use; None for all.
        baud: of the bitstream.
        patience: seconds without a sign of the board after which it is taken for dead, and a pulled cable for lost.

    A list that another host has left running is aborted. Raises DeviceError, with what to do, for a port that cannot be used, for no board
    and for one that is no loralith; ConfigMismatch for a bitstream of another configuration.
    """

    def __init__(self, config: Config, path: str, *, memory_bytes: int | None = None, baud: int = BAUD, patience: float = 5.0) -> None:
        self._port = SerialPort(path, baud)
        try:
            self.link = Connection(self._port, patience)
            self.link.begin()
            identity = self.link.identity
            if identity["config_hash"] != config.hash:
                raise ConfigMismatch(config.hash, identity["config_hash"], config.name)
            available = identity["memory_bytes"]
            if memory_bytes is not None and not 0 < memory_bytes <= available:
                raise DeviceError(f"memory_bytes must be at most {available}, which is what the board on {path} has, not {memory_bytes}")
            super().__init__(config, identity["memory_base"], memory_bytes or available)
            self.registers = LinkRegisters(self)
            self.registers.identify(config)
            if self.registers.busy():
                self._stop()
            self.registers.open(config, self.memory_base, self.memory_base + self.memory_bytes)
        except BaseException:
            self._port.close()
            raise

    def _memory_advice(self, least: int) -> str:
        if self.memory_bytes < self.link.identity["memory_bytes"]:
            return super()._memory_advice(least)
        return f"the board has {self.memory_bytes:,} bytes in all: take smaller batches, or a smaller model"

    # Registers.

    def read_registers(self, offsets: Sequence[int]) -> list[int]:
        """Registers of the accelerator, in this order."""
        return self._read_registers([ACCELERATOR_BASE + offset for offset in offsets])

    def write_registers(self, values: Sequence[tuple[int, int]]) -> None:
        """Registers of the accelerator by offset and value, in this order; those after one that is refused may be written."""
        self._write_registers([(ACCELERATOR_BASE + offset, value) for offset, value in values])

    def read_register(self, offset: int) -> int:
        """A register of the accelerator. Raises DeviceError for an answer other than OKAY."""
        return self.read_registers([offset])[0]

    def write_register(self, offset: int, value: int) -> None:
        """Write a register of the accelerator. Raises DeviceError for an answer other than OKAY."""
        self.write_registers([(offset, value)])

    def read_soc_register(self, offset: int) -> int:
        """A register of the system around the accelerator."""
        return self._read_registers([SOC_BASE + offset])[0]

    def write_soc_register(self, offset: int, value: int) -> None:
        """Write a register of the system around the accelerator."""
        self._write_registers([(SOC_BASE + offset, value)])

    def _read_registers(self, addresses: Sequence[int]) -> list[int]:
        with self.lock:
            self._check_open()
            requests = (Request(Operation.READ_REGISTER, a, ordered=True, index=i) for i, a in enumerate(addresses))
            return [answer.value for answer in self.link.exchange(requests)]

    def _write_registers(self, values: Sequence[tuple[int, int]]) -> None:
        with self.lock:
            self._check_open()
            self.link.exchange(
                Request(Operation.WRITE_REGISTER, address, 4, (value & 0xFFFF_FFFF).to_bytes(4, "little"), ordered=True, index=i)
                for i, (address, value) in enumerate(values)
            )

    # Memory.

    def _write(self, address: int, data: np.ndarray) -> None:
        with self.lock:
            self.link.exchange(self.link.chunks(Operation.WRITE_MEMORY, address, data.size, data.tobytes()))

    def _read(self, address: int, nbytes: int) -> np.ndarray:
        data = np.empty(nbytes, np.uint8)
        with self.lock:
            self.link.exchange(
                self.link.chunks(Operation.READ_MEMORY, address, nbytes),
                lambda request, frame: data.__setitem__(
                    slice(request.index, request.index + request.length), np.frombuffer(frame.payload, np.uint8)
                ),
            )
        return data

    def fill(self, address: int, nbytes: int, pattern: int = 0) -> None:
        """Fill memory with a 32-bit pattern, whose byte a % 4 goes to address a. Raises DeviceError outside of memory."""
        self._check_open()
        self._check_range(address, nbytes)
        with self.lock:
            word = (pattern & 0xFFFF_FFFF).to_bytes(4, "little")
            self.link.exchange(Request(Operation.FILL_MEMORY, a, size, word, index=a) for a, size in _spans(address, nbytes))

    def same(self, address: int, data: bytes) -> bool:
        """Whether memory holds ``data``, by the CRC-32 of each 64 KiB, which the board computes. Raises DeviceError outside of memory."""
        self._check_open()
        self._check_range(address, len(data))
        spans = list(_spans(address, len(data)))
        with self.lock:
            answers = self.link.exchange(Request(Operation.HASH_MEMORY, a, size, index=a) for a, size in spans)
        return [a.value for a in answers] == [zlib.crc32(data[a - address : a - address + size]) for a, size in spans]

    # Lists.

    def _execute(self, address: int, length: int, timeout: float) -> RunResult:
        before, deadline, poll = self.link.interrupts, time.monotonic() + timeout, FIRST_POLL
        self.registers.start(address, length)
        try:
            while True:
                remaining = deadline - time.monotonic()
                # The frame that tells of the end may be lost: the registers know.
                self.link.wait_interrupt(before, max(0.0, min(poll, remaining)))
                if not self.registers.busy():
                    return self.registers.result()
                if remaining <= 0:
                    raise DeviceTimeout(timeout, self._stop())
                before, poll = self.link.interrupts, min(LONGEST_POLL, 2 * poll)
        except KeyboardInterrupt:
            self._stop()
            raise

    def _stop(self) -> Status:
        """Abort the running list and return the status from before. Raises DeviceError where the bus does not come to rest."""
        status = self.registers.status()
        if not self.registers.drain(DRAIN_SECONDS):
            raise LinkError(f"the aborted list still waits for bus responses after {DRAIN_SECONDS:g} s: load the bitstream again")
        return status

    def close(self) -> None:
        super().close()
        self._port.close()


class LinkRegisters(Registers):
    """Several registers in one exchange: a round trip of USB takes as long as fifty frames."""

    def __init__(self, device: SerialDevice) -> None:
        super().__init__(device)
        self._device = device

    def read_words(self, offsets: Sequence[int]) -> list[int]:
        return self._device.read_registers(offsets)

    def write_words(self, values: Sequence[tuple[int, int]]) -> None:
        self._device.write_registers(values)


def _spans(address: int, nbytes: int) -> list[tuple[int, int]]:
    """Address and size of the requests that cover a stretch."""
    step = MAX_SPAN + 1 - 4096  # a multiple of every bus word
    return [(a, min(step, address + nbytes - a)) for a in range(address, address + nbytes, step)]
