"""Streams in block RAM against a Python list."""

import random
from itertools import pairwise

import pytest

from loralith.rtl.block_queue import BlockFIFO, CommandQueue
from loralith.spec.commands import COMMAND_BYTES
from loralith.spec.config import PRESETS
from loralith.verif.block_test import simulate

TINY = PRESETS["tiny"]


def run(dut, entries: list, stall: float, cycles: int, seed: int = 0, clear_at: int = -1):
    """(cycle, entry) of all that is put in and of all that comes out, as plain numbers or as (bits, index)."""
    rng = random.Random(seed)
    put, got = [], []

    def plain(entry):
        return entry if isinstance(entry, int) else (entry.bits, entry.index)

    async def bench(ctx):
        waiting = list(entries)
        for cycle in range(cycles):
            offered, ready = bool(waiting) and rng.random() >= stall, rng.random() >= stall
            ctx.set(dut.clear, cycle == clear_at)
            ctx.set(dut.i.valid, offered)
            if offered:
                ctx.set(dut.i.payload, waiting[0])
            ctx.set(dut.o.ready, ready)
            _, _, taken, valid, payload = await ctx.tick().sample(dut.i.ready, dut.o.valid, dut.o.payload)
            if offered and taken:
                put.append((cycle, waiting.pop(0)))
            if valid and ready:
                got.append((cycle, plain(payload)))

    simulate(dut, bench)
    return put, got


@pytest.mark.parametrize("depth", [1, 3, 8])
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_entries_come_out_as_they_went_in(depth, stall):
    entries = [random.Random(depth).getrandbits(20) for _ in range(60)]
    put, got = run(BlockFIFO(20, depth), entries, stall, 300)
    assert [entry for _, entry in put] == entries
    for i, (want, (_, entry)) in enumerate(zip(entries, got, strict=True)):
        assert entry == want, f"entry {i}"
    if depth > 1 and not stall:
        assert [cycle for cycle, _ in got] == [cycle + BlockFIFO.delay for cycle, _ in put], "one in and one out per cycle"
        assert [cycle for cycle, _ in put] == list(range(60))


def test_a_fifo_takes_its_depth_and_the_entry_at_its_output():
    depth = 5

    async def bench(ctx):
        taken = 0
        ctx.set(dut.i.valid, 1)
        for _ in range(20):
            _, _, ready = await ctx.tick().sample(dut.i.ready)
            taken += ready
        assert taken == depth + 1

    dut = BlockFIFO(8, depth)
    simulate(dut, bench)


def test_clear_drops_all_entries():
    entries = list(range(1, 100))
    put, got = run(BlockFIFO(8, 4), entries, 0.3, 200, clear_at=50)
    before = [entry for cycle, entry in put if cycle <= 50]
    taken = [entry for cycle, entry in got if cycle <= 50]
    assert taken == before[: len(taken)]
    assert len(taken) < len(before), "something is dropped"
    assert [entry for cycle, entry in got if cycle > 50] == [entry for cycle, entry in put if cycle > 50]


@pytest.mark.parametrize("name", ["tiny", "base"])
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_words_become_commands(name, stall):
    config, rng = PRESETS[name], random.Random(1)
    words = COMMAND_BYTES // config.bus_bytes
    commands = [(rng.getrandbits(8 * COMMAND_BYTES), rng.getrandbits(32)) for _ in range(9)]
    width, part = 8 * config.bus_bytes, 32 // words
    entries = [
        {"bits": bits >> width * i & (1 << width) - 1, "index": index >> part * i & (1 << part) - 1}
        for bits, index in commands
        for i in range(words)
    ]
    put, got = run(CommandQueue(config), entries, stall, 800)
    for i, (want, (_, entry)) in enumerate(zip(commands, got, strict=True)):
        assert entry == want, f"command {i}"
    if not stall:
        assert got[0][0] == put[words - 1][0] + CommandQueue.delay
        assert {b - a for (a, _), (b, _) in pairwise(got)} == {words + 2}, "cycles from one command to the next"
