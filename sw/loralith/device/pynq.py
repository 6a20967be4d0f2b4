"""An FPGA board under PYNQ: the bitfile's registers by memory-mapped IO, and one stretch of the board's DRAM as device memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from loralith.device.device import Device
from loralith.device.device_errors import DeviceError, DeviceTimeout, OutOfMemory
from loralith.device.driver import Registers
from loralith.device.run_status import RunResult, Status
from loralith.spec.config import Config

__all__ = ["PynqDevice"]

POLL_SECONDS = 50e-6
DRAIN_SECONDS = 1.0
"""Time that an aborted list has to take in its outstanding responses."""


class PynqDevice(Device):
    """The accelerator in the programmable logic of a Zynq board. It needs the `pynq` package, which the board's image brings.

    Parameters:
        bitfile: the overlay to load, its .hwh file beside it.
        memory_bytes: contiguous DRAM to take for device memory; the board's CMA area must have it.
        core: name of the accelerator in the overlay's block design.

    Raises DeviceError where pynq, the bitfile or the core is missing and where PYNQ refuses to load it, OutOfMemory where the CMA area has
    not so much left, ConfigMismatch for a bitfile of another configuration.
    """

    def __init__(self, config: Config, bitfile: str | Path, *, memory_bytes: int = 64 << 20, core: str = "loralith") -> None:
        self._buffer: Any = None
        pynq, path = _import_pynq(), Path(bitfile)
        if not path.is_file():
            raise DeviceError(f"{bitfile}: no such bitfile")
        if path.suffix == ".bit" and not path.with_suffix(".hwh").is_file():
            raise DeviceError(f"{bitfile} has no {path.with_suffix('.hwh').name} beside it, which says what the overlay holds")
        try:
            overlay = pynq.Overlay(str(bitfile))
            cores = sorted(overlay.ip_dict)
            self._mmio: Any = getattr(overlay, core).mmio if core in cores else None
        except Exception as error:  # of PYNQ, its libraries and the kernel's drivers: no common class
            raise DeviceError(f"{bitfile} cannot be loaded: {_one_line(error)}") from error
        if self._mmio is None:
            raise DeviceError(f"{bitfile} has no core {core!r}; it has {', '.join(cores) or 'none'}")
        try:
            self._buffer = pynq.allocate(shape=(memory_bytes,), dtype=np.uint8)
        except Exception as error:
            raise OutOfMemory(
                f"{memory_bytes:,} bytes of contiguous memory cannot be had: {_one_line(error)}; give a smaller memory_bytes, or boot with "
                "a larger CMA area (cma=256M)"
            ) from error
        try:
            super().__init__(config, int(self._buffer.device_address), memory_bytes)
            self.registers = Registers(self)
            self.registers.open(config, self.memory_base, self.memory_base + memory_bytes)
        except DeviceError:
            self.close()
            raise

    def read_register(self, offset: int) -> int:
        return int(self._mmio.read(offset))

    def write_register(self, offset: int, value: int) -> None:
        self._mmio.write(offset, value)

    def _write(self, address: int, data: np.ndarray) -> None:
        start = address - self.memory_base
        self._buffer[start : start + data.size] = data
        self._buffer[start : start + data.size].flush()

    def _read(self, address: int, nbytes: int) -> np.ndarray:
        start = address - self.memory_base
        part = self._buffer[start : start + nbytes]
        part.invalidate()
        return np.array(part, np.uint8)

    def _execute(self, address: int, length: int, timeout: float) -> RunResult:
        self.registers.start(address, length)
        deadline = time.monotonic() + timeout
        try:
            while self.registers.busy():
                if time.monotonic() > deadline:
                    raise DeviceTimeout(timeout, self._stop())
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            self._stop()
            raise
        return self.registers.result()

    def _stop(self) -> Status:
        """Abort the running list and return the status from before. Raises DeviceError where the bus does not come to rest."""
        status = self.registers.status()
        if not self.registers.drain(DRAIN_SECONDS, POLL_SECONDS):
            raise DeviceError(f"the aborted list still waits for bus responses after {DRAIN_SECONDS:g} s: load the bitfile again")
        return status

    def close(self) -> None:
        super().close()
        if self._buffer is not None:
            self._buffer.freebuffer()
            self._buffer = None


def _import_pynq() -> Any:
    try:
        import pynq  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        if error.name != "pynq":
            raise DeviceError(f"pynq is installed, but {error.name}, which it needs, is not: install that") from error
        raise DeviceError("the pynq package is missing: this device works on a board with a PYNQ image only") from None
    except Exception as error:  # pynq looks for the board as it is imported
        raise DeviceError(f"pynq is installed, but does not start: {_one_line(error)}") from error
    return pynq


def _one_line(error: Exception) -> str:
    """An error of another's in one line; what a person can do about the usual one."""
    text = " ".join(str(error).split()) or type(error).__name__
    denied = isinstance(error, PermissionError) or "root" in text.lower()
    return f"{text} (run as root: sudo -E)" if denied and "sudo" not in text else text
