"""The writes of a load, one after the other, against where docs/machine.md puts each of its bytes."""

import random

import pytest

from helpers.streams import run_stream, stepped
from loralith.rtl.load_positions import BeatCounter, WriteAddressCounter, WritePositions
from loralith.spec.commands import LoadTarget
from loralith.spec.config import PRESETS, Config
from loralith.verif.block_test import simulate

SIZES = {"left_bytes": 16384, "right_bytes": 16384, "out_bytes": 8192, "acc_bytes": 1024, "scale_bytes": 512, "max_fold": 4}
CONFIGS = [
    PRESETS["tiny"],
    Config("narrow", rows=2, cols=16, bus_bytes=8, **SIZES),
    Config("wide", rows=8, cols=4, bus_bytes=32, **SIZES),
    Config("tall", rows=32, cols=4, bus_bytes=8, **SIZES),
    Config("square", rows=16, cols=16, bus_bytes=16, **SIZES),
]


def draw(config: Config, rng: random.Random) -> dict[str, int]:
    """The fields of a load that passes its check, but for its sizes, which need no memory here."""
    W = config.bus_bytes
    targets = [LoadTarget.LEFT, LoadTarget.RIGHT, LoadTarget.SCALE] + [LoadTarget.BOTH] * (config.cols >= W)
    target = rng.choice(targets)
    scale = target == LoadTarget.SCALE
    transpose = target == LoadTarget.BOTH or (not scale and rng.random() < 0.5)
    row_bytes = rng.choice([1, W, rng.randint(1, 5 * W), rng.randint(1, 5 * W)])
    fields = {"target": target, "transpose": transpose, "row_bytes": row_bytes, "beats": -(-row_bytes // W)}
    fields |= {"rows": 1 if scale else rng.choice([1, 2, rng.randint(1, 3 * W)]), "base": rng.randrange(1000)}
    fields["pad_rows"] = 0 if scale or transpose else rng.choice([0, 0, 1, 2, W])
    fields["block_stride"] = 0 if scale else rng.randrange(50)
    fields |= {"right_base": rng.randrange(1000), "right_stride": rng.randrange(50), "packed4": not scale and rng.random() < 0.5}
    return fields


def model(config: Config, c: dict[str, int]) -> list[dict[str, int]]:
    """What matters of each write: of a natural one its bank, of a transposed one its lane, of one into both both."""
    R, C, W = config.rows, config.cols, config.bus_bytes
    target, transpose = c["target"], c["transpose"]
    scale, both, right = (target == t for t in (LoadTarget.SCALE, LoadTarget.BOTH, LoadTarget.RIGHT))
    lanes = 4 * R if scale else C if right else R
    writes = []
    for i in range(c["rows"] + c["pad_rows"]):
        for beat in range(c["beats"]):
            in_beat = min(W, c["row_bytes"] - beat * W)
            starts = range(0, in_beat, min(lanes, W)) if not transpose and not scale else [0]
            for sub, start in enumerate(starts):
                byte = beat * W + start
                write = {"scale": scale, "both": both, "right": right, "transpose": transpose, "packed": c["packed4"], "sub": sub}
                write["padding"] = i >= c["rows"]
                write["byte_mask"] = 0 if write["padding"] else (1 << in_beat) - 1
                write["row_ends"] = beat == c["beats"] - 1
                write["beat_ends"] = sub == len(starts) - 1
                write["load_ends"] = write["row_ends"] and write["beat_ends"] and i == c["rows"] + c["pad_rows"] - 1
                if scale:
                    write |= {"row": c["base"] + byte // lanes, "part": byte % lanes // W}
                elif transpose:
                    write |= {"row": c["base"] + i // lanes * c["block_stride"] + byte // W, "lane": i % lanes}
                else:
                    write |= {"row": c["base"] + byte // lanes * c["block_stride"] + i // W, "bank": i % W, "part": byte % lanes // W}
                if both:
                    write |= {"right_row": c["right_base"] + byte // C * c["right_stride"] + i // W, "bank": i % W, "part": byte % C // W}
                writes.append(write)
    return writes


def flat(position) -> dict[str, int]:
    """The members of a sampled position, in one dictionary."""
    parts = [getattr(position, part) for part in ("kind", "count", "to")]
    found = {name: getattr(part, name) for part in parts for name, _ in part.shape()}
    return found | {"byte_mask": position.byte_mask}


def run(config: Config, loads: list[dict[str, int]], stall: float = 0.0, seed: int = 0) -> tuple[list[dict[str, int]], list[int]]:
    """The writes of ``loads``, and the cycle of each."""
    wanted = sum(len(model(config, load)) for load in loads)
    return run_stream(WritePositions(config), loads, wanted, flat, random.Random(seed), stall)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_each_byte_goes_where_its_rules_say(config, stall):
    rng = random.Random(config.name)
    loads = [draw(config, rng) for _ in range(12)]
    wanted = [(number, want) for number, load in enumerate(loads) for want in model(config, load)]
    writes, _ = run(config, loads, stall)
    for i, ((number, want), got) in enumerate(zip(wanted, writes, strict=True)):
        wrong = {name: (got[name], value) for name, value in want.items() if got[name] != value}
        assert not wrong, f"write {i}, of load {number}, {loads[number]}: (got, want) {wrong}"


def test_one_write_per_cycle_and_one_cycle_between_loads():
    config = PRESETS["tiny"]
    loads = [draw(config, random.Random(seed)) for seed in range(6)]
    _, cycles = run(config, loads)
    at = WritePositions.delay
    for number, load in enumerate(loads):
        wanted = [at + 1 + i for i in range(len(model(config, load)))]
        got, cycles = cycles[: len(wanted)], cycles[len(wanted) :]
        assert got == wanted, f"load {number}, {load}"
        at = wanted[-1] + WritePositions.delay


@pytest.mark.parametrize("name", ["stop", "clear"])
def test_a_load_that_is_ended_gives_no_more_writes_and_the_next_begins_anew(name):
    config = PRESETS["tiny"]
    first, second = (draw(config, random.Random(seed)) | {"rows": 9} for seed in (1, 2))
    dut = WritePositions(config)
    got = []

    async def bench(ctx):
        ctx.set(dut.i.payload, first)
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.o.ready, 1)
        await ctx.tick().repeat(5)
        ctx.set(getattr(dut, name), 1)
        for _ in range(3):
            await ctx.tick()
            assert not ctx.get(dut.o.valid), "nothing goes on or begins"
        ctx.set(dut.i.payload, second)
        ctx.set(getattr(dut, name), 0)
        while len(got) < len(model(config, second)):
            _, _, valid, position = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            if valid:
                got.append(flat(position))

    simulate(dut, bench)
    for i, (write, want) in enumerate(zip(got, model(config, second), strict=True)):
        assert {n: write[n] for n in want} == want, f"write {i} of {second}"


COUNT = ("padding", "row_ends", "part", "sub", "part_ends", "beat_ends", "load_ends")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_writes_are_counted(config):
    rng, dut = random.Random(config.name), BeatCounter(config)

    async def bench(ctx):
        for _ in range(8):
            load = draw(config, rng)
            ctx.set(dut.load, load)
            async for write in stepped(ctx, dut, model(config, load), rng):
                got, want = ctx.get(dut.count), {name: write[name] for name in COUNT if name in write}
                assert {name: getattr(got, name) for name in want} == want, f"{write} of {load}"

    simulate(dut, bench)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_addresses_follow_the_count(config):
    rng, dut = random.Random(config.name), WriteAddressCounter(config)
    R, C, W = config.rows, config.cols, config.bus_bytes

    async def bench(ctx):
        for _ in range(8):
            load = draw(config, rng)
            lanes = 4 * R if load["target"] == LoadTarget.SCALE else C if load["target"] in (LoadTarget.RIGHT, LoadTarget.BOTH) else R
            parts = max(lanes // W, 1)
            ctx.set(dut.load, load)
            async for write in stepped(ctx, dut, model(config, load), rng):
                ctx.set(dut.kind, {name: write[name] for name in ("scale", "both", "right", "transpose")})
                count = {name: write[name] for name in COUNT if name in write}
                ctx.set(dut.count, count | {"part_ends": write.get("part", 0) == parts - 1})
                got = ctx.get(dut.address)
                want = {name: write[name] for name in ("row", "right_row", "bank", "lane") if name in write}
                assert {name: getattr(got, name) for name in want} == want, f"{write} of {load}"

    simulate(dut, bench)
