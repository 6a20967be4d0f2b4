"""The RTL of accelerator and serial link behind a pseudo terminal, driven by the same device class as a board."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from loralith.compiler.schedules.example import example
from loralith.device import DeviceError, DeviceFault, DeviceTimeout, open_device
from loralith.device.link.link_errors import LinkError
from loralith.device.native.linked import LinkedSimulation
from loralith.device.reference import ReferenceDevice
from loralith.device.serial import SerialDevice
from loralith.spec.commands import COMMAND_BYTES, Command, Opcode
from loralith.spec.config import PRESETS
from loralith.spec.link import FRAME_BYTES, Status
from loralith.spec.registers import REGISTERS
from loralith.spec.status import Code
from loralith.verif.bench.cable import FaultyCable, LineFaults

CONFIG = PRESETS["tiny"]
BASE, BYTES = 0, 1 << 20
PATIENCE = 20.0  # of a machine that does other things too
EXAMPLE = example(CONFIG, BASE + 8192)


@pytest.fixture(scope="module")
def board() -> Iterator[LinkedSimulation]:
    with LinkedSimulation(CONFIG, memory_base=BASE, memory_bytes=BYTES) as simulation:
        yield simulation
        stats = simulation.stats()
        assert stats["violation"] == ""
        assert stats["broken_bytes"] == 0


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    reference = ReferenceDevice(CONFIG, BYTES, BASE)
    reference.write(EXAMPLE.address, EXAMPLE.image)
    reference.run(EXAMPLE.commands)
    return reference.read(*EXAMPLE.results)


def open_board(port: str) -> SerialDevice:
    device = open_device(f"serial:{port}", CONFIG, patience=PATIENCE)
    assert isinstance(device, SerialDevice)
    return device


def run_example(device: SerialDevice) -> np.ndarray:
    device.write(EXAMPLE.address, EXAMPLE.image)
    device.fill(EXAMPLE.results[0], EXAMPLE.results[1])
    device.run(EXAMPLE.commands)
    return device.read(*EXAMPLE.results)


def test_a_list_over_the_line_is_bit_exact(board: LinkedSimulation, expected: np.ndarray) -> None:
    with open_board(board.port) as device:
        np.testing.assert_array_equal(run_example(device), expected)
        assert device.link.interrupts == 1
        assert device.last_counters.macs > 0
        left, right = (np.random.default_rng(i).integers(-128, 128, shape, dtype=np.int8) for i, shape in enumerate(((5, 19), (19, 6))))
        np.testing.assert_array_equal(device.matmul(left, right), left.astype(np.int32) @ right.astype(np.int32))


def test_nine_tenths_of_the_wire_are_payload_each_way(board: LinkedSimulation) -> None:
    data = np.random.default_rng(0).integers(0, 256, 8000, dtype=np.uint8)
    with open_board(board.port) as device:

        def bytes_so_far(way: str) -> int:
            """Without those of requests that were sent again because this machine was busy for a while."""
            return board.stats()[way] - device.link.resent * (FRAME_BYTES + 4)

        before = bytes_so_far("bytes_to_board")
        device.write(BASE + 5, data)
        written, before = bytes_so_far("bytes_to_board") - before, bytes_so_far("bytes_from_board")
        np.testing.assert_array_equal(device.read(BASE + 5, data.size), data)
        read = bytes_so_far("bytes_from_board") - before
    assert 0.9 * written <= data.size < written
    assert 0.9 * read <= data.size


def test_a_line_that_damages_one_byte_in_a_hundred_changes_no_bit(board: LinkedSimulation, expected: np.ndarray, tmp_path: Path) -> None:
    faults = LineFaults(1), LineFaults(2)
    with FaultyCable(board.port, tmp_path / "port", *faults) as cable, open_board(cable.path) as device:
        np.testing.assert_array_equal(run_example(device), expected)
        assert device.same(EXAMPLE.results[0], expected.tobytes())
        assert device.link.resent > 0
    assert all(sum(direction.counts.values()) > 10 for direction in faults)


def test_an_error_of_the_bus_is_told_and_the_next_access_works(board: LinkedSimulation) -> None:
    with open_board(board.port) as device:
        device.memory_bytes = 2 * BYTES  # the check that would not let it get so far
        with pytest.raises(LinkError, match=f"READ_MEMORY at {BYTES:#x}: the bus answers DECERR") as told:
            device.read(BYTES, 8)
        assert told.value.status is Status.DECODE_ERROR
        with pytest.raises(LinkError, match="WRITE_MEMORY"):
            device.write(BYTES, b"x")
        with pytest.raises(LinkError, match="the bus answers SLVERR"):
            device.read_register(0x1F0)
        with pytest.raises(LinkError, match="READ_REGISTER at 0x8000: the bus answers DECERR"):
            device.read_soc_register(0)
        device.write(BASE, b"works")
        assert bytes(device.read(BASE, 5)) == b"works"


def test_a_fault_and_a_list_that_does_not_end_are_told_and_the_next_list_works(board: LinkedSimulation, expected: np.ndarray) -> None:
    with open_board(board.port) as device:
        with pytest.raises(DeviceFault, match="BAD_OPCODE") as fault:
            device.run(bytes([0xEE]) + bytes(COMMAND_BYTES - 1))
        assert fault.value.status.code is Code.BAD_OPCODE
        waits = Command.make(Opcode.LOAD, rows=1, row_bytes=8, wait=1)  # for a token that never comes
        device.registers.set("WATCHDOG", 0xFFFF_FFFF)
        with pytest.raises(DeviceTimeout, match=r"did not end within 0\.2 s"):
            device.run(waits.pack(), timeout=0.2)
        np.testing.assert_array_equal(run_example(device), expected)


HOST = """
import sys
from loralith.device import DeviceError, open_device
with open_device("serial:" + sys.argv[1], "tiny", patience=20.0) as device:
    device.registers.set("WATCHDOG", 0xFFFF_FFFF)
    if sys.argv[2] == "list":
        from loralith.spec.commands import Command, Opcode
        # A load that waits for a token which never comes.
        device.write(0, Command.make(Opcode.LOAD, rows=1, row_bytes=8, wait=1).pack())
        device.registers.start(0, 1)
        assert device.registers.busy()
    print("ready", flush=True)
    while True:
        device.write(4096, bytes(range(1, 256)) * 64)
"""


@pytest.mark.parametrize("what", ["transfer", "list"])
def test_a_host_that_is_killed_does_not_disturb_the_next_one(what: str, board: LinkedSimulation, expected: np.ndarray) -> None:
    host = subprocess.Popen([sys.executable, "-c", HOST, board.port, what], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    with host, host.stdout:
        assert host.stdout.readline() == "ready\n"
        time.sleep(0.3)  # in the middle of a transfer
        host.send_signal(signal.SIGKILL)
    with open_board(board.port) as device:
        assert device.read_register(REGISTERS["CONFIG_HASH"].offset) == CONFIG.hash
        np.testing.assert_array_equal(run_example(device), expected)


def test_a_cable_that_is_pulled_and_put_back_is_no_error(board: LinkedSimulation, tmp_path: Path) -> None:
    data = np.random.default_rng(3).integers(0, 256, 6000, dtype=np.uint8)
    with FaultyCable(board.port, tmp_path / "port") as cable, open_board(cable.path) as device:

        def pull() -> None:
            time.sleep(0.2)
            cable.pull()
            time.sleep(0.2)
            cable.plug()

        puller = threading.Thread(target=pull)
        puller.start()
        device.write(BASE, data)
        puller.join()
        np.testing.assert_array_equal(device.read(BASE, data.size), data)


def test_a_cable_that_stays_pulled_is_an_error(board: LinkedSimulation, tmp_path: Path) -> None:
    with FaultyCable(board.port, tmp_path / "port") as cable, open_board(cable.path) as device:
        device.link.patience = 0.3
        cable.pull()
        with pytest.raises(DeviceError, match=r"has gone and was not back within 0.3 s"):
            device.read_register(0)
        cable.plug()
        device.link.patience = PATIENCE
        assert device.read_register(REGISTERS["CONFIG_HASH"].offset) == CONFIG.hash


def test_what_is_in_memory_from_the_start_is_checked_by_its_hash(tmp_path: Path) -> None:
    data = np.random.default_rng(4).integers(0, 256, 70_000, dtype=np.uint8).tobytes()
    (tmp_path / "weights").write_bytes(data)
    with (
        LinkedSimulation(CONFIG, memory_base=BASE, memory_bytes=BYTES, preload={tmp_path / "weights": 0x100}) as board,
        open_board(board.port) as device,
    ):
        assert device.same(0x100, data)
        assert not device.same(0x100, data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.slow
def test_three_megabaud_of_a_hundred_megahertz() -> None:
    with LinkedSimulation(CONFIG, divider=33, memory_base=BASE, memory_bytes=BYTES) as board, open_board(board.port) as device:
        left, right = (np.random.default_rng(i).integers(-128, 128, shape, dtype=np.int8) for i, shape in enumerate(((3, 9), (9, 2))))
        np.testing.assert_array_equal(device.matmul(left, right), left.astype(np.int32) @ right.astype(np.int32))


def test_a_program_that_does_not_start_is_told(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="nowhere cannot be read"):
        LinkedSimulation(CONFIG, memory_base=BASE, memory_bytes=BYTES, preload={tmp_path / "nowhere": 0})
