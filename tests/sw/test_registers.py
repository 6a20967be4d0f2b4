"""What the host may do to the registers and the reset pin while a list runs, on the RTL."""

from collections.abc import Iterator

import numpy as np
import pytest

from loralith.compiler.schedules.example import example
from loralith.device.device_errors import DeviceError
from loralith.device.native.memory_model import MemoryTiming
from loralith.device.reference import ReferenceDevice
from loralith.device.verilator import VerilatorDevice
from loralith.spec.commands import COMMAND_BYTES
from loralith.spec.config import load_config
from loralith.spec.registers import REGISTERS, Access
from loralith.spec.status import Code, Unit

BASE, BYTES = 1 << 32, 1 << 20
CONFIG = load_config("tiny")
EXAMPLE = example(CONFIG, BASE + 8192)
DATA = EXAMPLE.commands.pack()
LENGTH = len(DATA) // COMMAND_BYTES
WATCHDOG = 5000


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    reference = ReferenceDevice(CONFIG, BYTES, BASE)
    reference.write(EXAMPLE.address, EXAMPLE.image)
    reference.run(EXAMPLE.commands)
    return reference.read(*EXAMPLE.results)


@pytest.fixture(scope="module")
def machine() -> Iterator[VerilatorDevice]:
    with VerilatorDevice(CONFIG, memory_base=BASE, memory_bytes=BYTES, timing=MemoryTiming(write_rate=0.5)) as device:
        yield device


@pytest.fixture
def device(machine: VerilatorDevice) -> VerilatorDevice:
    machine.power_cycle()
    machine.registers.set("WATCHDOG", WATCHDOG)
    machine.write(BASE, DATA)
    machine.write(EXAMPLE.address, EXAMPLE.image)
    return machine


def finished(device: VerilatorDevice) -> None:
    assert device.model.wait(100_000)
    assert not device.bus().violations, device.model.violation()


def test_what_a_list_depends_on_does_not_change_while_it_runs(device: VerilatorDevice, expected: np.ndarray) -> None:
    locked = [r for r in REGISTERS.values() if r.locked]
    assert {r.name for r in locked} == {r.name for r in REGISTERS.values() if r.access is Access.RW} - {"IRQ_ENABLE"}
    words = [r.offset + 4 * i for r in locked for i in range(r.width // 32)]
    before = [device.read_register(word) for word in words]
    for wrong in (0, LENGTH - 1, 0xFFFF_FFFF):
        device.registers.start(BASE, LENGTH)
        before = [device.read_register(word) for word in words]
        while device.registers.busy():
            for word in words:
                if device.registers.busy():
                    with pytest.raises(DeviceError, match="SLVERR"):
                        device.write_register(word, wrong)
                assert [device.read_register(word) for word in words] == before
        assert device.registers.result().status.code is Code.OK
        assert device.registers.result().commands_done == LENGTH
        np.testing.assert_array_equal(device.read(*EXAMPLE.results), expected)
    for word, value in zip(words, before, strict=True):
        device.write_register(word, value ^ 8)
        assert device.read_register(word) == value ^ 8


def test_an_abort_beside_a_refused_doorbell_counts(device: VerilatorDevice) -> None:
    control = REGISTERS["CONTROL"].offset
    device.write_register(control, 2)  # nothing runs
    device.registers.start(BASE, LENGTH)
    device.model.tick(200)
    with pytest.raises(DeviceError, match="SLVERR"):
        device.write_register(control, 3)
    finished(device)
    status = device.registers.status()
    assert (status.code, status.unit) == (Code.HOST_ABORT, Unit.HOST)


def test_a_reset_at_any_time_breaks_no_rule_of_the_bus(device: VerilatorDevice, expected: np.ndarray) -> None:
    """Bursts that it cuts are forgotten by machine and memory alike; the on-chip memories keep their content."""
    device.registers.start(BASE, LENGTH)
    cycles = device.cycles
    finished(device)
    cycles = device.cycles - cycles
    for delay in range(0, cycles, max(1, cycles // 150)):
        device.registers.start(BASE, LENGTH)
        device.model.tick(delay)
        device.reset()
        device.model.tick(20)
        assert not device.bus().violations, f"after {delay} cycles: {device.model.violation()}"
    device.write(EXAMPLE.address, EXAMPLE.image)
    device.write(BASE, DATA)
    device.registers.start(BASE, LENGTH)
    finished(device)
    np.testing.assert_array_equal(device.read(*EXAMPLE.results), expected)
