"""The drain and its parts against sums over the shadow accumulators of a tile."""

import random

import pytest

from loralith.rtl.drain import Drain
from loralith.rtl.drain_columns import ColumnCounter, FoldSum, LaneKeys
from loralith.rtl.memories import AccumulateMemory, ScaleMemory
from loralith.rtl.tile import CommandFlags, ResultFlags, Tile
from loralith.spec.commands import OutMode, ScaleMode
from loralith.spec.config import PRESETS
from loralith.verif.block_test import assert_each_equal, simulate

MASK16, MASK32 = 0xFFFF, 0xFFFF_FFFF


def draw_tile(rng, config):
    tile: dict = {name: rng.getrandbits(member.width) for name, member in Tile if name != "flags"}
    flags = {name: rng.getrandbits(member.width) for name, member in CommandFlags}
    flags |= {"out_mode": int(rng.choice(list(OutMode))), "scale_mode": int(rng.choice(list(ScaleMode))), "scale_n": rng.randrange(48)}
    tile["fold_log2"] = rng.randrange(config.max_fold.bit_length())
    tile["cols"] = rng.randint(1, config.cols >> tile["fold_log2"])
    tile["rows"] = rng.randint(1, config.rows)
    return tile | {"flags": flags}


def stored(kind, row, lane):
    """What is in a memory's word."""
    return random.Random(f"{kind} {row} {lane}").getrandbits(32)


def model(tile, shadow, config):
    """The tile's columns: (fields, sums, scales, mask, hash inputs or None)."""
    flags, R, width = tile["flags"], config.rows, config.cols >> tile["fold_log2"]
    int8, mode = flags["out_mode"] == OutMode.INT8, flags["scale_mode"]
    columns = []
    for j in range(tile["cols"]):
        n, word = tile["n"] + j & MASK16, tile["acc_word"] + j & MASK16
        sums = [sum(shadow[group * width + j][i] for group in range(1 << tile["fold_log2"])) for i in range(R)]
        sums = [value + flags["acc_read"] * stored("acc", word, i) & MASK32 for i, value in enumerate(sums)]
        if not int8:
            scales = [(1, 0)] * R
        elif mode == ScaleMode.TENSOR:
            scales = [(flags["scale_m"], flags["scale_n"])] * R
        else:
            row = tile["scale_word"] + (n // R if mode == ScaleMode.COLUMN else 0) & MASK16
            entries = [stored("scale", row, n % R if mode == ScaleMode.COLUMN else i) for i in range(R)]
            scales = [(entry & MASK16, entry >> 16 & 63) for entry in entries]
        fields = {
            "flags": {name: flags[name] for name, _ in ResultFlags},
            "rows": tile["rows"],
            "first": tile["first"] * (j == 0),
            "last": tile["last"] * (j + 1 == tile["cols"]),
            "n": n,
            "out_row": tile["out_row"],
            "result_row": tile["result_row"],
        }
        keyed = [flags["key0"] + i * flags["index_row_stride"] & MASK32 for i in range(R)]
        hashed = (keyed, tile["index"] + j * flags["index_col_stride"] & MASK32, flags["key1"]) if flags["stochastic"] else None
        columns.append((fields, sums, scales, (1 << tile["rows"]) - 1, hashed, (word, sums) if flags["acc_write"] else None))
    return columns


def lanes(value, count, bits=32):
    return [value >> bits * i & (1 << bits) - 1 for i in range(count)]


@pytest.mark.parametrize("preset", ["tiny", "ecp5"])
def test_columns_of_tiles(preset):
    config, rng = PRESETS[preset], random.Random(preset)
    R, C, G = config.rows, config.cols, config.max_fold
    dut, tiles = Drain(config), [draw_tile(random.Random(i), config) for i in range(25 if preset == "tiny" else 10)]
    want, due, hashes = [], {}, {}
    got: dict[int, list] = {}

    async def bench(ctx):
        shadow, reads, moving = [[0] * R for _ in range(C)], [{}, {}], False
        capture, queue, end = 4, list(tiles), 0
        for cycle in range(2000):
            if queue and cycle == capture - LaneKeys.delay - 1:
                ctx.set(dut.tile, queue[0])
            starts = bool(queue) and cycle == capture
            ctx.set(dut.capture, starts)
            for port, answers in ((dut.acc_read_data, reads[0]), (dut.scale_data, reads[1])):
                if cycle in answers:
                    ctx.set(port, answers[cycle])
            for group in range(G):
                ctx.set(dut.array_out[group], sum(v << 32 * i for i, v in enumerate(shadow[group * C // G])))
            for kind, en, row, answers, delay in (
                ("acc", dut.acc_read_en, dut.acc_read_row, reads[0], AccumulateMemory.delay),
                ("scale", dut.scale_en, dut.scale_row, reads[1], ScaleMemory.delay),
            ):
                if ctx.get(en):
                    answers[cycle + delay] = sum(stored(kind, ctx.get(row), i) << 32 * i for i in range(R))
            moving = ctx.get(dut.shift)
            if ctx.get(dut.hash_valid):
                hashes[cycle + dut.hash_lead] = [lanes(ctx.get(dut.hash_keyed), R), ctx.get(dut.hash_column)]
            if cycle - dut.key1_delay + dut.hash_lead in hashes and len(hashes[cycle - dut.key1_delay + dut.hash_lead]) == 2:
                hashes[cycle - dut.key1_delay + dut.hash_lead].append(ctx.get(dut.hash_key1))
            if ctx.get(dut.valid):
                column = dut.column
                fields = {name: ctx.get(column[name]) for name in ("rows", "first", "last", "n", "out_row", "result_row")}
                fields["flags"] = {name: ctx.get(column.flags[name]) for name, _ in ResultFlags}
                scales = [(ctx.get(scale.m), ctx.get(scale.n)) for scale in dut.scales]
                written = (ctx.get(dut.acc_write_row), lanes(ctx.get(dut.acc_write_data), R)) if ctx.get(dut.acc_write_en) else None
                got[cycle] = [fields, lanes(ctx.get(dut.values), R), scales, ctx.get(dut.mask), written]
            await ctx.tick()
            if starts:
                shadow = [[rng.getrandbits(32) for _ in range(R)] for _ in range(C)]
                for j, column in enumerate(model(queue[0], shadow, config)):
                    due[cycle + dut.delay + j] = column
                    want.append(column)
                end = cycle + 20
                capture = cycle + max(5, queue.pop(0)["cols"]) + rng.randrange(3)
            elif moving:
                shadow = [*shadow[1:], [0] * R]
            if not queue and cycle > end:
                break

    simulate(dut, bench)
    assert sorted(got) == sorted(due), "columns come in other cycles"
    found = [(*got[cycle][:4], tuple(hashes[cycle]) if cycle in hashes else None, got[cycle][4]) for cycle in sorted(got)]
    assert_each_equal("column", found, want)


def test_a_tile_column_by_column():
    rng, dut, got, want = random.Random(1), ColumnCounter(), [], []
    tiles = [draw_tile(rng, PRESETS["tiny"]) for _ in range(12)]

    async def bench(ctx):
        for tile in tiles:
            ctx.set(dut.tile, tile)
            ctx.set(dut.capture, 1)
            await ctx.tick()
            ctx.set(dut.capture, 0)
            ctx.set(dut.tile, draw_tile(rng, PRESETS["tiny"]))
            for j in range(tile["cols"]):
                got.append(tuple(ctx.get(value) for value in (dut.active, dut.first, dut.last, dut.n, dut.acc_word, dut.index)))
                n, word = tile["n"] + j & MASK16, tile["acc_word"] + j & MASK16
                index = tile["index"] + j * tile["flags"]["index_col_stride"] & MASK32
                want.append((1, tile["first"] * (j == 0), int(j + 1 == tile["cols"]), n, word, index))
                await ctx.tick()
            assert not ctx.get(dut.active)

    simulate(dut, bench)
    assert_each_equal("column", got, want)


@pytest.mark.parametrize("count", [2, 8, 16])
def test_keys_of_lanes(count):
    rng, dut, got, want, stimuli = random.Random(count), LaneKeys(count), [], [], []

    async def bench(ctx):
        for _ in range(10):
            key0, stride = rng.getrandbits(32), rng.getrandbits(32)
            ctx.set(dut.key0, key0)
            ctx.set(dut.stride, stride)
            await ctx.tick().repeat(dut.delay)
            got.append(lanes(ctx.get(dut.keys), count))
            want.append([key0 + i * stride & MASK32 for i in range(count)])
            stimuli.append((key0, stride))

    simulate(dut, bench)
    assert_each_equal("keys", got, want, stimuli)


@pytest.mark.parametrize("groups", [1, 2, 4, 8, 16])
def test_sums_of_a_fold(groups):
    rng, dut, got, want, stimuli = random.Random(groups), FoldSum(groups), [], [], []

    async def bench(ctx):
        ctx.set(dut.enables, -1)
        for _ in range(30):
            fold = 1 << rng.randrange(groups.bit_length())
            sums = [rng.getrandbits(32) for _ in range(groups)]
            skips = sum(1 << group for group in range(groups) if group % (groups // fold))
            ctx.set(dut.sums, sums)
            for stage in range(dut.stages):
                ctx.set(dut.skips[stage], skips)
            await ctx.tick().repeat(dut.stages)
            got.append(ctx.get(dut.sum))
            want.append(sum(value for group, value in enumerate(sums) if not skips >> group & 1) & MASK32)
            stimuli.append((fold, sums))

    simulate(dut, bench)
    assert_each_equal("sum", got, want, stimuli)
