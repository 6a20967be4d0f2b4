"""The emitted Verilog at its bus pins, under cocotb and cocotbext-axi, which share no code with the native model's memory."""

import pytest

from loralith.compiler.schedules.example import example
from loralith.device.native.memory_model import MemoryTiming
from loralith.device.native.recording import capture
from loralith.device.verilator import VerilatorDevice
from loralith.spec.config import load_config
from loralith.verif.bench.program import Program

pytestmark = pytest.mark.timeout(900)  # the first test of a configuration builds its simulation

SHAPES = {
    "one": (1, 1, 1),
    "primes": (7, 11, 13),
    "array": (4, 4, 8),
    "one row": (1, 23, 5),
    "one column": (19, 1, 17),
    "deep": (3, 2, 101),
}


def test_registers(run_cases) -> None:
    run_cases("cases_registers")


def test_example_under_stalls_and_latency(run_cases, save, examples) -> None:
    run_cases("cases_lists", programs=[save(examples("tiny", seed)) for seed in range(3)])


def test_ragged_shapes(run_cases, save, products) -> None:
    run_cases("cases_lists", programs=[save(products("tiny", *shape)) for shape in SHAPES.values()])


def test_ranks_1_to_16(run_cases, save, products) -> None:
    programs = [save(products("tiny", *shape)) for rank in range(1, 17) for shape in ((5, rank, 9), (rank, 6, 7))]
    run_cases("cases_lists", programs=programs)


def test_wider_bus_and_array(run_cases, save, examples, products) -> None:
    run_cases("cases_lists", config="base", programs=[save(examples("base")), save(products("base", 17, 19, 23))])


def test_faults(run_cases, save, examples) -> None:
    run_cases("cases_faults", programs=[save(examples("tiny"))], flips=150)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_flipped_bit(run_cases, save, examples) -> None:
    run_cases("cases_faults", cases=("flipped_bits",), programs=[save(examples("tiny"))], flips="all")


@pytest.mark.parametrize("stall", [0.0, 0.15])
def test_native_run_replays_with_the_same_cycles(run_cases, save, stall: float) -> None:
    config = load_config("tiny")
    with VerilatorDevice(config, memory_bytes=1 << 20, timing=MemoryTiming(read_latency=30, stall=stall, seed=3)) as device:
        it = example(config, device.alloc(1 << 14, 4096))
        device.write(it.address, it.image)
        program = Program(**vars(capture(device, it.commands)))
    assert program.counters["cycles"] > 100
    run_cases("loralith.verif.bench.replay", program=save(program))
