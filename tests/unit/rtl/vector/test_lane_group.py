# amaranth: UnusedElaboratable=no
"""The lanes' chain against the definitions: operands, signs, functions and rounding drawn at random, elements streamed with gaps."""

import random

import pytest

from loralith.rtl.vector.lane import CONSTANTS, LaneTiming
from loralith.rtl.vector.lane_group import LaneGroup
from loralith.rtl.vector.lane_settings import LaneSettings, OperandSelect, XSelect, YSelect
from loralith.spec.numerics import hash32
from loralith.spec.vector import numbers
from loralith.spec.vector.program import Format, Function
from loralith.verif.block_test import simulate

# The first line is for Amaranth: a group that was refused is never elaborated, and a warning of that would fail whatever test runs next.

LANES = 4
ELEMENTS = 16
FUNCTIONS = {
    Function.PASS: lambda x: x,
    Function.EXP2: numbers.exp2,
    Function.RECIPROCAL: numbers.reciprocal,
    Function.RSQRT: numbers.rsqrt,
    Function.PHI: numbers.phi,
    Function.SCALE: lambda x: numbers.quantize_shift(x) + numbers.BIAS << numbers.FRACTION_BITS,
}


def draw(bench, rng: random.Random) -> dict:
    """An instruction, its constants and a stream of elements, with exponents that seldom leave the range of numbers."""
    selects = {name: rng.choice(list(OperandSelect)) for name in CONSTANTS}
    settings = {
        "x": rng.choice(list(XSelect)),
        "y": rng.choice(list(YSelect)),
        **selects,
        **{f"{name}_negate": rng.getrandbits(1) for name in "abd"},
        "function": rng.choice([*Function, Function.PASS, Function.PASS]),
        "packing": rng.choice(list(Format)),
        "summing": rng.getrandbits(1),
        "comparing": rng.getrandbits(1),
        "scale": rng.randint(118, 140),
    }
    word = lambda: bench.random_word(rng, 120, 131)  # noqa: E731
    return {
        "settings": settings,
        "constants": {name: [word() for _ in range(LANES)] for name in CONSTANTS},
        "x_constant": word(),
        "integers": [[rng.randrange(-(2 ** rng.randint(1, 12)), 2**12) for _ in range(LANES)] for _ in range(ELEMENTS)],
        "v0": [[word() for _ in range(LANES)] for _ in range(ELEMENTS)],
        "v1": [[word() for _ in range(LANES)] for _ in range(ELEMENTS)],
        "gaps": [rng.choice([0, 0, 1, 3]) for _ in range(ELEMENTS)],
        "mask": rng.getrandbits(LANES),
        "partial": [rng.random() < 0.3 for _ in range(ELEMENTS)],
        "key": (rng.getrandbits(32), rng.getrandbits(32)),
        "index": rng.getrandbits(32),
        "index_inner": rng.getrandbits(32),
    }


def model(case: dict) -> tuple[list, list[int], list[int], list[int], bool]:
    """(words of all elements, saturated bits of each, sums, maxima, fault). A word is None where a stage left the range of numbers."""
    settings, words, saturated = case["settings"], [], []
    sums, maxima, fault = [0] * LANES, [0] * LANES, False
    k = settings["scale"] - numbers.BIAS
    for at in range(ELEMENTS):
        hashed = hash32(case["key"], (case["index"] + at * case["index_inner"]) % 2**32)
        row, clipped = [], 0
        for lane in range(LANES):
            live = not case["partial"][at] or case["mask"] >> lane & 1
            y = {YSelect.ZERO: 0, YSelect.V0: case["v0"][at][lane], YSelect.V1: case["v1"][at][lane]}[settings["y"]]
            x = {
                XSelect.V0: case["v0"][at][lane],
                XSelect.V1: case["v1"][at][lane],
                XSelect.INTEGER: numbers.from_integer(case["integers"][at][lane]),
                XSelect.CONSTANT: case["x_constant"],
            }[settings["x"]]
            choice = {
                name: {OperandSelect.X: x, OperandSelect.Y: y}.get(settings[name], case["constants"][name][lane]) for name in CONSTANTS
            }
            sign = lambda word, name: numbers.negate(word) if settings[f"{name}_negate"] else word  # noqa: E731
            try:
                value = sign(numbers.multiply(x, choice["a"]), "a")
                value = numbers.add(value, sign(choice["b"], "b"))
                value = FUNCTIONS[settings["function"]](value)
                value = numbers.add(numbers.multiply(value, choice["c"]), sign(choice["d"], "d"))
                if settings["comparing"] and live:
                    maxima[lane] = max(maxima[lane], value % 2**24)
                if settings["packing"] in (Format.INT8, Format.INT8_STOCHASTIC):
                    byte = hashed >> 8 * lane & 0xFF if settings["packing"] == Format.INT8_STOCHASTIC else None
                    q, over = numbers.quantize(value, k, byte)
                    row.append(q % 256)
                    clipped |= (over and live) << lane
                    term = q << numbers.SUM_FRACTION_BITS - 8
                else:
                    term = numbers.sum_term(value, k + 1) if settings["summing"] else 0
                    row.append(numbers.round_brain(value) if settings["packing"] == Format.BRAIN else value)
                if settings["summing"] and live:
                    sums[lane] += term
            except numbers.RangeError:
                row.append(None)
                fault |= bool(live)
        words.append(row)
        saturated.append(clipped)
    return words, saturated, [total % 2**numbers.SUM_BITS for total in sums], maxima, fault


def run(case: dict):
    dut = LaneGroup(LANES)
    words, saturated, ends = [], [], {}

    async def drive(ctx):
        ctx.set(dut.enable, 1)
        ctx.set(dut.settings, LaneSettings.const(case["settings"]))
        for name, value in (("key0", case["key"][0]), ("key1", case["key"][1]), ("index_inner", case["index_inner"])):
            ctx.set(getattr(dut, name), value)
        # Each lane's constants, through its registers.
        ctx.set(dut.constant_lane, 1)
        for at, name in enumerate(CONSTANTS):
            for lane, word in enumerate(case["constants"][name]):
                ctx.set(dut.register_write, 1 << lane)
                ctx.set(dut.register_number, at)
                ctx.set(dut.register_word, word)
                await ctx.tick()
        ctx.set(dut.register_write, 0)
        for at in range(len(CONSTANTS)):
            ctx.set(dut.constant_load, 1 << at)
            ctx.set(dut.constant_register, at)
            await ctx.tick()
        ctx.set(dut.constant_load, 0)
        ctx.set(dut.constant, case["x_constant"])
        for name in ("x_constant_load", "clear", "index_load"):
            ctx.set(getattr(dut, name), 1)
        ctx.set(dut.index, case["index"])
        await ctx.tick()
        for name in ("x_constant_load", "clear", "index_load"):
            ctx.set(getattr(dut, name), 0)
        ctx.set(dut.mask, case["mask"])
        vectors = {}
        cycle = at = 0
        wait = case["gaps"][0]
        while at < ELEMENTS or cycle < ends["last"] + dut.delay + 2:
            ctx.set(dut.valid, at < ELEMENTS and not wait)
            ctx.set(dut.first, at == 0)
            if at < ELEMENTS and not wait:
                ctx.set(dut.partial, case["partial"][at])
                for lane in range(LANES):
                    ctx.set(dut.integers[lane], case["integers"][at][lane] % 2**32)
                vectors[cycle + LaneTiming.vectors] = at
                ends["last"] = cycle
                at += 1
                wait = case["gaps"][at] if at < ELEMENTS else 0
            else:
                wait = max(wait - 1, 0)
            if cycle in vectors:
                for lane in range(LANES):
                    ctx.set(dut.v0[lane].as_value(), case["v0"][vectors[cycle]][lane])
                    ctx.set(dut.v1[lane].as_value(), case["v1"][vectors[cycle]][lane])
            if ctx.get(dut.valid_o):
                words.append([ctx.get(dut.words[lane]) for lane in range(LANES)])
                saturated.append(ctx.get(dut.saturated))
            ends["fault"] = ends.get("fault", False) or bool(ctx.get(dut.fault))
            await ctx.tick()
            cycle += 1
        ends["sums"] = [ctx.get(dut.sums[lane]) for lane in range(LANES)]
        ends["maxima"] = [ctx.get(dut.maxima[lane]) for lane in range(LANES)]

    simulate(dut, drive)
    return words, saturated, ends["sums"], ends["maxima"], ends["fault"]


@pytest.mark.parametrize("seed", range(12))
def test_random_instructions_equal_the_definitions(bench, seed):
    case = draw(bench, random.Random(seed))
    words, saturated, sums, maxima, fault = model(case)
    got_words, got_saturated, got_sums, got_maxima, got_fault = run(case)
    assert got_fault == fault, case["settings"]
    assert len(got_words) == ELEMENTS
    for at, (row, wanted) in enumerate(zip(got_words, words, strict=True)):
        for got, want in zip(row, wanted, strict=True):
            assert want is None or got == want, (at, case["settings"])
    if not fault:
        assert got_saturated == saturated
        assert [value if value >> 16 else 0 for value in got_maxima] == maxima, case["settings"]
        assert got_sums == sums, case["settings"]


@pytest.mark.parametrize("lanes", [0, 1, 3])
def test_lanes_come_in_pairs(lanes):
    with pytest.raises(ValueError, match=f"lanes must be an even number, not {lanes}"):
        LaneGroup(lanes)
