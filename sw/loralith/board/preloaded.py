"""A simulated board whose memory is filled beside the line, and compared with what was to be there by the line."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from loralith.device.device_errors import DeviceError
from loralith.device.run_status import RunResult
from loralith.device.serial import SerialDevice
from loralith.spec.config import Config
from loralith.spec.sdram import BEAT_BYTES

__all__ = ["PreloadedDevice"]

SMALL = 4096
"""Bytes of a write that is never put into memory beside the line."""


class LoadableBoard(Protocol):
    """What `PinSimulation` offers of it: the port of the line, a way into memory beside the line, and what has passed so far."""

    port: str

    def load(self, path: Path, address: int) -> None: ...

    def stats(self) -> dict[str, Any]: ...


class PreloadedDevice(SerialDevice):
    """`SerialDevice` on ``board``, with most of the set-up taken off the line, on which a megabyte takes minutes of simulation.

    Until the first list runs, writes of more than `SMALL` bytes go over the line while they come to no more than ``through_pins`` bytes
    in all. Those after that go into the memory chip's model, and the board's own CRC-32 of them must be theirs (`SerialDevice.same`), so
    that the line, the bus and the memory's pins have carried every byte once. From the first list on every write goes over the line.

    Raises DeviceError as `SerialDevice`, and where memory holds anything else than was put there.

    Attributes: ``preloaded``, bytes that were put into memory beside the line. ``starts``: the board's `stats` at the start of each list.
    """

    def __init__(self, config: Config, board: LoadableBoard, *, through_pins: int, **options: Any) -> None:
        if through_pins < 0:
            raise DeviceError(f"through_pins must be 0 or more bytes, not {through_pins}")
        self._board, self._left, self._set_up = board, through_pins, True
        self.preloaded = 0
        self.starts: list[dict[str, Any]] = []
        super().__init__(config, board.port, **options)

    def _write(self, address: int, data: np.ndarray) -> None:
        if not self._set_up or data.size <= SMALL:
            super()._write(address, data)
            return
        through = min(self._left, data.size) // BEAT_BYTES * BEAT_BYTES
        if address % BEAT_BYTES:
            through = data.size
        self._left = max(0, self._left - through)
        if through:
            super()._write(address, data[:through])
        if through < data.size:
            self._preload(address + through, data[through:].tobytes())

    def _preload(self, address: int, data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "memory"
            path.write_bytes(data)
            self._board.load(path, address)
        if not self.same(address, data):
            raise DeviceError(f"the board's memory from {address:#x} on is not what was put there: {len(data)} bytes, by their CRC-32")
        self.preloaded += len(data)

    def _execute(self, address: int, length: int, timeout: float) -> RunResult:
        self._set_up = False
        self.starts.append(self._board.stats())
        return super()._execute(address, length, timeout)
