"""The parts of the store unit's data side: pieces gathered into bus words, and the credits of the FIFO that takes them."""

import random

import pytest

from loralith.rtl.store_data import FIFOCredits, WordGatherer
from loralith.spec.commands import STAT_BYTES
from loralith.spec.config import PRESETS, Config
from loralith.verif.block_test import simulate

SIZES = {"left_bytes": 16384, "right_bytes": 16384, "out_bytes": 8192, "acc_bytes": 1024, "scale_bytes": 512, "max_fold": 4}
CONFIGS = [
    PRESETS["tiny"],
    Config("narrow", rows=2, cols=16, bus_bytes=8, **SIZES),
    Config("wide", rows=8, cols=4, bus_bytes=32, **SIZES),
    Config("tall", rows=32, cols=4, bus_bytes=8, **SIZES),
]


def draw(config: Config, rng: random.Random) -> list[dict]:
    """The reads of a few bus words of one store: all of one size and source."""
    W = config.bus_bytes
    source = rng.choice(["stat_data", "word", "lane_data"])
    length = {"stat_data": STAT_BYTES, "word": config.rows, "lane_data": W}[source]
    log2 = rng.randrange(min(length, W).bit_length())
    tail, reads = rng.randrange(W), []
    for _ in range(rng.randint(1, 5)):
        pieces = rng.randint(1, W >> log2)
        for i in range(pieces):
            last = i == pieces - 1
            read = {"source": source, "log2": log2, "tail": tail, "offset": i << log2, "word_ends": last}
            read |= {"row_ends": last and (pieces < W >> log2 or rng.random() < 0.5), "part": rng.randrange(max(length // W, 1))}
            reads.append(read | {"data": list(rng.randbytes(length))})
    return reads


def model(config: Config, reads: list[dict]) -> list[tuple[dict[int, int], int]]:
    """(byte of the bus word -> its value, strobe) of each bus word; bytes that no piece holds are not told."""
    W, words, here = config.bus_bytes, [], {}
    for read in reads:
        for k in range(1 << read["log2"]):
            here[read["offset"] + k] = read["data"][read["part"] * W + k]
        if read["word_ends"]:
            words.append((here, (1 << (read["tail"] if read["row_ends"] and read["tail"] else W)) - 1))
            here = {}
    return words


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_pieces_become_bus_words(config):
    rng = random.Random(config.name)
    stores = [draw(config, rng) for _ in range(25)]
    dut = WordGatherer(config)
    got = []

    async def collect(ctx):
        while True:
            _, _, valid, beat = await ctx.tick().sample(dut.beat_valid, dut.beat)
            if valid:
                got.append((list(beat.data), beat.strobe))

    async def bench(ctx):
        for reads in stores:
            for name in ("log2", "tail"):
                ctx.set(getattr(dut, name), reads[0][name])
            await ctx.tick()
            for read in reads:
                while rng.random() < 0.2:
                    ctx.set(dut.valid, 0)
                    await ctx.tick()
                ctx.set(dut.valid, 1)
                ctx.set(dut.piece, {name: read[name] for name in ("offset", "word_ends", "row_ends", "part")})
                ctx.set(dut.stats, read["source"] == "stat_data")
                ctx.set(dut.transpose, read["source"] == "word")
                for name, length in (("word", config.rows), ("lane_data", config.bus_bytes)):
                    ctx.set(getattr(dut, name), read["data"] if read["source"] == name else list(rng.randbytes(length)))
                data = bytes(read["data"]) if read["source"] == "stat_data" else rng.randbytes(STAT_BYTES)
                ctx.set(dut.stat_data, int.from_bytes(data, "little"))
                await ctx.tick()
            ctx.set(dut.valid, 0)
            await ctx.tick().repeat(dut.delay)
            assert not ctx.get(dut.busy)

    simulate(dut, bench, background=[collect])
    wanted = [(store, word) for store in stores for word in model(config, store)]
    for i, ((store, (data, strobe)), beat) in enumerate(zip(wanted, got, strict=True)):
        assert ({k: beat[0][k] for k in data}, beat[1]) == (data, strobe), f"word {i}, of {store}"


@pytest.mark.parametrize("depth", [2, 3, 9])
@pytest.mark.parametrize("seed", range(3))
def test_no_more_words_are_started_than_the_fifo_has_entries(depth, seed):
    """A word is started while ``available`` and counted a cycle later; at most one entry stays unused."""
    rng = random.Random(seed)
    dut = FIFOCredits(depth)
    eager = rng.choice([0.1, 0.5, 0.9])

    async def bench(ctx):
        used, put, idle = 0, 0, 0
        for cycle in range(600):
            clear = rng.random() < 0.01
            get = used > put and rng.random() < eager
            start = ctx.get(dut.available) and rng.random() < 0.8
            for name, value in (("put", put), ("get", get), ("clear", clear)):
                ctx.set(getattr(dut, name), value)
            await ctx.tick()
            put, used = (0, 0) if clear else (start, used + start - get)
            assert used <= depth, f"cycle {cycle}: {used} words for {depth} entries"
            idle = 0 if start or get or clear else idle + 1
            if idle > 2:
                assert ctx.get(dut.available) == (used <= depth - 2), f"cycle {cycle}: {used} of {depth} are used"

    simulate(dut, bench)
