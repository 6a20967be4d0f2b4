"""The serial bounds check against whole numbers."""

import random

import pytest

from loralith.rtl.extent import Extent
from loralith.verif.block_test import simulate

WIDTHS = [
    {"base": 16, "count": 16, "stride": 16, "length": 16, "limit": 17},
    {"base": 64, "count": 16, "stride": 32, "length": 24, "limit": 64},
    {"base": 4, "count": 3, "stride": 5, "length": 9, "limit": 6},
]


def cases(widths: dict[str, int], rng: random.Random, number: int):
    for _ in range(number):
        case = {
            name: rng.choice([0, 1, (1 << width) - 1, rng.randrange(1 << width), rng.randrange(1 << rng.randint(1, width))])
            for name, width in widths.items()
        }
        case["count"] = max(1, case["count"])
        end = case["base"] + (case["count"] - 1) * case["stride"] + case["length"]
        if rng.random() < 0.6:  # around the edge, where an error shows
            case["limit"] = max(0, min((1 << widths["limit"]) - 1, end + rng.choice([-1, 0, 1])))
        yield case, end <= case["limit"]


@pytest.mark.parametrize("widths", WIDTHS)
def test_every_region_is_judged_without_overflow(widths):
    dut = Extent(**widths)

    async def bench(ctx):
        seen = set()
        for case, want in cases(widths, random.Random(1), 300):
            for name, value in case.items():
                ctx.set(getattr(dut, name), value)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            waited = 1
            while not ctx.get(dut.done):
                await ctx.tick()
                waited += 1
            assert waited == dut.delay
            assert ctx.get(dut.ok) == want, case
            await ctx.tick()
            assert ctx.get(dut.done), "done holds until the next start"
            seen.add(want)
        assert seen == {True, False}

    simulate(dut, bench)
