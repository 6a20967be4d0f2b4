"""Two INT4 per byte to INT8, against nibbles taken one by one."""

import random

import pytest

from loralith.rtl.unpack import Unpack
from loralith.spec.config import PRESETS, Config
from loralith.verif.block_test import assert_each_equal, simulate


def nibbles(word):
    """The INT8 elements of a packed word's bytes, as bytes."""
    return [n - 16 & 0xFF if n > 7 else n for byte in word for n in (byte & 15, byte >> 4)]


def run(config, rows, *, stall=0.0, seed=0):
    """Feeds ``rows`` of (packed, beats, words, [error]); returns the beats as (bytes, error), and the cycle of each."""
    rng = random.Random(seed)
    block = Unpack(config)
    words = [(word, error) for _, _, row, errors in rows for word, error in zip(row, errors, strict=True)]
    beats = [(packed, i == count - 1) for packed, count, _, _ in rows for i in range(count)]
    got, cycles = [], []

    async def feed(ctx):
        for word, error in words:
            while rng.random() < stall:
                await ctx.tick()
            ctx.set(block.i.payload, {"data": word, "error": error})
            ctx.set(block.i.valid, 1)
            cycle, taken = 0, False
            while not taken:
                _, _, taken = await ctx.tick().sample(block.i.ready)
                cycle += 1
                assert cycle < 1000, "a word is not taken"
            ctx.set(block.i.valid, 0)

    async def take(ctx):
        cycle = 0
        for packed, row_ends in beats:
            ctx.set(block.packed, packed)
            ctx.set(block.row_ends, row_ends)
            taken = False
            while not taken:
                ready = rng.random() >= stall
                ctx.set(block.o.ready, ready)
                _, _, valid, data, error = await ctx.tick().sample(block.o.valid, block.o.payload.data, block.o.payload.error)
                taken = ready and valid
                cycle += 1
                assert cycle < 5000, "a beat does not come"
            got.append((list(data), error))
            cycles.append(cycle)
            ctx.set(block.o.ready, 0)

    simulate(block, take, background=[feed])
    return got, cycles


def some_rows(config: Config, rng: random.Random, count: int):
    W = config.bus_bytes
    rows = []
    for _ in range(count):
        packed, beats = rng.random() < 0.7, rng.randint(1, 7)
        words = -(-beats // 2) if packed else beats
        rows.append((packed, beats, [list(rng.randbytes(W)) for _ in range(words)], [rng.random() < 0.1 for _ in range(words)]))
    return rows


def expected(config: Config, rows):
    W, want = config.bus_bytes, []
    for packed, beats, words, errors in rows:
        parts = []
        for word, error in zip(words, errors, strict=True):
            elements = nibbles(word) if packed else word
            parts += [(elements[at : at + W], int(error)) for at in range(0, len(elements), W)]
        want += parts[:beats]
    return want


@pytest.mark.parametrize("name", ["tiny", "base"])
@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_a_packed_word_becomes_two_beats_and_any_other_stays(name, stall, seed):
    rng = random.Random(seed)
    config = PRESETS[name]
    rows = some_rows(config, rng, 30)
    got, _ = run(config, rows, stall=stall, seed=seed)
    assert_each_equal("beat", got, expected(config, rows), [row for row in rows for _ in range(row[1])])


def test_every_nibble_of_every_place_keeps_its_sign():
    config = PRESETS["tiny"]
    W = config.bus_bytes
    words = [[v | (15 - v) << 4] * W for v in range(16)]
    got, _ = run(config, [(True, 32, words, [False] * 16)])
    signed = [[byte - 256 if byte > 127 else byte for byte in beat] for beat, _ in got]
    values = [v - 16 if v > 7 else v for v in range(16)]
    want = [[value, partner] * (W // 2) for value, partner in zip(values, reversed(values), strict=True) for _ in range(2)]
    assert_each_equal("beat", signed, want, [word for word in words for _ in range(2)])


def test_one_beat_per_cycle_and_no_cycle_more():
    config = PRESETS["tiny"]
    rows = [(packed, 6, [[0] * config.bus_bytes] * (3 if packed else 6), [False] * (3 if packed else 6)) for packed in (True, False, True)]
    _, cycles = run(config, rows)
    assert cycles[0] == Unpack.delay + 1
    assert cycles[-1] - cycles[0] == len(cycles) - 1


def test_after_clear_a_word_begins_with_its_lower_half():
    config = PRESETS["tiny"]
    block = Unpack(config)
    word = list(range(0x10, 0x10 + config.bus_bytes))
    seen = []

    async def drive(ctx):
        for signal, value in ((block.packed, 1), (block.i.valid, 1), (block.i.payload, {"data": word, "error": 0})):
            ctx.set(signal, value)
        for clear in (0, 1, 0):
            ctx.set(block.clear, clear)
            ctx.set(block.o.ready, not clear)
            _, _, data = await ctx.tick().sample(block.o.payload.data)
            seen.append(list(data))

    simulate(block, drive)
    lower, upper = nibbles(word)[: config.bus_bytes], nibbles(word)[config.bus_bytes :]
    assert seen == [lower, upper, lower]
