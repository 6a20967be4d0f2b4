"""The parts of the load unit's data side: beats with a position to writes, and read errors with their address."""

import random

import pytest

from helpers.streams import feeder
from loralith.rtl.load_data import BeatErrors, LoadData, ScratchpadWriter
from loralith.spec.commands import LoadTarget
from loralith.spec.config import PRESETS, Config
from loralith.spec.status import Check, Code
from loralith.verif.block_test import simulate

SIZES = {"left_bytes": 16384, "right_bytes": 16384, "out_bytes": 8192, "acc_bytes": 1024, "scale_bytes": 512, "max_fold": 4}
CONFIGS = [
    PRESETS["tiny"],
    Config("narrow", rows=2, cols=16, bus_bytes=8, **SIZES),
    Config("wide", rows=8, cols=4, bus_bytes=32, **SIZES),
    Config("tall", rows=32, cols=4, bus_bytes=8, **SIZES),
]


def draw(config: Config, rng: random.Random) -> dict:
    """A beat and a position of it; of a load into both the right half, too."""
    R, C, W = config.rows, config.cols, config.bus_bytes
    target = rng.choice(["left", "right", "scale"] + ["both"] * (C >= W))
    kind = {name: target == name for name in ("right", "scale", "both")} | {
        "transpose": target == "both" or rng.random() < 0.5,
        "packed": 0,
    }
    lanes = 4 * R if target == "scale" else C if target in ("right", "both") else R
    count = {"part": rng.randrange(max(lanes // W, 1)), "sub": 0, "load_ends": rng.random() < 0.2}
    if target != "scale" and not kind["transpose"]:
        count["sub"] = rng.randrange(max(W // lanes, 1))
    to = {"row": rng.getrandbits(16), "right_row": rng.getrandbits(16), "bank": rng.randrange(W)}
    to["lane"] = rng.randrange(C if kind["right"] else R)
    position = {"kind": kind, "count": count, "to": to, "byte_mask": rng.choice([0, (1 << W) - 1, rng.getrandbits(W)])}
    return {"position": position, "data": list(rng.randbytes(W))}


def model(config: Config, beat: dict) -> dict[tuple, int]:
    """(memory, row, bank, lane) or ("scale", row, byte) -> the byte that is written there."""
    R, C, W = config.rows, config.cols, config.bus_bytes
    kind, count, to = (beat["position"][part] for part in ("kind", "count", "to"))
    data = [byte * (beat["position"]["byte_mask"] >> i & 1) for i, byte in enumerate(beat["data"])]
    if kind["scale"]:
        return {("scale", to["row"], count["part"] * W + i): byte for i, byte in enumerate(data)}
    memory, lanes = ("right", C) if kind["right"] else ("left", R)
    written: dict[tuple, int] = {}
    if kind["transpose"]:
        written |= {(memory, to["row"], bank, to["lane"]): byte for bank, byte in enumerate(data)}
    natural = [(memory, lanes, to["row"])] if not kind["transpose"] else []
    natural += [("right", C, to["right_row"])] if kind["both"] else []
    for name, width, row in natural:
        for i in range(min(width, W)):
            written[name, row, to["bank"], count["part"] * W + i if width > W else i] = data[count["sub"] * width + i if width < W else i]
    return written


def bytes_of(config: Config, write) -> dict[tuple, int]:
    """The same of a sampled write of ``operand``, as interfaces.py says."""
    memory, lanes = ("right", config.cols) if write.right else ("left", config.rows)
    written = {
        (memory, write.row, bank, lane): write.seq[bank] if write.transpose else write.word[lane]
        for bank in range(config.banks)
        for lane in range(lanes)
        if write.bank_mask >> bank & 1 and write.lane_mask >> lane & 1
    }
    if write.both:
        for bank in range(config.banks):
            for lane in range(config.cols):
                if write.right_bank_mask >> bank & 1 and write.right_lane_mask >> lane & 1:
                    written["right", write.right_row, bank, lane] = write.word[lane]
    return written


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_a_placed_beat_becomes_the_write_of_its_bytes(config, stall):
    rng = random.Random(config.name)
    beats = [draw(config, rng) for _ in range(150)]
    dut = ScratchpadWriter(config)
    got, ends = [], []

    async def take(ctx):
        operand, scale = dut.operand, dut.scale
        cycle = 0
        while len(got) < len(beats):
            cycle += 1
            assert cycle < 2000, f"write {len(got)} does not come"
            ready = rng.random() >= stall, rng.random() >= stall
            ctx.set(operand.ready, ready[0])
            ctx.set(scale.ready, ready[1])
            _, _, valid, write, scale_valid, scale_write, load_ends = await ctx.tick().sample(
                operand.valid, operand.payload, scale.valid, scale.payload, dut.load_ends
            )
            assert not (valid and scale_valid)
            if valid and ready[0]:
                got.append(bytes_of(config, write))
            elif scale_valid and ready[1]:
                first = scale_write.group * config.bus_bytes
                got.append({("scale", scale_write.row, first + i): byte for i, byte in enumerate(scale_write.data)})
            else:
                assert not load_ends, "a load ends without a write"
                continue
            ends.append(load_ends)

    simulate(dut, take, background=[feeder(dut.i, beats, rng, stall)])
    for i, (beat, write, end) in enumerate(zip(beats, got, ends, strict=True)):
        assert write == model(config, beat), f"write {i} of {beat}"
        assert end == beat["position"]["count"]["load_ends"], f"write {i} of {beat}"


@pytest.mark.parametrize("seed", range(4))
def test_a_read_error_has_the_address_of_its_word_and_the_first_one_stays(seed):
    config, rng = PRESETS["tiny"], random.Random(seed)
    W = config.bus_bytes
    rows, words, stride = rng.randint(2, 5), rng.randint(1, 4), rng.choice([32, 64, 4096])
    load = {"address": rng.randrange(0, 1 << 64, W), "row_stride": stride, "index": rng.getrandbits(32)}
    bad = rng.randrange(rows), rng.randrange(words)
    wanted = load["address"] + bad[0] * stride + bad[1] * W & (1 << 64) - 1
    dut = BeatErrors(config)

    async def pulse(ctx, **inputs):
        for name, value in inputs.items():
            ctx.set(getattr(dut, name), value)
        await ctx.tick()
        for name in inputs:
            ctx.set(getattr(dut, name), 0)

    async def bench(ctx):
        for address in (0x1234560, load["address"]):  # the second load forgets the first one's address
            ctx.set(dut.load, load | {"address": address})
            await pulse(ctx, begin=1, next_word=0)
            for row in range(rows):
                for word in range(words):
                    while rng.random() < 0.3:
                        await ctx.tick()
                    if address == load["address"] and (row, word) == bad:
                        await pulse(ctx, error=1)
                        assert ctx.get(dut.failed)
                        await pulse(ctx, error=1, next_word=1)  # what follows changes nothing
                        await pulse(ctx, error=1, next_word=1)
                        found = {name: ctx.get(getattr(dut.fault, name)) for name in ("valid", "code", "detail", "command", "address")}
                        want = {"valid": 1, "code": Code.AXI_READ_ERROR, "detail": Check.NONE, "command": load["index"], "address": wanted}
                        assert found == want, f"{load}, row {row}, word {word}"
                        await pulse(ctx, clear=1)
                        assert not ctx.get(dut.fault.valid | dut.failed)
                        return
                    await pulse(ctx, next_word=1, row_ends=word == words - 1)
                    assert not ctx.get(dut.failed)
        raise AssertionError("the error was not reached")

    simulate(dut, bench)


def draw_load(config: Config, rng: random.Random, index: int) -> tuple[dict, list[bytes]]:
    """The fields of a load of one target and its DRAM rows, padded to bus words."""
    W = config.bus_bytes
    target = rng.choice([LoadTarget.LEFT, LoadTarget.RIGHT])
    rows, row_bytes, transpose = rng.randint(1, 2 * W), rng.randint(1, 3 * W), rng.random() < 0.5
    beats = -(-row_bytes // W)
    fields = {"target": target, "rows": rows, "row_bytes": row_bytes, "transpose": transpose, "beats": beats, "index": index}
    fields |= {"pad_rows": 0 if transpose else rng.choice([0, 1, 3]), "base": 100 * index, "block_stride": 7, "signal": rng.getrandbits(16)}
    return fields, [rng.randbytes(beats * W) for _ in range(rows)]


def loaded(config: Config, fields: dict, rows: list[bytes]) -> dict[tuple, int]:
    """docs/machine.md: (memory, row, bank, lane) -> byte."""
    W = config.bus_bytes
    memory, lanes = ("right", config.cols) if fields["target"] == LoadTarget.RIGHT else ("left", config.rows)
    unit = W if fields["transpose"] else min(W, lanes)
    length = -(-fields["row_bytes"] // unit) * unit
    written = {}
    for i, row in enumerate(rows + [bytes(len(rows[0]))] * fields["pad_rows"]):
        for j, byte in enumerate((row[: fields["row_bytes"]] + bytes(unit))[:length]):
            lane, seq = (i, j) if fields["transpose"] else (j, i)
            written[memory, fields["base"] + lane // lanes * fields["block_stride"] + seq // W, seq % W, lane % lanes] = byte
    return written


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_beats_are_written_and_each_load_is_done_after_its_last_write(config, stall):
    rng = random.Random(config.name)
    W = config.bus_bytes
    loads = [draw_load(config, rng, i) for i in range(6)]
    dut = LoadData(config)
    beats = [row[i : i + W] for _, rows in loads for row in rows for i in range(0, len(row), W)]
    got, done = {}, []

    async def feed_loads(ctx):
        for fields, _ in loads:
            ctx.set(dut.transfers.payload, fields)
            ctx.set(dut.transfers.valid, 1)
            await ctx.tick().until(dut.transfers.ready)
            ctx.set(dut.transfers.valid, 0)

    async def feed_beats(ctx):
        for beat in beats:
            while rng.random() < stall:
                await ctx.tick()
            ctx.set(dut.beats.payload, {"data": list(beat), "error": 0})
            ctx.set(dut.beats.valid, 1)
            await ctx.tick().until(dut.beats.ready)
            ctx.set(dut.beats.valid, 0)

    async def bench(ctx):
        ctx.set(dut.done.ready, 1)
        last_write = cycle = 0
        while len(done) < len(loads):
            ready = rng.random() >= stall
            ctx.set(dut.operand.ready, ready)
            _, _, valid, write, ends, mask = await ctx.tick().sample(
                dut.operand.valid, dut.operand.payload, dut.done.valid, dut.done.payload
            )
            cycle += 1
            assert cycle < 20_000, f"load {len(done)} is not done: {loads[len(done)][0]}"
            if ends:
                assert cycle - last_write == LoadData.done_delay, f"load {len(done)}"
                done.append(mask)
            if valid and ready:
                got.update(bytes_of(config, write))
                last_write = cycle

    simulate(dut, bench, background=[feed_loads, feed_beats])
    assert done == [fields["signal"] for fields, _ in loads]
    for fields, rows in loads:
        for place, byte in loaded(config, fields, rows).items():
            assert got.get(place) == byte, f"{place} of {fields}"
