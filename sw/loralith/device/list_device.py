"""Device memory, command lists and counters: what products and layers are built on. `device.device` adds products."""

from __future__ import annotations

import gc
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, TypeVar

import numpy as np

from loralith.compiler.lists.assembly import format_raw
from loralith.compiler.lists.command_list import CommandList
from loralith.device.device_errors import DeviceError, DeviceFault, OutOfMemory
from loralith.device.heap import Heap
from loralith.device.run_status import Counters, RunResult
from loralith.spec.commands import COMMAND_BYTES
from loralith.spec.config import Config
from loralith.spec.status import Code, Unit

__all__ = ["SIMULATED_BYTES", "ListDevice"]

Own = TypeVar("Own", bound="ListDevice")
"""Not `Self`, which Python 3.11 added: a board has 3.10."""

PAGE = 4096
SIMULATED_BYTES = 16 << 30
"""Device memory of a simulated device where nobody says otherwise. The host has only what was written of it."""


class ListDevice(ABC):
    """One accelerator and its memory.

    A backend implements `_write`, `_read` and `_execute`, and calls `super().__init__` with the stretch of memory that the machine may
    reach. Device memory lies at absolute addresses, which commands use as they are.

    Threads may share a device: each product and each list has it alone, and so has whoever holds `lock`.

    Attributes:
        config: the hardware's configuration.
        lock: re-entrant; held by whoever needs several operations to stand together.
        closed: whether `close` was called; operations then raise DeviceError.
        memory_base, memory_bytes: the stretch of memory that `alloc` hands out and that the DRAM window opens.
        last_counters: counters of the latest list.
        direct: whether products are computed without lists, see `DirectDevice`.
        patience: seconds that a list which nobody set a time for may take: a board's that computes for minutes is stuck.
        cycle_unit: what the counter `cycles` counts, in words: cycles of the clock, the array's steps, or nothing (None) where the counters
            do not tell of all that was computed.
    """

    direct = False
    patience: ClassVar[float] = 600.0
    cycle_unit: ClassVar[str | None] = "cycles"

    def __init__(self, config: Config, memory_base: int, memory_bytes: int) -> None:
        self.config = config
        self.memory_base, self.memory_bytes = memory_base, memory_bytes
        self.last_counters = Counters()
        self._total = Counters()
        self.lock = threading.RLock()
        self.closed = False
        self._heap = Heap(memory_base, memory_bytes)
        self._deferred: deque[Callable[[], None]] = deque()
        self._list: tuple[int, int] | None = None  # address and bytes of the buffer that lists are written to

    # What a backend implements.

    @abstractmethod
    def _write(self, address: int, data: np.ndarray) -> None:
        """Copy uint8 [n] to device memory; the range has been checked."""

    @abstractmethod
    def _read(self, address: int, nbytes: int) -> np.ndarray:
        """A copy of device memory, uint8 [nbytes]; the range has been checked."""

    @abstractmethod
    def _execute(self, address: int, length: int, timeout: float) -> RunResult:
        """Run the `length` commands at `address` to their end or fault. Raises DeviceTimeout after `timeout` seconds."""

    def close(self) -> None:
        """Let go of the device. Using it afterwards raises DeviceError; closing twice, and `free`, do not."""
        self.closed = True

    def _check_open(self) -> None:
        if self.closed:
            raise DeviceError("the device is closed: open another one, and attach the model again")

    # Memory.

    def alloc(self, nbytes: int, align: int = 64) -> int:
        """The address of `nbytes` bytes of device memory, a multiple of `align` and of the bus width. The content is whatever was there.

        Raises OutOfMemory, and DeviceError for a size below 1 or an `align` that is no power of two.
        """
        self._check_open()
        if nbytes < 1:
            raise DeviceError(f"nbytes must be at least 1, not {nbytes}")
        if align < 1 or align & (align - 1):
            raise DeviceError(f"align must be a power of two, not {align}")
        # Rounded up to bus words: the last beat of a row then stays inside the allocation.
        word = self.config.bus_bytes
        nbytes = -(-nbytes // word) * word
        with self.lock:
            self.run_deferred()
            try:
                return self._heap.take(nbytes, max(align, word))
            except OutOfMemory:
                gc.collect()  # what only a cycle of Python objects still holds may be in the way
                self.run_deferred()
            try:
                return self._heap.take(nbytes, max(align, word))
            except OutOfMemory as error:
                least = 1 << (self._heap.used + nbytes).bit_length()
                raise OutOfMemory(f"{error}; {self._memory_advice(least)}") from None

    def _memory_advice(self, least: int) -> str:
        """What helps where memory is too small and ``least`` bytes of it may do."""
        return f"open the device with memory_bytes={least} or more instead of {self.memory_bytes}, or take smaller batches"

    def free(self, address: int) -> None:
        """Give back what `alloc` returned. Raises DeviceError for any other address."""
        with self.lock:
            self._heap.give(address)

    def defer(self, release: Callable[[], None]) -> None:
        """Calls ``release``, which frees device memory, before the next allocation or look at `heap`. For finalizers, which may run in the
        middle of anything."""
        self._deferred.append(release)

    def run_deferred(self) -> None:
        """Runs what was deferred."""
        with self.lock:
            while self._deferred:
                self._deferred.popleft()()

    @contextmanager
    def arena(self) -> Iterator[None]:
        """Within it, `alloc` as usual; at its end everything allocated within is freed, whether or not it ended well. Holds `lock`."""
        with self.lock:
            before = self._heap.count
            try:
                yield
            finally:
                new = self._heap.since(before)
                self._heap.scratch = max(self._heap.scratch, sum(self._heap.size(address) for address in new))
                for address in new:
                    if self._list is None or address != self._list[0]:
                        self._heap.give(address)

    @property
    def heap(self) -> Heap:
        """What is allocated, to look at."""
        self.run_deferred()
        return self._heap

    def write(self, address: int, data: bytes | bytearray | memoryview | np.ndarray) -> None:
        """Copy `data` (an array: its elements in C order, little endian) to device memory. Raises DeviceError outside of it."""
        self._check_open()
        if isinstance(data, np.ndarray):
            flat = np.ascontiguousarray(data.astype(data.dtype.newbyteorder("<"), copy=False)).reshape(-1).view(np.uint8)
        else:
            flat = np.frombuffer(data, np.uint8)
        self._check_range(address, flat.size)
        if flat.size:
            self._write(address, flat)

    def read(self, address: int, nbytes: int) -> np.ndarray:
        """A copy of device memory as uint8 [nbytes]; `.view(dtype)` makes other types of it. Raises DeviceError outside of it."""
        self._check_open()
        self._check_range(address, nbytes)
        return self._read(address, nbytes)

    def view(self, address: int, nbytes: int) -> np.ndarray:
        """As `read`, but it may be the device's own memory: for use before the next write, and not to be changed."""
        return self.read(address, nbytes)

    def _check_range(self, address: int, nbytes: int) -> None:
        end = self.memory_base + self.memory_bytes
        if nbytes < 0 or not self.memory_base <= address or address + nbytes > end:
            raise DeviceError(f"{nbytes} bytes at {address:#x} are not inside device memory, {self.memory_base:#x}..{end - 1:#x}")

    # Lists.

    def run(self, commands: CommandList | bytes, timeout: float = 60.0) -> RunResult:
        """Run a command list, or its packed descriptors, and wait for its end.

        `timeout` is in seconds. Raises DeviceFault when the list stops with an error, DeviceTimeout when it does not end in time, and
        DeviceError for an empty list or bytes that are not a multiple of a descriptor.
        """
        data = commands.pack() if isinstance(commands, CommandList) else bytes(commands)
        if not data or len(data) % COMMAND_BYTES:
            raise DeviceError(f"a list is at least one command of {COMMAND_BYTES} bytes, a multiple of that: not {len(data)} bytes")
        with self.lock:
            self._check_open()
            address = self._list_buffer(len(data))
            self.write(address, data)
            return self.run_placed(address, len(data) // COMMAND_BYTES, timeout)

    def run_placed(self, address: int, length: int, timeout: float = 60.0) -> RunResult:
        """As `run`, of the `length` commands that lie in device memory at `address`."""
        with self.lock:
            self._check_open()
            result = self._execute(address, length, timeout)
            self.last_counters = result.counters
            self._total = self._total.plus(result.counters)
            if result.status.code is not Code.OK:
                raise DeviceFault(result.status, self._blame(address, length, result))
        return result

    def run_at(self, address: int, length: int, timeout: float = 60.0) -> RunResult:
        """Run the `length` commands that lie at `address`, and return how they ended, a fault included. Raises DeviceTimeout."""
        return self._execute(address, length, timeout)

    def _list_buffer(self, nbytes: int) -> int:
        if self._list is None or self._list[1] < nbytes:
            if self._list is not None:
                self.free(self._list[0])
                self._list = None
            size = -(-nbytes // PAGE) * PAGE
            self._list = (self.alloc(size, PAGE), size)
        return self._list[0]

    def _blame(self, address: int, length: int, result: RunResult) -> str:
        index = result.status.command
        if result.status.unit in (Unit.NONE, Unit.HOST):
            return f"{result.commands_done} of {length} commands were complete"
        if index >= length:
            return ""
        return format_raw(self.read(address + index * COMMAND_BYTES, COMMAND_BYTES).tobytes(), index)

    def counters(self) -> Counters:
        """Counters summed over all lists since the device was opened, faulting ones included; see `Counters.minus`."""
        return self._total

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
