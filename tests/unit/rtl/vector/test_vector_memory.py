"""A vector scratchpad serves the vector unit first, then LOAD and STORE, and loses no word of either."""

import random

from loralith.rtl.vector.vector_memory import VectorMemory
from loralith.verif.block_test import simulate

LANES, DEPTH, CYCLES = 2, 8, 400


def test_load_and_store_wait_for_the_unit_and_lose_nothing():
    dut, rng = VectorMemory(LANES, DEPTH), random.Random(4)
    held = [0] * DEPTH
    taken = {"unit": 0, "load": 0, "store": 0, "waited": 0}

    async def bench(ctx):
        expected: dict[int, int] = {}
        stores: set[int] = set()
        loading = storing = None
        for cycle in range(CYCLES):
            writes, reads = rng.random() < 0.5, rng.random() < 0.5
            address, value, source = rng.randrange(DEPTH), rng.getrandbits(25 * LANES), rng.randrange(DEPTH)
            loading = loading or (rng.random() < 0.5 and (rng.randrange(DEPTH), rng.getrandbits(25 * LANES))) or None
            storing = rng.randrange(DEPTH) if storing is None and rng.random() < 0.5 else storing
            ctx.set(dut.write_en, writes)
            ctx.set(dut.write_address, address)
            ctx.set(dut.write_data, value)
            ctx.set(dut.read_en, reads)
            ctx.set(dut.read_address, source)
            ctx.set(dut.load.valid, loading is not None)
            ctx.set(dut.load.payload, {"address": 0, "data": 0} if loading is None else {"address": loading[0], "data": loading[1]})
            ctx.set(dut.store.valid, storing is not None)
            ctx.set(dut.store.payload, storing or 0)
            loads, fetches = loading is not None and ctx.get(dut.load.ready), storing is not None and ctx.get(dut.store.ready)
            assert loads == (loading is not None and not writes)
            assert fetches == (storing is not None and not reads)
            assert ctx.get(dut.stored) == (cycle in stores)
            if cycle in expected:
                assert ctx.get(dut.read_data) == expected[cycle]
            written = (address, value) if writes else loading if loads else None
            read = source if reads else storing if fetches else None
            if read is not None and (written is None or written[0] != read):  # a word that is written meanwhile is not specified
                expected[cycle + dut.delay] = held[read]
            if written is not None:
                held[written[0]] = written[1]
            if fetches:
                stores.add(cycle + dut.delay)
            taken["unit"] += writes + reads
            taken["load"] += loads
            taken["store"] += fetches
            taken["waited"] += (loading is not None and not loads) + (storing is not None and not fetches)
            loading, storing = None if loads else loading, None if fetches else storing
            await ctx.tick()

    simulate(dut, bench)
    assert min(taken.values()) > CYCLES // 10
