"""The shared library's C interface, through ctypes. `settings.h` and `model.cpp` are its other side."""

from __future__ import annotations

import ctypes
from ctypes import CDLL, POINTER, byref, c_char_p, c_int, c_uint8, c_uint32, c_uint64, c_void_p
from pathlib import Path

import numpy as np

__all__ = ["Library", "Model", "Settings", "Stats"]

CHANNELS = ("ar", "r", "aw", "w", "b")
"""Order of `Settings.stall` and of the bits of a recorded cycle."""


class Settings(ctypes.Structure):
    """`Settings` of settings.h, where every field is explained."""

    _fields_ = (
        ("dram_base", c_uint64),
        ("dram_bytes", c_uint64),
        ("window_base", c_uint64),
        ("window_limit", c_uint64),
        ("outstanding_reads", c_uint32),
        ("outstanding_writes", c_uint32),
        ("max_burst", c_uint32),
        ("read_latency", c_uint32),
        ("write_latency", c_uint32),
        ("read_rate", c_uint32),
        ("write_rate", c_uint32),
        ("stall", c_uint32 * len(CHANNELS)),
        ("stall_length", c_uint32),
        ("seed", c_uint64),
        ("read_error_beat", c_uint64),
        ("write_error_burst", c_uint64),
        ("error_base", c_uint64),
        ("error_limit", c_uint64),
        ("error_response", c_uint32),
    )


class Stats(ctypes.Structure):
    """`Stats` of settings.h: what went over the bus since creation."""

    _fields_ = tuple(
        (name, c_uint64)
        for name in (
            *("cycles", "last_write", "read_beats", "write_beats", "read_bursts", "write_bursts"),
            *("outside_window", "outside_dram", "violations", "reads_pending", "writes_pending", "lowest", "highest"),
        )
    )


class Library:
    """A loaded model library. Raises RuntimeError when its structs are not those of this module."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dll = dll = CDLL(str(path))
        for name, result, arguments in (
            ("create", c_void_p, [POINTER(Settings)]),
            ("destroy", None, [c_void_p]),
            ("configure", None, [c_void_p, POINTER(Settings)]),
            ("reset", None, [c_void_p, c_uint32]),
            ("memory", c_void_p, [c_void_p]),
            ("write", c_int, [c_void_p, c_uint32, c_uint32]),
            ("read", c_int, [c_void_p, c_uint32, POINTER(c_uint32)]),
            ("wait", c_int, [c_void_p, c_uint64]),
            ("tick", None, [c_void_p, c_uint64]),
            ("stats", None, [c_void_p, POINTER(Stats)]),
            ("violation", c_char_p, [c_void_p]),
            ("record", None, [c_void_p, c_int]),
            ("recording", c_uint64, [c_void_p, POINTER(c_void_p)]),
            ("trace_open", c_int, [c_void_p, c_char_p]),
            ("trace_close", None, [c_void_p]),
        ):
            function = getattr(dll, f"loralith_{name}")
            function.restype, function.argtypes = result, arguments
        for struct in (Settings, Stats):
            size = getattr(dll, f"loralith_{struct.__name__.lower()}_size")()
            if size != ctypes.sizeof(struct):
                raise RuntimeError(f"{path}: {struct.__name__} has {size} bytes there and {ctypes.sizeof(struct)} here")

    @property
    def bus_bytes(self) -> int:
        return self.dll.loralith_bus_bytes()


class Model:
    """One machine with its DRAM. `memory` is all of DRAM as a numpy array of bytes, valid until `close`."""

    def __init__(self, library: Library, settings: Settings) -> None:
        self._dll = library.dll
        self._handle = self._dll.loralith_create(byref(settings))
        if not self._handle:
            raise MemoryError(f"no {settings.dram_bytes} bytes for the simulated DRAM")
        address = self._dll.loralith_memory(self._handle)
        self.memory = np.ctypeslib.as_array((c_uint8 * settings.dram_bytes).from_address(address))

    @property
    def handle(self) -> int:
        """The machine, for further functions of its library."""
        assert self._handle is not None, "the model is closed"
        return self._handle

    def close(self) -> None:
        """Free the machine and its DRAM. Idempotent."""
        if self._handle:
            self.memory = np.empty(0, np.uint8)
            self._dll.loralith_destroy(self._handle)
            self._handle = None

    def configure(self, settings: Settings) -> None:
        """Take over all settings but the place and size of DRAM."""
        self._dll.loralith_configure(self._handle, byref(settings))

    def reset(self, cycles: int = 4) -> None:
        """Hold aresetn low for some cycles; bursts in flight are forgotten."""
        self._dll.loralith_reset(self._handle, cycles)

    def write(self, address: int, data: int) -> int:
        """Write a 32-bit register; returns BRESP, or -1 when the machine does not answer."""
        return self._dll.loralith_write(self._handle, address, data)

    def read(self, address: int) -> tuple[int, int]:
        """Read a 32-bit register; returns (RRESP, data), or (-1, 0) when the machine does not answer."""
        data = c_uint32()
        return self._dll.loralith_read(self._handle, address, byref(data)), data.value

    def wait(self, cycles: int) -> bool:
        """Run until irq is high, at most `cycles`; returns whether it is."""
        return bool(self._dll.loralith_wait(self._handle, cycles))

    def tick(self, cycles: int) -> None:
        self._dll.loralith_tick(self._handle, cycles)

    def stats(self) -> Stats:
        stats = Stats()
        self._dll.loralith_stats(self._handle, byref(stats))
        return stats

    def violation(self) -> str:
        """The first breach of the bus protocol so far, or an empty string."""
        return self._dll.loralith_violation(self._handle).decode()

    def record(self, on: bool) -> None:
        """Start to record (forgetting an earlier record), or stop."""
        self._dll.loralith_record(self._handle, on)

    def recording(self) -> bytes:
        """One byte per recorded cycle: what the memory drove, bits ARREADY, RVALID, AWREADY, WREADY, BVALID from bit 0."""
        data = c_void_p()
        size = self._dll.loralith_recording(self._handle, byref(data))
        return ctypes.string_at(data, size) if size else b""

    def trace_open(self, path: Path) -> bool:
        """Write waveforms (VCD) to `path` from now on; False when the library was built without them."""
        return bool(self._dll.loralith_trace_open(self._handle, str(path).encode()))

    def trace_close(self) -> None:
        self._dll.loralith_trace_close(self._handle)
