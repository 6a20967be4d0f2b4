"""The memory controller under Verilator against the chip model: every byte, every rule, and the rules seen to be checked."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from loralith.board.sdram import SdramBenchError, build_bench, controller_verilog, run_bench
from loralith.board.traffic import SMALL_MODEL, Burst, sequential, step_bursts
from loralith.spec.config import load_config
from loralith.spec.sdram import ULX3S

MHZ = 100
ECP5 = load_config("ecp5")
BEYOND = ULX3S.bytes // 8


@pytest.fixture(scope="module")
def bench() -> Path:
    return build_bench(controller_verilog(MHZ, 3))


def random_bursts(seed: int, count: int, beats: int) -> list[Burst]:
    """Within so few beats that bursts meet."""
    rng = random.Random(seed)
    return [Burst(rng.random() < 0.5, rng.randrange(beats), rng.choice([1, 2, 7, 16, 40, 64]), rng.randrange(4)) for _ in range(count)]


@pytest.mark.parametrize(("seed", "stall", "beats"), [(1, 0, 500), (2, 20, 4000), (3, 60, 200_000)])
def test_random_traffic_reads_what_was_written(bench: Path, seed: int, stall: int, beats: int) -> None:
    bursts = random_bursts(seed, 1500, beats)
    outcome = run_bench(bench, bursts, MHZ, seed=seed, stall=stall, strobes=True, idle=5000, skew=1500)
    assert outcome.read_beats == sum(burst.beats for burst in bursts if not burst.write)
    assert outcome.write_beats == sum(burst.beats for burst in bursts if burst.write)
    assert outcome.errors == 0


def test_a_burst_outside_the_memory_is_a_decoding_error_and_writes_nothing(bench: Path) -> None:
    """The beat that it would be if the address wrapped is read before and after."""
    bursts = [Burst(False, 0, 8), Burst(True, BEYOND, 8), Burst(False, BEYOND + 8, 4), Burst(False, 0, 16), Burst(True, 0, 1)]
    outcome = run_bench(bench, bursts, MHZ, outstanding=(1, 1), skew=1)
    assert outcome.errors == 1 + 4


def test_every_bank_and_the_last_row(bench: Path) -> None:
    places = [0, 128, 256, 384, 512, 640, BEYOND - 64, BEYOND - 512 - 64, BEYOND // 2]
    bursts = [Burst(True, beat, 64) for beat in places] + [Burst(False, beat, 64) for beat in places]
    assert run_bench(bench, bursts, MHZ, skew=1).write_beats == 64 * len(places)


@pytest.mark.parametrize("write", [False, True])
def test_sequential_traffic_takes_85_per_cent_of_the_peak(bench: Path, write: bool) -> None:
    assert run_bench(bench, sequential(write, 8192, ECP5), MHZ).of_peak > 0.85


def test_a_training_step_takes_75_per_cent_of_the_peak(bench: Path) -> None:
    assert run_bench(bench, step_bursts(SMALL_MODEL, ECP5), MHZ).of_peak > 0.75


NEEDS = {
    "rcd": (30.0, "ns after ACTIVE"),
    "rp": (30.0, "ns after PRECHARGE"),
    "wr": (25.0, "PRECHARGE .* after the last word written"),
    "rrd": (45.0, "after ACTIVE of another bank"),
    "rfc": (80.0, "after REFRESH"),
    "mrd": (12, "after MODE"),
    "refresh_ms": (55.0, "refreshes are due"),
    "power_up_us": (201.0, "after power-up"),
}


@pytest.mark.parametrize("name", NEEDS)
def test_a_chip_that_needs_more_is_seen_to_be_violated(bench: Path, name: str) -> None:
    value, says = NEEDS[name]
    chip = dataclasses.replace(ULX3S, **{name: value})
    # Single beats of random rows: an ACTIVE follows the other as closely as may be.
    rng = random.Random(5)
    bursts = [Burst(rng.random() < 0.5, rng.randrange(BEYOND), 1) for _ in range(3000)]
    with pytest.raises(SdramBenchError, match=says):
        run_bench(bench, bursts, MHZ, chip=chip, idle=50_000)


def test_row_times_are_seen_to_be_violated(bench: Path) -> None:
    """A bank's rows one after the other, a beat each."""
    bursts = [Burst(False, 128 * 16 * i, 1) for i in range(200)]
    for name, value, says in (("ras", 70.0, "PRECHARGE .* after ACTIVE"), ("rc", 100.0, "ACTIVE of the same bank")):
        with pytest.raises(SdramBenchError, match=says):
            run_bench(bench, bursts, MHZ, chip=dataclasses.replace(ULX3S, **{name: value}))


def test_a_clock_that_the_chip_does_not_take(bench: Path) -> None:
    with pytest.raises(SdramBenchError, match="the clock is too fast for CAS latency 3"):
        run_bench(bench, [], 150, idle=100, chip=dataclasses.replace(ULX3S, power_up_us=1, rc=1, ras=1, rp=1, rcd=1, wr=1, rrd=1, rfc=1))
