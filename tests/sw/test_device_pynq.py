"""The board's device against a stand-in for the pynq package, whose programmable logic is the reference device."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from loralith.compiler.lists.command_list import CommandList
from loralith.device import ConfigMismatch, DeviceError, DeviceFault, DeviceTimeout, OutOfMemory, open_device
from loralith.device.reference import ReferenceDevice
from loralith.spec.commands import Command, Opcode
from loralith.spec.config import PRESETS
from loralith.spec.registers import COUNTERS, ID, REGISTERS
from loralith.spec.status import Code
from loralith.spec.version import VERSION

CONFIG = PRESETS["tiny"]
BASE, SIZE = 0x1000_0000, 1 << 20


class Buffer(np.ndarray):
    """A CMA buffer whose writes are seen by the logic only once they are flushed, and the other way round."""

    device_address = BASE
    logic: ReferenceDevice

    def __array_finalize__(self, parent: Any) -> None:
        self.logic = getattr(parent, "logic", None)  # type: ignore[assignment]
        self.start = getattr(parent, "start", 0)

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        if isinstance(part, Buffer):
            part.start = key.start
        return part

    def flush(self) -> None:
        self.logic._write(BASE + self.start, np.asarray(self))

    def invalidate(self) -> None:
        np.asarray(self)[:] = self.logic._read(BASE + self.start, self.size)

    def freebuffer(self) -> None:
        self.logic.close()


class Mmio:
    """The register map over the reference device."""

    def __init__(self, logic: ReferenceDevice) -> None:
        self.logic, self.hangs, self.aborted = logic, False, False
        self.values = {"ID": ID, "VERSION": VERSION[0] << 16 | VERSION[1] << 8 | VERSION[2], "CONFIG_HASH": CONFIG.hash}

    def named(self, offset: int) -> tuple[str, int]:
        return next((r.name, offset - r.offset) for r in REGISTERS.values() if 0 <= offset - r.offset < r.width // 8)

    def read(self, offset: int) -> int:
        name, high = self.named(offset)
        if name == "STATUS" and self.hangs and not self.aborted:
            return 1
        return self.values.get(name, 0) >> 8 * high & 0xFFFF_FFFF

    def write(self, offset: int, value: int) -> None:
        name, high = self.named(offset)
        if name == "CONTROL":
            self.aborted = bool(value & 2)
            if value & 1 and not self.hangs:
                self.run()
            return
        self.values[name] = (value << 32 | self.values.get(name, 0)) if high else value

    def run(self) -> None:
        result = self.logic._execute(self.values["LIST_BASE"], self.values["LIST_LENGTH"], 1.0)
        status = result.status
        ended = 2 if status.code is Code.OK else 4
        self.values |= {"STATUS": ended | status.code << 8 | status.detail << 16 | status.unit << 24, "COMMANDS_DONE": result.commands_done}
        self.values |= {"ERROR_COMMAND": status.command, "ERROR_ADDRESS": status.address}
        self.values |= {name.upper(): value for (name, _), value in zip(COUNTERS, result.counters, strict=True)}


@pytest.fixture
def mmio(monkeypatch: pytest.MonkeyPatch) -> Mmio:
    logic = ReferenceDevice(CONFIG, memory_bytes=SIZE, memory_base=BASE)
    mmio = Mmio(logic)

    def allocate(shape: tuple[int], dtype: type) -> Buffer:
        buffer = np.zeros(shape, dtype).view(Buffer)
        buffer.logic = logic
        return buffer

    pynq = ModuleType("pynq")
    overlay = SimpleNamespace(ip_dict={"loralith": {}}, loralith=SimpleNamespace(mmio=mmio))
    pynq.Overlay, pynq.allocate = lambda path: overlay, allocate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynq", pynq)
    return mmio


@pytest.fixture
def bitfile(tmp_path: Path) -> str:
    path = tmp_path / "loralith.bit"
    path.touch()
    path.with_suffix(".hwh").touch()
    return f"pynq:{path}"


def test_products_and_counters_come_through_the_registers(mmio: Mmio, bitfile: str) -> None:
    rng = np.random.default_rng(0)
    left, right = rng.integers(-128, 128, (9, 30)).astype(np.int8), rng.integers(-128, 128, (30, 11)).astype(np.int8)
    with open_device(bitfile, CONFIG, memory_bytes=SIZE) as device:
        assert (device.matmul(left, right) == left.astype(np.int32) @ right.astype(np.int32)).all()
        assert device.last_counters.macs == 9 * 30 * 11
    assert mmio.values["WINDOW_LIMIT"] == BASE + SIZE


def test_a_fault_is_decoded(mmio: Mmio, bitfile: str) -> None:
    device = open_device(bitfile, CONFIG, memory_bytes=SIZE)
    with pytest.raises(DeviceFault) as caught:
        device.run(CommandList.of([Command.make(Opcode.LOAD, rows=1, row_bytes=8, address=BASE + SIZE)]))
    assert caught.value.status.code is Code.DRAM_WINDOW
    assert caught.value.status.address == BASE + SIZE


def test_a_list_that_hangs_is_aborted(mmio: Mmio, bitfile: str) -> None:
    device = open_device(bitfile, CONFIG, memory_bytes=SIZE)
    mmio.hangs = True
    with pytest.raises(DeviceTimeout, match=r"within 0\.01 s"):
        device.run(CommandList.of([Command.make(Opcode.LOAD, rows=1, row_bytes=8, address=BASE)]), timeout=0.01)
    assert mmio.aborted


def test_another_configuration_is_refused(mmio: Mmio, bitfile: str) -> None:
    with pytest.raises(ConfigMismatch, match=f"{CONFIG.hash:#010x}.*{PRESETS['base'].hash:#010x}"):
        open_device(bitfile, "base", memory_bytes=SIZE)


def test_what_is_missing_is_named(mmio: Mmio, bitfile: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"absent\.bit: no such bitfile"):
        open_device(f"pynq:{tmp_path}/absent.bit", CONFIG)
    with pytest.raises(DeviceError, match="no core 'other'; it has loralith"):
        open_device(bitfile, CONFIG, core="other")
    monkeypatch.setitem(sys.modules, "pynq", None)
    with pytest.raises(DeviceError, match="the pynq package is missing"):
        open_device(bitfile, CONFIG)


def raising(error: Exception) -> Any:
    def fail(*_arguments: Any, **_named: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "allocate",
            RuntimeError("Failed to allocate Memory!"),
            r"1,048,576 bytes .* Failed to allocate Memory!; give a smaller memory_bytes",
        ),
        ("allocate", MemoryError(), "cannot be had: MemoryError; give a smaller memory_bytes"),
        ("Overlay", PermissionError(13, "Permission denied"), r"loralith\.bit cannot be loaded: .*Permission denied \(run as root"),
        ("Overlay", RuntimeError("Root permission needed by the library."), r"cannot be loaded: Root permission .* \(run as root"),
        ("Overlay", RuntimeError("Unable to parse\n metadata"), "cannot be loaded: Unable to parse metadata$"),
        ("Overlay", TimeoutError("FPGA manager"), "cannot be loaded: FPGA manager$"),
    ],
)
def test_what_pynq_refuses_is_one_line(mmio: Mmio, bitfile: str, name: str, error: Exception, message: str, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules["pynq"], name, raising(error))
    with pytest.raises(DeviceError, match=message) as caught:
        open_device(bitfile, CONFIG, memory_bytes=SIZE)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, OutOfMemory) == (name == "allocate")


def test_a_bitfile_without_its_description_is_named(mmio: Mmio, bitfile: str) -> None:
    Path(bitfile.removeprefix("pynq:")).with_suffix(".hwh").unlink()
    with pytest.raises(DeviceError, match=r"loralith\.bit has no loralith\.hwh beside it"):
        open_device(bitfile, CONFIG)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import absent_library", "pynq is installed, but absent_library, which it needs, is not: install that"),
        ("raise OSError('no device tree')", "pynq is installed, but does not start: no device tree"),
        ("from pathlib import absent", "pynq is installed, but does not start: cannot import name 'absent'"),
    ],
)
def test_a_pynq_that_does_not_start_is_not_called_missing(bitfile: str, text: str, message: str, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "pynq", raising=False)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "pynq.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    with pytest.raises(DeviceError, match=message):
        open_device(bitfile, CONFIG)
