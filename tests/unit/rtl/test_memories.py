"""On-chip memories hold what their contract says, whatever lanes, banks and bytes of a bus word they have."""

import random

import pytest

from loralith.rtl.memories import AccumulateMemory, OperandMemory, OutputMemory, ScaleMemory, Statistics
from loralith.spec.config import PRESETS
from loralith.spec.numerics import SHIFT_MAX
from loralith.verif.block_test import assert_each_equal, simulate

DEPTH = 4


@pytest.mark.parametrize(
    ("lanes", "banks", "period"),
    [(4, 8, None), (8, 8, None), (16, 8, None), (16, 8, 8), (4, 8, 8)],
    ids=["few lanes", "as many", "many lanes", "many lanes, word repeats", "few lanes, word repeats"],
)
def test_an_operand_memory_holds_natural_and_transposed_writes(lanes: int, banks: int, period: int | None) -> None:
    dut = OperandMemory(lanes, DEPTH, banks, period)
    draw = random.Random(lanes * banks)
    held = [[[0] * lanes for _ in range(banks)] for _ in range(DEPTH)]

    async def bench(ctx):
        for _ in range(60):
            row, bank, lane, transpose = draw.randrange(DEPTH), draw.randrange(banks), draw.randrange(lanes), draw.randrange(2)
            bank_mask = draw.randrange(1 << banks) if transpose else 1 << bank
            lane_mask = 1 << lane if transpose else draw.randrange(1 << lanes)
            seq, bytes_ = draw.randbytes(banks), draw.randbytes(period or lanes)
            word = [bytes_[i % len(bytes_)] for i in range(lanes)]
            write = {
                "row": row,
                "bank_mask": bank_mask,
                "lane_mask": lane_mask,
                "transpose": transpose,
                "seq": list(seq),
                "word": word,
            }
            for name, value in write.items():
                ctx.set(getattr(dut.write, name), value)
            enabled = draw.randrange(4) != 0
            ctx.set(dut.write.en, enabled)
            for b in range(banks):
                for at in range(lanes):
                    if enabled and bank_mask >> b & 1 and lane_mask >> at & 1:
                        held[row][b][at] = seq[b] if transpose else word[at]
            await ctx.tick()
        ctx.set(dut.write.en, 0)
        await ctx.tick().repeat(dut.write_delay - 1)
        ctx.set(dut.read_en, (1 << banks) - 1)
        for row in range(DEPTH):
            ctx.set(dut.read_row, row)
            await ctx.tick().repeat(dut.delay)
            for b in range(banks):
                assert list(ctx.get(dut.read_data[b]).to_bytes(lanes, "little")) == held[row][b], (row, b)

    simulate(dut, bench)


def test_an_output_buffer_is_read_by_lane_and_by_bank() -> None:
    config, rng = PRESETS["tiny"], random.Random(2)
    R, W = config.rows, config.banks
    dut, held = OutputMemory(config), [[bytes(R)] * W for _ in range(DEPTH)]
    got, want, stimuli = [], [], []

    async def bench(ctx):
        for _ in range(60):
            row, mask, enabled = rng.randrange(DEPTH), rng.getrandbits(W), rng.randrange(4) != 0
            words = [rng.randbytes(R) for _ in range(4)]
            ctx.set(dut.write_en, enabled)
            ctx.set(dut.write_row, row)
            ctx.set(dut.bank_mask, mask)
            ctx.set(dut.words, [int.from_bytes(word, "little") for word in words])
            for bank in range(W):
                if enabled and mask >> bank & 1:
                    held[row][bank] = words[bank % 4]
            await ctx.tick()
        ctx.set(dut.write_en, 0)
        await ctx.tick()
        for row in range(DEPTH):
            for lane in range(R):
                bank = rng.randrange(W)
                for port, value in ((dut.read.row, row), (dut.read.lane, lane), (dut.read.bank, bank), (dut.read.en, 1)):
                    ctx.set(port, value)
                await ctx.tick()
                ctx.set(dut.read.en, 0)
                ctx.set(dut.read.lane, rng.randrange(R))
                await ctx.tick().repeat(dut.delay - 1 + rng.randrange(3))
                got.append(([ctx.get(byte) for byte in dut.read.lane_data], [ctx.get(byte) for byte in dut.read.word]))
                want.append(([held[row][b][lane] for b in range(W)], list(held[row][bank])))
                stimuli.append((row, lane, bank))

    simulate(dut, bench)
    assert_each_equal("read", got, want, stimuli)


def test_an_accumulate_buffer_keeps_its_words() -> None:
    config, rng = PRESETS["tiny"], random.Random(3)
    dut, held, got, want = AccumulateMemory(config), [0] * DEPTH, [], []

    async def bench(ctx):
        for _ in range(80):
            row, word, enabled, read = rng.randrange(DEPTH), rng.getrandbits(32 * config.rows), rng.randrange(2), rng.randrange(DEPTH)
            for port, value in ((dut.write_row, row), (dut.write_data, word), (dut.write_en, enabled and row != read)):
                ctx.set(port, value)
            ctx.set(dut.read_row, read)
            ctx.set(dut.read_en, 1)
            await ctx.tick().repeat(dut.delay)
            ctx.set(dut.write_en, 0)
            got.append(ctx.get(dut.read_data))
            want.append(held[read])
            if enabled and row != read:
                held[row] = word

    simulate(dut, bench)
    assert_each_equal("read", got, want)


def test_scales_are_written_by_beats_and_their_shifts_are_limited() -> None:
    config, rng = PRESETS["tiny"], random.Random(4)
    W, groups = config.bus_bytes, 4 * config.rows // config.bus_bytes
    dut, held, got, want = ScaleMemory(config), [[bytes(W)] * groups for _ in range(DEPTH)], [], []

    def limited(beat: bytes) -> bytes:
        entries = [int.from_bytes(beat[at : at + 4], "little") for at in range(0, W, 4)]
        return b"".join(((entry & ~(63 << 16)) | min(entry >> 16 & 63, SHIFT_MAX) << 16).to_bytes(4, "little") for entry in entries)

    async def bench(ctx):
        for _ in range(60):
            row, group, beat = rng.randrange(DEPTH), rng.randrange(groups), rng.randbytes(W)
            ctx.set(dut.write, {"row": row, "group": group, "data": list(beat)})
            ctx.set(dut.write_en, 1)
            held[row][group] = limited(beat)
            await ctx.tick()
        ctx.set(dut.write_en, 0)
        ctx.set(dut.read_en, 1)
        for row in range(DEPTH):
            ctx.set(dut.read_row, row)
            await ctx.tick().repeat(dut.delay)
            got.append(ctx.get(dut.read_data).to_bytes(4 * config.rows, "little"))
            want.append(b"".join(held[row]))

    simulate(dut, bench)
    assert_each_equal("row", got, want)


def test_statistics_merge_into_their_slots() -> None:
    config, rng = PRESETS["tiny"], random.Random(5)
    dut, held, got, want = Statistics(config), [(0, 0)] * config.stat_slots, [], []

    async def bench(ctx):
        for _ in range(60):
            slot, clear = rng.randrange(4), int(rng.random() < 0.3)
            maximum, saturations = rng.getrandbits(rng.choice((4, 47))), rng.getrandbits(8)
            for port, value in (
                (dut.slot, slot),
                (dut.clear, clear),
                (dut.maximum, maximum),
                (dut.saturations, saturations),
                (dut.update, 1),
            ):
                ctx.set(port, value)
            old = (0, 0) if clear else held[slot]
            held[slot] = (max(old[0], maximum), old[1] + saturations)
            await ctx.tick()
            ctx.set(dut.update, 0)
            await ctx.tick().until(dut.recorded)
            await ctx.tick()  # from the next cycle but one on
            for reader in (dut.read, dut.exponent):
                ctx.set(reader.slot, slot)
                ctx.set(reader.en, 1)
                await ctx.tick().repeat(dut.delay)
                ctx.set(reader.en, 0)
                data = ctx.get(reader.data)
                got.append((data & (1 << 64) - 1, data >> 64))
                want.append(held[slot])

    simulate(dut, bench)
    assert_each_equal("read", got, want)
