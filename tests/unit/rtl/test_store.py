"""The end of stores: their responses against a list of the stores that started."""

import random

import pytest

from loralith.rtl.store import StoreResponses
from loralith.verif.block_test import simulate


@pytest.mark.parametrize("seed", range(4))
def test_stores_complete_in_order_and_each_with_its_response(seed):
    rng, ahead = random.Random(seed), 4
    dut = StoreResponses(ahead)
    eager = rng.choice([0.05, 0.3, 0.9])

    async def bench(ctx):
        started, responded, completed = [], 0, 0
        for cycle in range(600):
            store = {"signal": rng.getrandbits(16), "index": rng.getrandbits(32)}
            start, respond = rng.random() < 0.5, responded < len(started) and rng.random() < 0.5
            if respond:
                assert ctx.get(dut.index) == started[responded]["index"], f"cycle {cycle}"
            ctx.set(dut.i.payload, store)
            ctx.set(dut.i.valid, start)
            ctx.set(dut.command_done, respond)
            ctx.set(dut.signal.ready, rng.random() < eager)
            _, _, ready, complete, mask = await ctx.tick().sample(dut.i.ready, dut.complete, dut.signal.mask)
            if complete:
                assert completed < responded, f"cycle {cycle}: complete before the response"
                assert mask == started[completed]["signal"], f"cycle {cycle}, store {completed}"
                completed += 1
            responded += respond
            if start and ready:
                started.append(store)
            assert len(started) - completed <= ahead + 1, f"cycle {cycle}: {len(started) - completed} stores are in flight"
            assert ctx.get(dut.active) == (len(started) > completed), f"cycle {cycle}"
        assert completed > 20

    simulate(dut, bench)


def test_clear_forgets_all_stores():
    dut = StoreResponses(4)

    async def bench(ctx):
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.command_done, 0)
        await ctx.tick().repeat(3)
        ctx.set(dut.i.valid, 0)
        ctx.set(dut.command_done, 1)
        await ctx.tick()
        ctx.set(dut.command_done, 0)
        assert ctx.get(dut.active)
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        ctx.set(dut.signal.ready, 1)
        for _ in range(5):
            _, _, active, complete = await ctx.tick().sample(dut.active, dut.complete)
            assert not active
            assert not complete

    simulate(dut, bench)
