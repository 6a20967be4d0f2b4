"""The board's whole system under Verilator, driven through its UART pins, its memory the chip model at the SDRAM pins."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import loralith
from helpers.same_values import assert_same_values
from loralith.board.simulation import PinSimulation
from loralith.compiler.cycles import Sdr16, model
from loralith.compiler.schedules.training_step import Linear, compile_step, place
from loralith.device.device_errors import DeviceError
from loralith.device.serial import SerialDevice
from loralith.shapes.measured_run import run_once
from loralith.spec.config import load_config
from loralith.spec.link import SOC_BASE
from loralith.spec.sdram import MEMORY_BASE, ULX3S
from loralith.spec.soc import SOC_ID, SOC_REGISTERS

pytestmark = pytest.mark.slow  # building it takes minutes on a busy machine

TINY = load_config("tiny")
OFFSETS = {register.name: SOC_BASE + register.offset for register in SOC_REGISTERS}
CONTENT = bytes(range(256)) * 5


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PinSimulation]:
    file = tmp_path_factory.mktemp("board") / "content"
    file.write_bytes(CONTENT)
    with PinSimulation(TINY, preload={file: MEMORY_BASE + ULX3S.bytes - 4096}) as simulation:
        yield simulation


@pytest.fixture(scope="module")
def device(board: PinSimulation) -> Iterator[SerialDevice]:
    with loralith.open_device(f"serial:{board.port}", config="tiny") as opened:
        assert isinstance(opened, SerialDevice)
        yield opened


def test_memory_holds_what_was_written_and_what_was_preloaded(device: SerialDevice) -> None:
    assert (device.memory_base, device.memory_bytes) == (MEMORY_BASE, ULX3S.bytes)
    data = np.random.default_rng(1).integers(0, 256, 1501, dtype=np.uint8)
    address = device.alloc(data.size + 8)
    device.write(address + 3, data)
    assert_same_values(device.read(address + 3, data.size), data)
    assert bytes(device._read(MEMORY_BASE + ULX3S.bytes - 4096, len(CONTENT))) == CONTENT


def test_a_layer_s_step_gives_the_reference_s_integers(device: SerialDevice, board: PinSimulation) -> None:
    counters, _ = run_once(Linear("small", 12, 16, 8, 2), 0, device)
    assert counters["macs"] > 0
    stats = board.stats()
    assert stats["violation"] == ""
    assert stats["refreshes"] > 0


@pytest.mark.parametrize("linear", [Linear("b", 64, 48, 48, 4), Linear("c", 32, 64, 64, 4), Linear("d", 48, 32, 96, 8)])
def test_the_cycle_model_with_the_board_s_memory_is_within_two_per_cent(device: SerialDevice, linear: Linear) -> None:
    counters, _ = run_once(linear, 0, device)
    tensors, _ = place(linear, 0, TINY)
    assert model(compile_step([(linear, tensors)], TINY), TINY, Sdr16()).cycles == pytest.approx(counters["cycles"], rel=0.02)


def test_the_system_s_registers_behind_the_link(device: SerialDevice) -> None:
    assert device.read_register(OFFSETS["ID"]) == SOC_ID
    assert device.read_register(OFFSETS["STATUS"]) & 1
    device.write_register(OFFSETS["SCRATCH"], 0xDEADBEEF)
    assert device.read_register(OFFSETS["SCRATCH"]) == 0xDEADBEEF
    before = device.read_register(OFFSETS["READ_BEATS"])
    device._read(MEMORY_BASE, 64)
    assert device.read_register(OFFSETS["READ_BEATS"]) - before == 8


def test_an_address_outside_the_memory_is_an_error(device: SerialDevice) -> None:
    with pytest.raises(DeviceError):
        device._read(MEMORY_BASE + ULX3S.bytes, 8)
    with pytest.raises(DeviceError):
        device._write(0x1000, np.zeros(8, np.uint8))


def test_a_chip_whose_rules_are_broken_ends_the_run(tmp_path: Path) -> None:
    slow = dataclasses.replace(ULX3S, rfc=200.0)
    simulation = PinSimulation(TINY, chip=slow)
    with pytest.raises(DeviceError):
        loralith.open_device(f"serial:{simulation.port}", config="tiny")
    said = simulation.close()
    assert "the memory chip's rules are broken: cycle" in said
    assert "after REFRESH, at least 200 are needed" in said
