"""The post-processing unit and the index hash against their definitions in loralith.spec.numerics."""

import random

import pytest
from amaranth.sim import Simulator

from loralith.rtl.ppu import IndexHash, PostProcessor
from loralith.spec.commands import OutMode
from loralith.spec.numerics import Requantization, hash32, hash_key, requantize

MASK32 = (1 << 32) - 1


def pack(values, width):
    return sum((v & ((1 << width) - 1)) << (width * i) for i, v in enumerate(values))


def unpack_signed(word, width, count):
    out = []
    for i in range(count):
        v = word >> (width * i) & ((1 << width) - 1)
        out.append(v - (1 << width) if v >> (width - 1) else v)
    return out


def interesting_value(rng, shift):
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice([0, 1, -1, 2**31 - 1, -(2**31), 127, -128])
    if kind == 1:  # close to ties
        return (rng.randrange(-300, 300) << max(shift - 16, 0)) + rng.randrange(-1, 2)
    return rng.randrange(-(1 << rng.randrange(1, 32)), 1 << rng.randrange(1, 32))


def wrap(value):
    return (value + 2**31) % 2**32 - 2**31


@pytest.mark.parametrize("lanes", [4, 8])
def test_random_columns_equal_the_definition(lanes):
    rng = random.Random(lanes)
    columns = []
    for _ in range(400):
        shift = rng.randrange(48)
        mantissa = rng.choice([32768, 65535, rng.randrange(32768, 65536)])
        columns.append(
            {
                "values": [wrap(interesting_value(rng, shift)) for _ in range(lanes)],
                "scales": [(mantissa, shift)] * lanes
                if rng.random() < 0.5
                else [(rng.randrange(32768, 65536), rng.randrange(48)) for _ in range(lanes)],
                "mode": rng.choice([OutMode.INT8] * 3 + [OutMode.INT32]),
                "stochastic": rng.randrange(2),
                "mask": rng.randrange(1 << lanes),
                "hashes": [rng.choice([0, MASK32, rng.getrandbits(32)]) for _ in range(lanes)],
            }
        )
    ppu = PostProcessor(lanes)
    gaps = [rng.random() < 0.3 for _ in range(4 * len(columns))]
    results, most_seen = [], []

    async def bench(ctx):
        at, hashes, outputs, maxima = 0, {}, set(), set()
        for cycle in range(4 * len(columns)):
            ctx.set(ppu.valid, 0)
            if at < len(columns) and not gaps[cycle]:
                c = columns[at]
                wide = c["mode"] != OutMode.INT8
                ctx.set(ppu.valid, 1)
                ctx.set(ppu.values, pack(c["values"], 32))
                scales = [(1, 0)] * lanes if wide else c["scales"]
                ctx.set(ppu.scales.as_value(), pack([m | n << 16 for m, n in scales], 22))
                ctx.set(ppu.out_mode, c["mode"])
                ctx.set(ppu.stochastic, c["stochastic"])
                ctx.set(ppu.mask, c["mask"])
                hashes[cycle + ppu.hash_delay] = c["hashes"]
                outputs.add(cycle + ppu.delay)
                maxima.add(cycle + ppu.maximum_delay)
                at += 1
            if cycle in hashes:
                ctx.set(ppu.hashes, pack(hashes[cycle], 32))
            if cycle in outputs:
                results.append(
                    (
                        unpack_signed(ctx.get(ppu.quantized), 8, lanes),
                        unpack_signed(ctx.get(ppu.wide), 32, lanes),
                        ctx.get(ppu.saturated),
                    )
                )
            if cycle in maxima:
                most_seen.append(ctx.get(ppu.maximum))
            await ctx.tick()

    sim = Simulator(ppu)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    assert len(results) == len(columns)
    for c, (quantized, wide, saturated), maximum in zip(columns, results, most_seen, strict=True):
        most, clipped, want = 0, 0, []
        for i, value in enumerate(c["values"]):
            if c["mode"] == OutMode.INT32:
                p = abs(value)
            else:
                h = c["hashes"][i] if c["stochastic"] else None
                q, p, over = requantize(value, Requantization(*c["scales"][i]), h)
                want.append(q)
                clipped |= (over and c["mask"] >> i & 1) << i
            if c["mask"] >> i & 1:
                most = max(most, p)
        assert maximum == most
        assert saturated == clipped
        if c["mode"] == OutMode.INT32:
            assert wide == c["values"]
        else:
            assert quantized == want


def test_index_hash_equals_the_definition():
    lanes, rng = 4, random.Random(5)
    unit = IndexHash(lanes)
    jobs = [(hash_key(rng.getrandbits(64), i, 3), [rng.getrandbits(32) for _ in range(lanes)], rng.getrandbits(32)) for i in range(50)]
    results = []

    async def bench(ctx):
        for cycle in range(len(jobs) + unit.delay):
            if cycle < len(jobs):
                key, offsets, column = jobs[cycle]
                ctx.set(unit.valid, 1)
                ctx.set(unit.keyed, pack([o + key[0] for o in offsets], 32))
                ctx.set(unit.column, column)
            else:
                ctx.set(unit.valid, 0)
            if 0 <= cycle - unit.key1_delay < len(jobs):
                ctx.set(unit.key1, jobs[cycle - unit.key1_delay][0][1])
            if cycle >= unit.delay:
                results.append(ctx.get(unit.hashes))
            await ctx.tick()

    sim = Simulator(unit)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    for (key, offsets, column), got in zip(jobs, results, strict=True):
        want = [hash32(key, (o + column) & MASK32) for o in offsets]
        assert [got >> 32 * i & MASK32 for i in range(lanes)] == want


def test_stochastic_rounding_of_zero_stays_zero():
    """Rank padding relies on it: a zero column must come out as zero whatever the hash."""
    for n in range(48):
        q, _, _ = requantize(0, Requantization(32768, n), MASK32)
        assert q == 0
