"""A local reset is its input, a cycle later."""

from loralith.rtl.reset import LocalReset
from loralith.verif.block_test import assert_each_equal, simulate


def test_a_local_reset_comes_a_cycle_later():
    dut, inputs, got = LocalReset(), [0, 1, 1, 0, 1, 0, 0], []

    async def bench(ctx):
        for value in inputs:
            ctx.set(dut.i, value)
            await ctx.tick()
            got.append(ctx.get(dut.o))

    simulate(dut, bench)
    assert_each_equal("cycle", got, inputs)
