"""The counters of a list: every cycle from the doorbell on, and sums of more than 32 bits."""

import pytest

from loralith.rtl.counters import Counters
from loralith.spec.config import PRESETS
from loralith.spec.registers import COUNTERS
from loralith.verif.block_test import simulate


def counted(stimulus: dict[str, int], cycles: int) -> dict[str, int]:
    """All counters after a list of `cycles` cycles, the doorbell's included, in each of which `stimulus` is at the inputs."""
    dut = Counters(PRESETS["tiny"])
    found: dict[str, int] = {}

    async def bench(ctx) -> None:
        for name, value in stimulus.items():
            ctx.set(getattr(dut, name), value)
        ctx.set(dut.running, 1)
        ctx.set(dut.clear, 1)  # the doorbell's cycle runs already
        await ctx.tick()
        ctx.set(dut.clear, 0)
        for _ in range(cycles - 1):
            await ctx.tick()
        ctx.set(dut.running, 0)
        await ctx.tick().repeat(3)
        found.update((name, ctx.get(getattr(dut, f"{name}_count"))) for name, _ in COUNTERS)

    simulate(dut, bench)
    return found


@pytest.mark.parametrize("cycles", [1, 2, 7])
def test_the_doorbell_s_cycle_counts_and_is_idle(cycles: int) -> None:
    found = counted({}, cycles)
    assert (found["cycles"], found["idle"]) == (cycles, cycles)


def test_a_sum_carries_into_its_upper_half() -> None:
    """The largest amount of one cycle, so often that the sum passes 2**32 twice."""
    most, cycles = (1 << 20) - 1, (1 << 13) + 100
    found = counted({"macs": most}, cycles)
    assert found["macs"] == most * (cycles - 1), "none is counted in the doorbell's cycle"
    assert found["macs"] >> 32 == 2
