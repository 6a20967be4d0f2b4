"""The cycle model's memories: the even one, and the board's SDRAM against the controller under Verilator."""

from __future__ import annotations

import random

import pytest

from loralith.board.sdram import build_bench, controller_verilog, run_bench
from loralith.board.traffic import SMALL_MODEL, Burst, sequential, step_bursts
from loralith.compiler.cycles import Memory, Sdr16, model
from loralith.compiler.memories import Server
from loralith.compiler.schedules.example import example
from loralith.spec.config import load_config
from loralith.spec.sdram import BEAT_BYTES, ULX3S, SdramTiming

ECP5 = load_config("ecp5")
MHZ = 100


def served(server: Server, bursts: list[Burst]) -> int:
    """Cycles of bursts that are all there from the start, as far as 32 are in flight."""
    ends: list[int] = []
    for burst in bursts:
        cycle = ends[-32] if len(ends) >= 32 else 0
        address = burst.beat * BEAT_BYTES
        if burst.write:
            ends.append(server.write(cycle, cycle + burst.beats, address, 1, burst.beats, 0)[1])
        else:
            ends.append(server.read(cycle, address, burst.beats)[1])
    return max(ends)


def random_reads(beats: int) -> list[Burst]:
    rng = random.Random(beats)
    return [Burst(False, rng.randrange(ULX3S.bytes // BEAT_BYTES // beats) * beats, beats) for _ in range(2000)]


TRAFFIC = {
    "read": (sequential(False, 16384, ECP5), 0.01),
    "write": (sequential(True, 16384, ECP5), 0.01),
    "step": (step_bursts(SMALL_MODEL, ECP5), 0.03),
    "random": (random_reads(8), 0.03),
}


@pytest.mark.parametrize("name", TRAFFIC)
def test_the_model_takes_as_long_as_the_controller(name: str) -> None:
    bursts, within = TRAFFIC[name]
    measured = run_bench(build_bench(controller_verilog(MHZ, 3)), bursts, MHZ).cycles
    predicted = served(Sdr16(SdramTiming.of(ULX3S, MHZ)).server(ECP5), bursts)
    assert predicted == pytest.approx(measured, rel=within)


def test_an_even_memory_answers_after_its_latency() -> None:
    server = Memory(7, 3).server(ECP5)
    assert server.read(100, 0, 4) == (107, 110)
    assert server.write(10, 20, 0, 1, 10, 0) == (20, 22)


def test_a_list_takes_longer_with_the_board_s_memory() -> None:
    commands = example(load_config("tiny"), 0).commands
    even, board = (model(commands, load_config("tiny"), memory) for memory in (Memory(), Sdr16()))
    assert board.cycles > even.cycles
    assert (board.read_words, board.write_words) == (even.read_words, even.write_words)
    assert board.cycles >= 4 * (board.read_words + board.write_words)


def test_a_bus_that_is_not_the_controller_s_is_refused() -> None:
    with pytest.raises(ValueError, match="has 8 bytes, not 16"):
        Sdr16().server(load_config("base"))
