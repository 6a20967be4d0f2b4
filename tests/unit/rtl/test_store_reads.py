"""The reads of a store, one after the other, against where docs/machine.md has each of its bytes."""

import random

import pytest

from helpers.streams import run_stream, stepped
from loralith.rtl.store_reads import PieceCounter, PieceSizer, ReadAddressCounter, StoreReads
from loralith.spec.commands import STAT_BYTES, StoreSource
from loralith.spec.config import PRESETS, Config
from loralith.verif.block_test import simulate

SIZES = {"left_bytes": 16384, "right_bytes": 16384, "out_bytes": 8192, "acc_bytes": 1024, "scale_bytes": 512, "max_fold": 4}
CONFIGS = [
    PRESETS["tiny"],
    Config("narrow", rows=2, cols=16, bus_bytes=8, **SIZES),
    Config("wide", rows=8, cols=4, bus_bytes=32, **SIZES),
    Config("tall", rows=32, cols=4, bus_bytes=8, **SIZES),
]


def draw(config: Config, rng: random.Random) -> dict[str, int]:
    """The fields of a store that passes its check, but for its sizes, which need no memory here."""
    W = config.bus_bytes
    fields = {"source": StoreSource.OUT, "base": rng.randrange(1000), "block_stride": rng.randrange(50)}
    kind = rng.choice(["stats", "packed", "rows", "rows"])
    if kind == "stats":
        return fields | {"source": StoreSource.STATS, "rows": 1, "row_bytes": STAT_BYTES * rng.randint(1, 5), "transpose": 0, "packed": 0}
    fields |= {"transpose": rng.random() < 0.5, "packed": kind == "packed", "rows": rng.choice([1, 2, rng.randint(1, 3 * W)])}
    row_bytes = 1 << rng.randrange(W.bit_length() - 1) if kind == "packed" else rng.choice([1, W, rng.randint(1, 5 * W)])
    return fields | {"row_bytes": row_bytes}


def model(config: Config, c: dict[str, int]) -> list[dict[str, int]]:
    """What matters of each read: its lane, or of a transposed one its bank; ``bytes``: how many of its bytes are used at most."""
    R, W = config.rows, config.bus_bytes
    stats, transpose, packed, rows, row_bytes = (c[name] for name in ("source", "transpose", "packed", "rows", "row_bytes"))
    size = min(W, STAT_BYTES if stats else R if transpose else W)
    size = min(size, row_bytes) if packed else size
    reads = []
    for i in range(rows):
        for first in range(0, row_bytes, size):
            read = {"stats": stats == StoreSource.STATS, "transpose": transpose, "bytes": size}
            read["offset"] = (i * row_bytes * packed + first) % W
            read["tail"] = (rows * row_bytes if packed else row_bytes) % W
            last_of_row = first + size >= row_bytes
            last = last_of_row and i == rows - 1
            read["row_ends"] = last if packed else last_of_row
            read["word_ends"] = read["offset"] + size == W or read["row_ends"]
            if stats:
                read |= {"row": c["base"] + first // STAT_BYTES, "part": first % STAT_BYTES // W}
            elif transpose:
                read |= {"row": c["base"] + first // R * c["block_stride"] + i // W, "bank": i % W, "part": first % R // W}
            else:
                read |= {"row": c["base"] + i // R * c["block_stride"] + first // W, "lane": i % R}
            reads.append(read)
    return reads


def run(config: Config, stores: list[dict[str, int]], stall: float = 0.0) -> tuple[list[dict[str, int]], list[int]]:
    """The reads of ``stores``, and the cycle of each."""
    dut = StoreReads(config)

    def members(read, log2: int, tail: int) -> dict[str, int]:
        found = {name: getattr(part, name) for part in (read.address, read.piece) for name, _ in part.shape()}
        return found | {"stats": read.stats, "transpose": read.transpose, "bytes": 1 << log2, "tail": tail}

    wanted = sum(len(model(config, store)) for store in stores)
    return run_stream(dut, stores, wanted, members, random.Random(1), stall, also=(dut.log2, dut.tail))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_each_byte_is_read_where_its_rules_say(config, stall):
    rng = random.Random(config.name)
    stores = [draw(config, rng) for _ in range(12)]
    wanted = [(number, want) for number, store in enumerate(stores) for want in model(config, store)]
    reads, _ = run(config, stores, stall)
    for i, ((number, want), got) in enumerate(zip(wanted, reads, strict=True)):
        wrong = {name: (got[name], value) for name, value in want.items() if got[name] != value}
        assert not wrong, f"read {i}, of store {number}, {stores[number]}: (got, want) {wrong}"


def test_one_read_per_cycle():
    config = PRESETS["tiny"]
    stores = [draw(config, random.Random(seed)) for seed in range(6)]
    _, cycles = run(config, stores)
    at = 0
    for number, store in enumerate(stores):
        count = len(model(config, store))
        got, cycles = cycles[:count], cycles[count:]
        assert got == [at + StoreReads.delay + 1 + i for i in range(count)], f"store {number}, {store}"
        at = got[-1]


@pytest.mark.parametrize("name", ["hold", "clear"])
def test_no_store_begins_meanwhile(name):
    config = PRESETS["tiny"]
    store = draw(config, random.Random(3))
    dut = StoreReads(config)

    async def bench(ctx):
        ctx.set(dut.i.payload, store)
        ctx.set(dut.i.valid, 1)
        ctx.set(getattr(dut, name), 1)
        for _ in range(10):
            await ctx.tick()
            assert not ctx.get(dut.o.valid)
        ctx.set(getattr(dut, name), 0)
        for _ in range(1 if name == "hold" else StoreReads.delay):
            await ctx.tick()
        assert ctx.get(dut.o.valid)
        ctx.set(dut.clear, 1)
        await ctx.tick()
        assert not ctx.get(dut.o.valid)

    simulate(dut, bench)


def size_of(config: Config, store: dict[str, int], reads: list[dict[str, int]]) -> dict[str, int]:
    """``PieceSize`` of a store, from its reads."""
    return {"log2": reads[0]["bytes"].bit_length() - 1, "pieces": len(reads) // store["rows"], "tail": reads[0]["tail"]}


def last_part(config: Config, store: dict[str, int]) -> int:
    memory = STAT_BYTES if store["source"] else config.rows if store["transpose"] else config.bus_bytes
    return max(memory // config.bus_bytes, 1) - 1


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_the_size_of_pieces_is_known_two_cycles_later(config):
    rng, dut = random.Random(config.name), PieceSizer(config)

    async def bench(ctx):
        for _ in range(60):
            store = draw(config, rng)
            ctx.set(dut.store, store)
            ctx.set(dut.valid, 1)
            await ctx.tick()
            assert not ctx.get(dut.done)
            await ctx.tick()
            got, want = ctx.get(dut.size), size_of(config, store, model(config, store))
            assert ctx.get(dut.done)
            assert {name: getattr(got, name) for name in want} == want, store
            ctx.set(dut.valid, 0)
            await ctx.tick()
            assert not ctx.get(dut.done)

    simulate(dut, bench)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_pieces_are_counted(config):
    rng, dut = random.Random(config.name), PieceCounter(config)

    async def bench(ctx):
        for _ in range(10):
            store = draw(config, rng)
            reads = model(config, store)
            ctx.set(dut.size, size_of(config, store, reads))
            ctx.set(dut.last_part, last_part(config, store))
            per_row, number = len(reads) // store["rows"], 0
            ctx.set(dut.store, store)
            async for read in stepped(ctx, dut, reads, rng):
                number += 1
                got, want = ctx.get(dut.piece), {name: read[name] for name in ("offset", "word_ends", "row_ends", "part") if name in read}
                assert {name: getattr(got, name) for name in want} == want, f"read {number} of {store}"
                assert ctx.get(dut.row_done) == (number % per_row == 0), f"read {number} of {store}"
                assert ctx.get(dut.store_done) == (number == len(reads)), f"read {number} of {store}"

    simulate(dut, bench)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_addresses_follow_the_pieces(config):
    rng, dut = random.Random(config.name), ReadAddressCounter(config)

    async def bench(ctx):
        for _ in range(10):
            store = draw(config, rng)
            reads = model(config, store)
            per_row, number = len(reads) // store["rows"], 0
            ctx.set(dut.transpose, store["transpose"])
            ctx.set(dut.store, store)
            async for read in stepped(ctx, dut, reads, rng):
                number += 1
                ctx.set(dut.row_done, number % per_row == 0)
                ctx.set(dut.part_done, read.get("part", 0) == last_part(config, store))
                got, want = ctx.get(dut.address), {name: read[name] for name in ("row", "lane", "bank") if name in read}
                assert {name: getattr(got, name) for name in want} == want, f"read {number} of {store}"

    simulate(dut, bench)
