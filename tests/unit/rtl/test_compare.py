# amaranth: UnusedElaboratable=no
"""The comparison in halves against Python's, of every pair of numbers where these are few."""

import random
from itertools import product

import pytest

from loralith.rtl.compare import LessThan
from loralith.verif.block_test import simulate

# The first line is for Amaranth, as in test_queue.py: a refused block is never elaborated.


def pairs(width: int):
    """All pairs up to five bits; above, pairs that agree in their upper or lower halves, and others."""
    if width <= 5:
        yield from product(range(1 << width), repeat=2)
        return
    rng = random.Random(width)
    half = width // 2
    for _ in range(1000):
        a, b = rng.getrandbits(width), rng.getrandbits(width)
        same = rng.choice([0, (1 << half) - 1, (1 << width) - (1 << half), (1 << width) - 1])
        b = (b & ~same) | (a & same)
        yield a, min(max(b + rng.choice([0, 0, -1, 1]), 0), (1 << width) - 1)


@pytest.mark.parametrize("width", [2, 3, 4, 5, 41, 64, 65])
def test_a_is_less_than_b_where_it_is(width):
    dut = LessThan(width)

    async def bench(ctx):
        for a, b in pairs(width):
            ctx.set(dut.a, a)
            ctx.set(dut.b, b)
            ctx.set(dut.enable, 1)
            await ctx.tick().repeat(dut.delay)
            assert ctx.get(dut.less) == (a < b), f"{a:#x} < {b:#x}"
            ctx.set(dut.enable, 0)
            ctx.set(dut.a, 0 if a >= b else (1 << width) - 1)
            ctx.set(dut.b, (1 << width) - 1 if a >= b else 0)
            await ctx.tick()
            assert ctx.get(dut.less) == (a < b), f"{a:#x} < {b:#x} holds while it is not enabled"

    simulate(dut, bench)


@pytest.mark.parametrize("width", [0, 1])
def test_fewer_than_two_bits_have_no_halves(width):
    with pytest.raises(ValueError, match=f"at least two bits, not {width}"):
        LessThan(width)
