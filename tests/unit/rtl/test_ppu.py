"""The post-processing unit and the index hash against their definitions in loralith.spec.numerics."""

import random

import pytest

from loralith.rtl.ppu import IndexHash, MaximumTree, PostProcessor, RequantizeLane
from loralith.spec.commands import OutMode
from loralith.spec.numerics import Requantization, hash32, hash_key, requantize
from loralith.verif.block_test import assert_each_equal, simulate

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
                ctx.set(ppu.valid, 1)
                ctx.set(ppu.values, pack(c["values"], 32))
                scales = c["scales"] if c["mode"] == OutMode.INT8 else [(1, 0)] * lanes
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
                        unpack_signed(ctx.get(ppu.int32), 32, lanes),
                        ctx.get(ppu.saturated),
                    )
                )
            if cycle in maxima:
                most_seen.append(ctx.get(ppu.maximum))
            await ctx.tick()

    simulate(ppu, bench)
    want, got = [], []
    for c, (quantized, int32, saturated), maximum in zip(columns, results, most_seen, strict=True):
        most, clipped, values = 0, 0, []
        for i, value in enumerate(c["values"]):
            if c["mode"] == OutMode.INT32:
                values.append(value)
                p = abs(value)
            else:
                h = c["hashes"][i] if c["stochastic"] else None
                q, p, over = requantize(value, Requantization(*c["scales"][i]), h)
                values.append(q)
                clipped |= (over and c["mask"] >> i & 1) << i
            if c["mask"] >> i & 1:
                most = max(most, p)
        want.append((values, clipped, most))
        got.append((int32 if c["mode"] == OutMode.INT32 else quantized, saturated, maximum))
    assert_each_equal("column (values, saturated lanes, maximum)", got, want, columns)


def test_a_lane_is_the_definition_at_the_edges_of_every_shift():
    rng, dut, got, want, stimuli = random.Random(8), RequantizeLane(), [], [], []
    cases = [(value, m, n) for n in range(48) for m in (32768, 65535) for value in (0, 1, -1, 2**31 - 1, -(2**31), 3 << max(n - 16, 0))]
    cases = [(wrap(value), m, n, rng.choice((None, 0, MASK32, rng.getrandbits(32)))) for value, m, n in cases]

    async def bench(ctx):
        ctx.set(dut.enables, -1)
        ctx.set(dut.counts, 1)
        ctx.set(dut.report, 1)
        for cycle in range(len(cases) + dut.stages):
            if cycle < len(cases):
                value, m, n, _ = cases[cycle]
                ctx.set(dut.value, value & MASK32)
                ctx.set(dut.scale, {"m": m, "n": n})
            if 0 <= cycle - 4 < len(cases):
                h = cases[cycle - 4][3]
                ctx.set(dut.stochastic, h is not None)
                ctx.set(dut.hash, h or 0)
            if cycle >= dut.stages:
                value, m, n, h = cases[cycle - dut.stages]
                q, _, over = requantize(value, Requantization(m, n), h)
                got.append((*unpack_signed(ctx.get(dut.quantized), 8, 1), ctx.get(dut.saturated)))
                want.append((q, int(over)))
                stimuli.append(cases[cycle - dut.stages])
            await ctx.tick()

    simulate(dut, bench)
    assert_each_equal("case", got, want, stimuli)


@pytest.mark.parametrize("lanes", [1, 2, 5, 8])
def test_the_largest_magnitude_of_any_sign(lanes):
    rng, dut, got, want, stimuli = random.Random(lanes), MaximumTree(lanes, MaximumTree.least_stages(lanes) + 1), [], [], []

    async def bench(ctx):
        ctx.set(dut.enables, -1)
        for _ in range(40):
            products = [rng.choice((0, -1, 1, rng.randrange(-(2**46), 2**46))) for _ in range(lanes)]
            ctx.set(dut.keys, [(abs(p) - 1) << 1 | 1 if p < 0 else p << 1 for p in products])
            await ctx.tick().repeat(dut.stages)
            got.append(ctx.get(dut.maximum))
            want.append(max(map(abs, products)))
            stimuli.append(products)

    simulate(dut, bench)
    assert_each_equal("maximum", got, want, stimuli)


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

    simulate(unit, bench)
    want = [[hash32(key, (offset + column) & MASK32) for offset in offsets] for key, offsets, column in jobs]
    assert_each_equal("hashes", [[got >> 32 * i & MASK32 for i in range(lanes)] for got in results], want, jobs)


def test_stochastic_rounding_of_zero_stays_zero():
    """Rank padding relies on it: a zero column must come out as zero whatever the hash."""
    for n in range(48):
        q, _, _ = requantize(0, Requantization(32768, n), MASK32)
        assert q == 0
