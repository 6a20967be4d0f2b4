"""The end of a command: its tokens are given no sooner than what it wrote can be read."""

import pytest

from loralith.rtl.completion import Completion
from loralith.verif.block_test import simulate


@pytest.mark.parametrize("delay", [0, 1, 2, 5])
def test_tokens_are_given_after_the_delay_and_once(delay: int) -> None:
    dut = Completion(delay)

    async def bench(ctx) -> None:
        ctx.set(dut.signal.ready, 1)
        for mask in (5, 3):
            ctx.set(dut.i.payload, mask)
            ctx.set(dut.i.valid, 1)
            await ctx.tick()
            ctx.set(dut.i.valid, 0)
            seen = []
            for cycle in range(1, delay + 5):
                if ctx.get(dut.signal.valid):
                    seen.append((cycle, ctx.get(dut.signal.mask), ctx.get(dut.complete)))
                await ctx.tick()
            assert seen == [(delay + 1, mask, 1)]

    simulate(dut, bench)
