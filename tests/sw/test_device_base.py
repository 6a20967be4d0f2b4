"""What every device offers, on the reference device: memory, counters, products."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from loralith.compiler.lists.command_list import CommandList
from loralith.device import ConfigMismatch, DeviceError, OutOfMemory, open_device
from loralith.device.interpreter.axi_bursts import bursts
from loralith.device.reference import ReferenceDevice
from loralith.device.run_status import Counters, Status
from loralith.spec.commands import Command, Opcode
from loralith.spec.config import PRESETS
from loralith.spec.registers import COUNTERS
from loralith.spec.status import Check, Code, Unit

SIZE = 1 << 16


@pytest.fixture
def device() -> ReferenceDevice:
    return ReferenceDevice(PRESETS["tiny"], memory_bytes=SIZE)


@pytest.mark.parametrize("config", ["tiny", "base"])
def test_matmul_is_numpys_product(config: str) -> None:
    rng = np.random.default_rng(1)
    device = open_device("reference", config)
    shapes = [(1, 1, 1), (77, 4, 320), (4, 300, 9), (300, 3, 2), (64, 64, 64), *rng.integers(1, 301, (6, 3)).tolist()]
    for M, N, K in shapes:
        left = rng.integers(-128, 128, (M, K)).astype(np.int8)
        right = rng.integers(-128, 128, (K, N)).astype(np.int8)
        out = device.matmul(left, right)
        assert out.dtype == np.int32
        assert (out == left.astype(np.int32) @ right.astype(np.int32)).all(), (M, N, K)
        assert device.last_counters.macs == M * N * K
    assert device._heap.used <= 1 << 20, "operands stayed in device memory"


def test_matmul_takes_the_longest_exact_sum() -> None:
    device = open_device("reference", "tiny")
    left, right = np.full((1, 131_071), -128, np.int8), np.full((131_071, 1), -128, np.int8)
    assert device.matmul(left, right)[0, 0] == 131_071 * 2**14
    with pytest.raises(DeviceError, match=r"at most 131071 .* not 131072: split it and add on the host"):
        device.matmul(np.zeros((1, 131_072), np.int8), np.zeros((131_072, 1), np.int8))


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 2), np.int8), "left must be a numpy array of int8, not float64"),
        (np.zeros((2, 2), np.int8), [[1]], "right must be a numpy array of int8, not list"),
        (np.zeros(2, np.int8), np.zeros((2, 2), np.int8), r"left must have two dimensions, not shape \(2,\)"),
        (np.zeros((2, 3), np.int8), np.zeros((2, 3), np.int8), r"share K, not \(2, 3\) and \(2, 3\)"),
    ],
)
def test_matmul_refuses(device: ReferenceDevice, left: np.ndarray, right: np.ndarray, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        device.matmul(left, right)
    assert device.counters() == Counters()
    assert not device._heap.used


def test_matmul_of_nothing(device: ReferenceDevice) -> None:
    assert device.matmul(np.zeros((3, 0), np.int8), np.zeros((0, 2), np.int8)).tolist() == [[0, 0]] * 3
    assert device.matmul(np.zeros((0, 4), np.int8), np.zeros((4, 2), np.int8)).shape == (0, 2)


def test_memory_is_handed_out_and_taken_back(device: ReferenceDevice) -> None:
    a, b, c = device.alloc(100), device.alloc(5), device.alloc(64, 4096)
    assert a % 64 == 0
    assert b >= a + 100
    assert c % 4096 == 0
    device.free(a)
    assert device.alloc(90) == a
    with pytest.raises(DeviceError, match="not the start of an allocation"):
        device.free(a + 1)
    with pytest.raises(OutOfMemory, match=f"no {SIZE} bytes"):
        device.alloc(SIZE)
    for address in (a, b, c):
        device.free(address)
    assert device.alloc(SIZE) == device.memory_base


def test_arena_frees_what_was_allocated_within_and_keeps_the_rest(device: ReferenceDevice) -> None:
    kept = device.alloc(64)

    def fail() -> None:
        with device.arena():
            device.alloc(1000)
            device.run(CommandList.of([Command.make(Opcode.LOAD, rows=1, row_bytes=1, address=kept)]))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    inner = device._heap.taken
    assert kept in inner
    assert len(inner) == 2, "the list's buffer outlives the arena in which it was made"
    device.run(CommandList.of([Command.make(Opcode.LOAD, rows=1, row_bytes=1, address=kept)] * 100))


@pytest.mark.parametrize(("nbytes", "align", "message"), [(0, 64, "at least 1, not 0"), (1, 48, "power of two, not 48")])
def test_alloc_refuses(device: ReferenceDevice, nbytes: int, align: int, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        device.alloc(nbytes, align)


def test_write_and_read(device: ReferenceDevice) -> None:
    address = device.alloc(64)
    device.write(address, np.array([[1, 2], [3, 4]], ">i4")[:, ::-1])
    assert device.read(address, 16).view("<i4").tolist() == [2, 1, 4, 3]
    device.write(address, b"\x07")
    assert device.read(address, 2).tolist() == [7, 0]
    with pytest.raises(DeviceError, match="not inside device memory"):
        device.write(device.memory_base + SIZE - 1, b"ab")
    with pytest.raises(DeviceError, match="not inside device memory"):
        device.read(device.memory_base - 1, 1)


def test_counters_accumulate_and_have_the_machines_names(device: ReferenceDevice) -> None:
    assert [name for name, _ in COUNTERS] == list(Counters._fields)
    product = Command.make(Opcode.COMPUTE, m_rows=5, n_cols=4, k0=8)
    load = Command.make(Opcode.LOAD, rows=3, row_bytes=9, row_stride=16, address=device.alloc(64))
    device.run(CommandList.of([load, product]))
    first = device.counters()
    assert first == device.last_counters
    assert first.macs == 5 * 4 * 8
    assert first.busy == 2 * 8
    assert first.bytes_read == 2 * 128 + 3 * 16
    assert first.read_bursts == 2 + 3
    device.run(CommandList.of([product]))
    assert device.counters().macs == 2 * first.macs
    assert device.counters().minus(first) == device.last_counters


@pytest.mark.parametrize(
    ("address", "row_bytes", "rows", "stride", "expected"),
    [
        (0, 8, 1, 0, 1),
        (4096 - 8, 9, 1, 0, 2),
        (4096 - 8, 8, 2, 4096, 2),
        (0, 8 * 64, 1, 0, 1),
        (0, 8 * 64 + 1, 1, 0, 2),
        (8, 4096, 1, 0, 9),
        (0, 3 * 4096, 2, 4 * 4096, 48),
    ],
)
def test_bursts_are_cut_at_lines_and_at_the_longest_burst(address: int, row_bytes: int, rows: int, stride: int, expected: int) -> None:
    assert bursts(address, row_bytes, rows, stride, PRESETS["tiny"]) == expected


def test_status_is_decoded() -> None:
    status = Status.from_register(0x02_04_05_04, 7, 0x1234)
    assert status == Status(Code.DRAM_WINDOW, Check.ADDRESS, Unit.LOAD, 7, 0x1234)
    assert str(status) == "DRAM_WINDOW (ADDRESS) in unit LOAD, command 7, DRAM address 0x1234"


def test_config_mismatch_names_both_hashes() -> None:
    error = str(ConfigMismatch(0x12, 0x34, "tiny"))
    assert "0x00000012" in error
    assert "0x00000034" in error
    assert "'tiny'" in error


def test_devices_and_compiler_import_neither_torch_nor_amaranth() -> None:
    code = (
        "import sys, loralith.device as d, loralith.compiler.proof.checker, loralith.compiler.lists.assembly, numpy as n;"
        "z = n.zeros((2, 2), n.int8); d.open_device('reference', 'tiny').matmul(z, z);"
        "assert not {'torch', 'amaranth'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_share_a_device() -> None:
    """Products of four threads at once; each is exact, and nothing stays allocated but the list's buffer."""
    device = open_device("reference", "tiny")
    rng = np.random.default_rng(3)
    pairs = [(rng.integers(-9, 9, (5, 11 + n)).astype(np.int8), rng.integers(-9, 9, (11 + n, 6)).astype(np.int8)) for n in range(4)]

    def work(pair: tuple[np.ndarray, np.ndarray]) -> int:
        left, right = pair
        want = left.astype(np.int32) @ right
        return sum((device.matmul(left, right) == want).all() for _ in range(12))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(work, pairs)) == [12] * 4
    finally:
        sys.setswitchinterval(before)
    assert len(device.heap.taken) == 1


def test_an_arena_keeps_its_own_though_older_memory_is_freed_within(device: ReferenceDevice) -> None:
    old = device.alloc(64)
    with device.arena():
        device.free(old)
        assert device.alloc(64) == old
    assert not device.heap.taken


def test_deferred_releases_come_before_the_next_allocation(device: ReferenceDevice) -> None:
    whole = device.alloc(SIZE)
    device.defer(lambda: device.free(whole))
    assert device.alloc(SIZE) == whole


def test_out_of_memory_says_what_would_do() -> None:
    device = ReferenceDevice(PRESETS["tiny"], memory_bytes=1 << 14)
    device.alloc(5000)
    with pytest.raises(OutOfMemory, match=r"no 20000 bytes.*memory_bytes=32768 or more instead of 16384, or take smaller batches"):
        device.alloc(20000)
    with ReferenceDevice(PRESETS["tiny"], memory_bytes=32768) as larger:
        larger.alloc(5000)
        larger.alloc(20000)


def test_a_closed_device_says_so(device: ReferenceDevice) -> None:
    address = device.alloc(64)
    device.close()
    device.close()
    for operation in (
        lambda: device.alloc(64),
        lambda: device.read(address, 1),
        lambda: device.write(address, b"a"),
        lambda: device.run(bytes(128)),
        lambda: device.matmul(np.ones((2, 2), np.int8), np.ones((2, 2), np.int8)),
    ):
        with pytest.raises(DeviceError, match="the device is closed"):
            operation()
    device.free(address)
