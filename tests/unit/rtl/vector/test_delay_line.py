"""The delay line of operands that wait for their stage, by registers alone and with a ring in front of them."""

import random

import pytest

from loralith.rtl.vector.delay_line import RING_WORDS, DelayLine
from loralith.verif.block_test import simulate


@pytest.mark.parametrize("delay", [1, 3, RING_WORDS, RING_WORDS + 1, RING_WORDS + 2, 2 * RING_WORDS + 5])
def test_an_operand_comes_out_after_its_cycles_with_enable(delay: int) -> None:
    dut, rng = DelayLine(8, delay), random.Random(delay)

    async def bench(ctx) -> None:
        taken: list[int] = []
        for cycle in range(6 * RING_WORDS):
            value, enable = rng.getrandbits(8), rng.random() < 0.7
            ctx.set(dut.i, value)
            ctx.set(dut.enable, enable)
            ctx.set(dut.pointer, len(taken) % RING_WORDS)
            if len(taken) >= delay:
                want = [*taken, value][len(taken) - delay]
                assert ctx.get(dut.o) == want, f"cycle {cycle}, of {taken[-delay - 2 :]} and then {value}"
            if enable:
                taken.append(value)
            await ctx.tick()

    simulate(dut, bench)
