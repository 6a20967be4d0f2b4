"""Where results go: memories, statistics and tokens, against what each column says."""

import random

import pytest

from loralith.rtl.ppu import PostProcessor
from loralith.rtl.results import Results
from loralith.rtl.tile import Column, ResultFlags
from loralith.spec.commands import OutMode
from loralith.spec.config import PRESETS
from loralith.verif.block_test import assert_each_equal, simulate

MASK16 = 0xFFFF


def draw_columns(rng, config, commands):
    """(column, quantized bytes, INT32 values, saturated lanes, maximum) of the columns of a few commands."""
    columns = []
    for _ in range(commands):
        flags = {name: rng.getrandbits(member.width) for name, member in ResultFlags}
        flags["out_mode"] = int(rng.choice(list(OutMode)))
        count = rng.randint(1, 4)
        for i in range(count):
            column: dict = {name: rng.getrandbits(member.width) for name, member in Column if name != "flags"}
            column |= {"flags": flags, "first": int(i == 0), "last": int(i + 1 == count)}
            values = [rng.getrandbits(32) for _ in range(config.rows)]
            columns.append((column, rng.randbytes(config.rows), values, rng.getrandbits(config.rows), rng.getrandbits(rng.choice((3, 47)))))
    return columns


def model(columns, config):
    """Writes to the output buffer (row, {bank: word}), to the left scratchpad (row, bank, word), statistics, tokens."""
    W, outs, lefts, stats, tokens = config.banks, [], [], [], []
    largest = clipped = 0
    for column, quantized, values, saturated, maximum in columns:
        flags, n = column["flags"], column["n"]
        int32 = flags["out_mode"] == OutMode.INT32
        position = 4 * n if int32 else n
        planes = [bytes(value >> 8 * byte & 255 for value in values) for byte in range(4)] if int32 else [quantized]
        if flags["to_out"]:
            words = {position % W + byte: int.from_bytes(plane, "little") for byte, plane in enumerate(planes)}
            outs.append((column["out_row"] + position // W & MASK16, words))
        if flags["to_left"]:
            lefts.append((column["result_row"] + n // W & MASK16, n % W, int.from_bytes(quantized, "little")))
        largest = maximum if column["first"] else max(largest, maximum)
        clipped = saturated.bit_count() + (0 if column["first"] else clipped)
        if column["last"]:
            tokens.append(flags["signal"])
            if flags["stat_enable"]:
                stats.append((flags["stat_slot"], flags["stat_clear"], largest, clipped))
    return outs, lefts, stats, tokens


@pytest.mark.parametrize("preset", ["tiny", "ecp5"])
def test_each_column_goes_where_its_command_says(preset):
    config, rng = PRESETS[preset], random.Random(preset)
    columns = draw_columns(rng, config, 40)
    dut, outs, lefts, stats, tokens = Results(config), [], [], [], []
    late = PostProcessor.maximum_delay_of(config.rows)
    saturations = []

    async def bench(ctx):
        entered, queue, in_flight = {}, list(columns), 0
        for cycle in range(3000):
            ctx.set(dut.started, 0)
            ctx.set(dut.valid, 0)
            if queue and rng.random() < 0.6 and not (queue[0][0]["first"] and ctx.get(dut.full)):
                entered[cycle] = column = queue.pop(0)
                ctx.set(dut.valid, 1)
                ctx.set(dut.column, column[0])
                ctx.set(dut.started, column[0]["first"])
            _, quantized, values, saturated, _ = entered.get(cycle - PostProcessor.delay, (None, rng.randbytes(config.rows), [0], 0, 0))
            ctx.set(dut.quantized, int.from_bytes(quantized, "little"))
            ctx.set(dut.int32, sum(value << 32 * i for i, value in enumerate(values)))
            ctx.set(dut.saturated, saturated)
            ctx.set(dut.maximum, entered[cycle - late][4] if cycle - late in entered else rng.getrandbits(48))
            ctx.set(dut.signal.ready, rng.random() < 0.2)
            if ctx.get(dut.out_en):
                mask, words = ctx.get(dut.out_mask), [ctx.get(word) for word in dut.out_words]
                outs.append((ctx.get(dut.out_row), {bank: words[bank % 4] for bank in range(config.banks) if mask >> bank & 1}))
            if ctx.get(dut.left_en):
                lefts.append((ctx.get(dut.left_row), ctx.get(dut.left_mask).bit_length() - 1, ctx.get(dut.left_word)))
            if ctx.get(dut.stat_update):
                stats.append(tuple(ctx.get(p) for p in (dut.stat_slot, dut.stat_clear, dut.stat_maximum, dut.stat_saturations)))
            saturations.append(ctx.get(dut.saturations))
            completes = ctx.get(dut.complete)
            assert completes == ctx.get(dut.signal.valid & dut.signal.ready)
            if completes:
                tokens.append(ctx.get(dut.signal.mask))
            assert ctx.get(dut.pending) == (in_flight > 0)
            assert ctx.get(dut.full) == (in_flight == dut.queue_depth)
            in_flight += ctx.get(dut.started) - completes
            await ctx.tick()
            if not queue and in_flight == 0:
                return
        raise AssertionError(f"{len(tokens)} commands are complete")

    simulate(dut, bench)
    want = model(columns, config)
    for what, one, other in zip(("write", "left write", "statistics", "tokens"), (outs, lefts, stats, tokens), want, strict=True):
        assert_each_equal(what, one, other)
    assert sum(saturations) == sum(saturated.bit_count() for _, _, _, saturated, _ in columns)


@pytest.mark.parametrize("preset", ["tiny", "base"])
def test_tokens_come_as_late_as_the_block_says(preset):
    config = PRESETS[preset]
    dut = Results(config)

    async def bench(ctx):
        ctx.set(dut.valid, 1)
        ctx.set(dut.column, {"last": 1, "flags": {"signal": 5}})
        for _ in range(dut.completion_delay_of(config.rows)):
            assert not ctx.get(dut.signal.valid)
            await ctx.tick()
        assert ctx.get(dut.signal.valid)
        assert ctx.get(dut.signal.mask) == 5

    simulate(dut, bench)
