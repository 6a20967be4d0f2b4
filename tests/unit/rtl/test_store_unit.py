"""The STORE unit with its write master on a memory that stalls, and its data side alone, against docs/machine.md's words."""

import random

import pytest

from helpers.store_rig import BASE, CONFIGS, OUT_DELAY, SIZE, STAT_DELAY, Memories, simulate, some_store
from loralith.rtl.store_data import StoreData
from loralith.spec.commands import Command, Opcode, StoreSource
from loralith.spec.config import PRESETS
from loralith.spec.status import Check, Code
from loralith.verif.axi_model import Stalls
from loralith.verif.block_test import assert_each_equal, design


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("seed", range(3))
def test_dram_holds_what_the_rules_say_and_nothing_else_is_written(config, seed):
    rng = random.Random(seed)
    commands = [some_store(config, rng, i, BASE + 4096 * i) for i in range(12)]
    stall = rng.choice([0.0, 0.4])
    dram, memories, events, result = simulate(config, commands, Stalls.random(rng), seed=seed, token_stall=stall)
    want = bytearray(result["before"])
    for c in commands:
        for i in range(c["rows"]):
            row, start = memories.row(c, i), c["address"] - BASE + i * c["row_stride"]
            want[start : start + len(row)] = row
    wrong = next((at for at in range(SIZE) if dram.data[at] != want[at]), None)
    assert wrong is None, f"byte {wrong:#x} is {dram.data[wrong]:#x}, not {want[wrong]:#x}, after {commands[wrong // 4096].fields}"
    assert [mask for kind, _, mask in events if kind == "wait"] == [c["wait"] for c in commands]
    assert [mask for kind, _, mask in events if kind == "done"] == [c["signal"] for c in commands]
    assert not result["busy"]
    words = 0
    for c in commands:
        rows, row_bytes = (1, c["rows"] * c["row_bytes"]) if c["packed"] else (c["rows"], c["row_bytes"])
        words += rows * -(-row_bytes // config.bus_bytes)
    assert sum(beats for _, beats in dram.writes) == words, "bus words"


def test_a_store_is_signalled_after_its_last_response():
    """Each store has one burst, whose response comes 30 cycles after its data; the tokens are given in order."""
    commands = [Command.make(Opcode.STORE, address=BASE + 64 * i, rows=1, row_bytes=8, row_stride=8, signal=1 << i) for i in range(5)]
    dram, _, events, _ = simulate(PRESETS["tiny"], commands, Stalls(latency=30))
    done = [(cycle, mask) for kind, cycle, mask in events if kind == "done"]
    assert [mask for _, mask in done] == [1, 2, 4, 8, 16]
    for i, ((cycle, _), written) in enumerate(zip(done, dram.write_cycles, strict=True)):
        assert cycle >= written + 30, f"store {i}: signalled in cycle {cycle}, its data written in {written}"


GOOD = {"address": BASE, "rows": 2, "row_bytes": 9, "row_stride": 16, "base": 0, "block_stride": 2}


@pytest.mark.parametrize(
    ("change", "code", "detail", "address"),
    [
        ({"source": 5}, Code.BAD_FIELD, Check.ENUM, 0),
        ({"source": 1}, Code.BAD_FIELD, Check.ENUM, 0),
        ({"source": 1, "rows": 1, "block_stride": 0}, Code.BAD_FIELD, Check.ENUM, 0),
        ({"packed": 1}, Code.BAD_FIELD, Check.ENUM, 0),
        ({"packed": 1, "row_bytes": 4, "row_stride": 8}, Code.BAD_FIELD, Check.ENUM, 0),
        ({"rows": 0}, Code.BAD_FIELD, Check.SIZE, 0),
        ({"row_bytes": 0}, Code.BAD_FIELD, Check.SIZE, 0),
        ({"address": BASE + 4}, Code.MISALIGNED, Check.ADDRESS, BASE + 4),
        ({"row_stride": 17}, Code.MISALIGNED, Check.STRIDE, BASE),
        ({"base": PRESETS["tiny"].out_depth - 1}, Code.SCRATCHPAD_BOUNDS, Check.OUT, 0),
        ({"address": BASE - 8}, Code.DRAM_WINDOW, Check.ADDRESS, BASE - 8),
        ({"address": BASE + SIZE - 24}, Code.DRAM_WINDOW, Check.ADDRESS, BASE + SIZE - 24),
    ],
)
def test_a_bad_store_stops_the_unit_with_its_code(change, code, detail, address):
    good, bad = (Command.make(Opcode.STORE, **(GOOD | fields)) for fields in ({}, change))
    _, _, events, result = simulate(PRESETS["tiny"], [good, bad, good], Stalls(), until_fault=True)
    assert sum(kind == "wait" for kind, *_ in events) <= 1, "a bad store takes no tokens"
    assert result["fault"] == {"valid": 1, "code": code, "detail": detail, "command": 1, "address": address}
    assert not result["busy"]


def test_a_response_with_an_error_names_its_store_and_address():
    commands = [Command.make(Opcode.STORE, **(GOOD | {"address": BASE + 64 * i})) for i in range(3)]
    _, _, _, result = simulate(
        PRESETS["tiny"], commands, Stalls(), error=lambda a: 2 if BASE + 64 <= a < BASE + 128 else 0, until_fault=True
    )
    assert result["fault"] == {"valid": 1, "code": Code.AXI_WRITE_ERROR, "detail": Check.NONE, "command": 1, "address": BASE + 64}
    assert not result["busy"]


def store_data(config) -> StoreData:
    return StoreData(config, OUT_DELAY, STAT_DELAY)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("eager", [0.1, 0.6, 1.0])
def test_the_data_side_gives_every_bus_word_once_and_in_order(config, eager):
    """Stores one after the other; whoever takes the words stalls."""
    rng, W = random.Random(f"{config.name} {eager}"), config.bus_bytes
    commands = [some_store(config, rng, i, BASE) for i in range(10)]
    memories, block, got = Memories(config, rng), design(store_data, config), []
    dut = block.dut

    async def answer(ctx):
        await memories.answer(ctx, dut.out_read, dut.stat_read)

    async def collect(ctx):
        while True:
            ctx.set(dut.beats.ready, rng.random() < eager)
            _, _, taken, beat = await ctx.tick().sample(dut.beats.valid & dut.beats.ready, dut.beats.payload)
            if taken:
                got.append(bytes(byte for i, byte in enumerate(beat.data) if beat.strobe >> i & 1))

    async def feed(ctx):
        names = [name for name, *_ in dut.transfers.payload.shape() if name not in ("index", "beats")]
        for c in commands:
            ctx.set(dut.transfers.payload, {name: int(c[name]) for name in names} | {"beats": -(-c["row_bytes"] // W)})
            ctx.set(dut.transfers.valid, 1)
            taken = False
            while not taken:
                _, _, taken = await ctx.tick().sample(dut.transfers.ready)
            ctx.set(dut.transfers.valid, rng.random() < 0.5)
            if not ctx.get(dut.transfers.valid):
                await ctx.tick().repeat(rng.randint(1, 30))
        ctx.set(dut.transfers.valid, 0)
        for _ in range(5000):
            if ctx.get(dut.idle):
                break
            await ctx.tick()
        assert ctx.get(dut.idle)

    block.simulate(feed, background=(answer, collect))
    want = []
    for c in commands:
        rows = [memories.row(c, i) for i in range(c["rows"])]
        for row in [b"".join(rows)] if c["packed"] else rows:
            want += [row[at : at + W] for at in range(0, len(row), W)]
    assert_each_equal("bus word", got, want)


def test_statistics_come_from_their_slots():
    """A store of statistics reads slot after slot; its source is not the output buffer."""
    config = PRESETS["tiny"]
    command = Command.make(Opcode.STORE, source=StoreSource.STATS, address=BASE, rows=1, row_bytes=48, base=5)
    dram, memories, _, _ = simulate(config, [command], Stalls())
    assert bytes(dram.data[:48]) == b"".join(memories.stats[5:8])
