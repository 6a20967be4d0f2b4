"""The RTL as a native model: products, programs, counters, memory timing and the device's own duties."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from loralith.compiler.schedules.emit import Emitter, Int8, Segment
from loralith.compiler.schedules.example import example
from loralith.compiler.storage.layout import fold_right, row_major
from loralith.compiler.storage.regions import Regions
from loralith.device import ConfigMismatch, DeviceError, DeviceTimeout, open_device
from loralith.device.native.build import verilog
from loralith.device.native.memory_model import MemoryTiming
from loralith.device.reference import ReferenceDevice
from loralith.device.verilator import VerilatorDevice
from loralith.soak.random_products import Soak
from loralith.spec.commands import COMMAND_BYTES
from loralith.spec.config import load_config
from loralith.spec.numerics import Requantization

BASE, BYTES = 1 << 32, 1 << 20
TIMINGS = {
    "default": MemoryTiming(),
    "fast": MemoryTiming(read_latency=1, write_latency=1),
    "slow": MemoryTiming(read_latency=400, write_latency=300, read_rate=0.2, write_rate=0.1),
    "stalled": MemoryTiming(read_latency=20, stall=0.3, seed=7),
    "reads stalled": MemoryTiming(stall={"ar": 0.5, "r": 0.5}, stall_length=30, seed=8),
    "writes stalled": MemoryTiming(stall={"aw": 0.5, "w": 0.5, "b": 0.5}, stall_length=30, seed=9),
}


@pytest.fixture(params=["tiny", "base"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def matrices(rng: np.random.Generator, most: int) -> tuple[np.ndarray, np.ndarray]:
    M, N, K = (int(v) for v in rng.integers(1, most + 1, 3))
    return rng.integers(-128, 128, (M, K), dtype=np.int8), rng.integers(-128, 128, (K, N), dtype=np.int8)


def run_example(device, seed: int = 1) -> np.ndarray:
    with device.arena():
        it = example(device.config, device.alloc(1 << 17, 4096), seed)
        device.write(it.address, it.image)
        device.run(it.commands)
        return device.read(*it.results)


@pytest.mark.parametrize("seed", range(4))
def test_products_are_exact(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with open_device("verilator", name) as device:
        for most in (17, 40, 90, 300 if seed == 0 else 150):
            left, right = matrices(rng, most)
            np.testing.assert_array_equal(device.matmul(left, right), left.astype(np.int32) @ right.astype(np.int32))


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5, 6, 7, 12, 16])
def test_skinny_products_are_exact(rank: int) -> None:
    rng = np.random.default_rng(rank)
    with open_device("verilator", "base") as device:
        for M, K, N in ((77, 61, rank), (rank, 97, 53), (53, rank, 31)):
            left, right = rng.integers(-128, 128, (M, K), dtype=np.int8), rng.integers(-128, 128, (K, N), dtype=np.int8)
            np.testing.assert_array_equal(device.matmul(left, right), left.astype(np.int32) @ right.astype(np.int32))


def test_longest_reduction_of_extremes_is_exact() -> None:
    left = np.full((1, 131_071), -128, np.int8)
    with open_device("verilator", "tiny") as device:
        assert device.matmul(left, left.T)[0, 0] == 131_071 << 14


@pytest.mark.parametrize("timing", TIMINGS.values(), ids=TIMINGS)
def test_example_leaves_the_reference_devices_memory(name: str, timing: MemoryTiming) -> None:
    expected = run_example(ReferenceDevice(load_config(name), BYTES, BASE))
    with VerilatorDevice(load_config(name), memory_base=BASE, memory_bytes=BYTES, timing=timing) as device:
        np.testing.assert_array_equal(run_example(device), expected)


@pytest.mark.parametrize("seed", range(3))
def test_random_products_with_stalls_are_exact(name: str, seed: int) -> None:
    with VerilatorDevice(load_config(name), timing=MemoryTiming(stall=0.1 * seed, seed=seed)) as device:
        soak = Soak(device, seed)
        for _ in range(3):
            assert soak.batch(100) is None


def test_lists_follow_without_reset(name: str) -> None:
    with VerilatorDevice(load_config(name), memory_base=BASE, memory_bytes=BYTES) as device:
        first = run_example(device)
        for _ in range(5):
            np.testing.assert_array_equal(run_example(device), first)


def test_same_program_takes_the_same_cycles() -> None:
    config = load_config("tiny")

    def cycles() -> int:
        with VerilatorDevice(config, memory_bytes=BYTES, timing=MemoryTiming(stall=0.2, seed=5)) as device:
            run_example(device)
            return device.last_counters.cycles

    assert cycles() == cycles()


@pytest.mark.parametrize("seed", range(3))
def test_counters_agree_with_the_bus_and_the_reference(name: str, seed: int) -> None:
    reference = ReferenceDevice(load_config(name), BYTES, BASE)
    run_example(reference, seed)
    with VerilatorDevice(load_config(name), memory_base=BASE, memory_bytes=BYTES) as device:
        before = device.bus()
        run_example(device, seed)
        after, counters, exact = device.bus(), device.last_counters, reference.last_counters
    W = device.config.bus_bytes
    assert counters.bytes_read == (after.read_beats - before.read_beats) * W
    assert counters.bytes_written == (after.write_beats - before.write_beats) * W
    assert counters.read_bursts == after.read_bursts - before.read_bursts
    assert counters.write_bursts == after.write_bursts - before.write_bursts
    assert counters.cycles == counters.busy + counters.wait_load + counters.wait_store + counters.fill_drain + counters.idle
    for field in ("busy", "bytes_read", "bytes_written", "macs", "saturations"):
        assert getattr(counters, field) == getattr(exact, field), field


def run_folds(device) -> tuple[np.ndarray, int, int]:
    """Products of every fold that saturate, into one slot of statistics: the slot, and what the counters say."""
    config, rng = device.config, np.random.default_rng(4)
    emitter, regions = Emitter(config), Regions(config)
    M, N, K = config.rows + 1, 3, 2 * config.max_fold + 1
    stats = device.alloc(64)
    for i, fold in enumerate(config.folds):
        left, right = rng.integers(-128, 128, (M, K), np.int8), fold_right(rng.integers(-128, 128, (K, N), np.int8), fold, config)
        at = regions.take("left", M, K), regions.take("right", *right.shape[::-1])
        for values, region in zip((left, right), at, strict=True):
            layout = row_major(*values.shape, config).at(device.alloc(values.size * config.bus_bytes))
            device.write(layout.address, layout.pack(values))
            emitter.load(layout, region, transpose=region.memory == "left")
        int8, result = Int8(Requantization(65535, 20 + i % 2)), regions.take("left", M, N)
        emitter.compute(M, N, (Segment(*at, K),), fold=fold, left_result=result, int8=int8, stat_slot=2, stat_clear=i == 0)
    emitter.store_stats(stats, 2, 1)
    device.run(emitter.finish())
    return device.read(stats, 16), device.last_counters.macs, device.last_counters.saturations


def test_statistics_and_counters_add_up_over_commands(name: str) -> None:
    slot, macs, saturations = run_folds(ReferenceDevice(load_config(name), BYTES, BASE))
    with VerilatorDevice(load_config(name), memory_base=BASE, memory_bytes=BYTES) as device:
        found = run_folds(device)
    np.testing.assert_array_equal(found[0], slot)
    assert found[1:] == (macs, saturations)
    assert saturations > 20
    assert int(slot[8:12].view("<u4")[0]) == saturations


def test_other_configuration_is_refused_by_name() -> None:
    tiny = verilog(load_config("tiny"))
    with pytest.raises(ConfigMismatch, match="'ecp5'") as refusal:
        VerilatorDevice(load_config("ecp5"), source=tiny)
    assert refusal.value.found == load_config("tiny").hash
    assert refusal.value.expected == load_config("ecp5").hash


def test_list_that_takes_too_long_is_aborted_and_the_next_one_runs() -> None:
    with VerilatorDevice(load_config("tiny"), memory_base=BASE, memory_bytes=BYTES) as device:
        expected = run_example(device)
        device.configure(timing=MemoryTiming(stall={"r": 1.0}, stall_length=1 << 30))
        device.max_cycles = 2000
        with pytest.raises(DeviceTimeout):
            run_example(device)
        device.configure(timing=MemoryTiming())
        device.max_cycles = None
        np.testing.assert_array_equal(run_example(device), expected)


def test_timeout_in_seconds_names_the_status() -> None:
    with VerilatorDevice(load_config("tiny"), memory_base=BASE, memory_bytes=BYTES) as device:
        device.registers.set("WATCHDOG", 0xFFFF_FFFF)
        device.configure(timing=MemoryTiming(stall={"r": 1.0}, stall_length=1 << 30))
        it = example(device.config, device.alloc(1 << 16, 4096))
        with pytest.raises(DeviceTimeout, match=r"did not end within 0\.2 s"):
            device.run(it.commands, timeout=0.2)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background of a shell, which ignores it for them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_stops_a_long_run_and_leaves_the_device_usable() -> None:
    with VerilatorDevice(load_config("tiny"), memory_base=BASE, memory_bytes=BYTES) as device:
        expected = run_example(device)
        device.registers.set("WATCHDOG", 0xFFFF_FFFF)
        device.configure(timing=MemoryTiming(stall={"r": 1.0}, stall_length=1 << 30))
        alarm = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        alarm.start()
        with pytest.raises(KeyboardInterrupt):
            run_example(device)
        device.configure(timing=MemoryTiming())
        np.testing.assert_array_equal(run_example(device), expected)


def test_progress_is_reported() -> None:
    seen: list[int] = []
    with VerilatorDevice(load_config("tiny"), progress=seen.append) as device:
        rng = np.random.default_rng(1)
        device.matmul(rng.integers(-9, 9, (160, 200), dtype=np.int8), rng.integers(-9, 9, (200, 160), dtype=np.int8))
    assert seen
    assert seen == sorted(seen)


def test_doorbell_is_refused_while_a_list_runs() -> None:
    with VerilatorDevice(load_config("tiny"), memory_base=BASE, memory_bytes=BYTES) as device:
        it = example(device.config, device.alloc(1 << 16, 4096))
        device.write(it.address, it.image)
        data = it.commands.pack()
        address = device.alloc(len(data), 4096)
        device.write(address, data)
        device.registers.start(address, len(data) // COMMAND_BYTES)
        with pytest.raises(DeviceError, match="SLVERR"):
            device.registers.start(address, len(data) // COMMAND_BYTES)
        assert device.model.wait(100_000)
        assert device.registers.result().commands_done == len(it.commands)


def test_a_waveform_that_cannot_be_written_is_told_before_the_build(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("loralith.device.verilator.build", lambda *_a, **_n: pytest.fail("built"))
    (tmp_path / "file").touch()
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "file" / "x.vcd", "is not a folder")):
        with pytest.raises(DeviceError, match=message):
            VerilatorDevice(load_config("tiny"), memory_bytes=BYTES, waveform=path)


def test_waveform_is_written(tmp_path: Path) -> None:
    file = tmp_path / "run.vcd"
    with VerilatorDevice(load_config("tiny"), memory_bytes=BYTES, waveform=file) as device:
        run_example(device)
    assert "m_axi_gmem_araddr" in file.read_text()


def test_model_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from loralith.device.native import build

    path = build.build(load_config("tiny"))

    def fail(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(build, "find_verilator", lambda: type("V", (), {"version": (5, 49), "run": fail}))
    monkeypatch.setattr(build.subprocess, "run", fail)
    assert build.build(load_config("tiny")).parent.parent == path.parent.parent
