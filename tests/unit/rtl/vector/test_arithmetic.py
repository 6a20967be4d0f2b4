"""Conversion, product and sum of the vector unit against their definitions in ``loralith.spec.vector.numbers``."""

import random

import pytest

from loralith.rtl.vector.add import Add
from loralith.rtl.vector.from_integer import FromInteger
from loralith.rtl.vector.multiply import Multiply
from loralith.spec.vector import numbers

COUNT = 2000


def integers(width: int) -> list[int]:
    """The ends of the range, powers of two and their neighbours, ties at the last place and theirs, random ones of every length."""
    rng = random.Random(width)
    found = [0, 1, -1, 2 ** (width - 1) - 1, -(2 ** (width - 1))]
    for bit in range(width - 1):
        found += [sign * ((1 << bit) + more) for more in (-1, 0, 1) for sign in (1, -1)]
    for _ in range(COUNT):
        bits = rng.randrange(1, width)
        value = rng.getrandbits(bits)
        if bits > 18:
            below = bits - 17
            value = (value >> below << below) + rng.choice([0, 1 << below - 1, (1 << below - 1) - 1, (1 << below - 1) + 1])
        found.append(rng.choice([1, -1]) * min(value, 2 ** (width - 1) - 1))
    return found


def test_integers_become_the_nearest_words(bench):
    dut, values = FromInteger(), integers(32)
    found = bench.stream(dut, dut.delay, [{"integer": v % 2**32} for v in values], ("word", "fault"), {"enable": 1})
    bench.check(found, [numbers.from_integer(v) for v in values], values)


@pytest.mark.parametrize("exponent", [-183, -126, -31, 0, 71, 72, 100])
def test_sums_become_the_nearest_words_at_any_scale(bench, exponent):
    dut, values = FromInteger(numbers.SUM_BITS, scaled=True), integers(numbers.SUM_BITS)
    inputs = [{"integer": v % 2**numbers.SUM_BITS} for v in values]
    found = bench.stream(dut, dut.delay, inputs, ("word", "fault"), {"enable": 1, "exponent": exponent % 1024})
    bench.check(found, [bench.expect(numbers.from_integer, v, exponent) for v in values], values)


def pairs(bench) -> list[tuple[int, int]]:
    """Corner cases with each other, then random words: any exponents, near ones, equal magnitudes, a product near either end."""
    rng = random.Random(3)
    corners = bench.corner_words()
    found = [(rng.choice(corners), rng.choice(corners)) for _ in range(COUNT)]
    found += [(x, other) for x in corners for other in (0, bench.ONE, x, numbers.negate(x))]
    for _ in range(COUNT):
        x = bench.random_word(rng)
        near = (x >> 16 & 0xFF) + rng.randint(-20, 20)
        found += [(x, bench.random_word(rng)), (x, bench.random_word(rng, *[min(max(near, 1), 254)] * 2))]
        opposite = min(max(rng.choice([127, 381]) - (x >> 16 & 0xFF) + rng.randint(-1, 1), 1), 254)
        found.append((x, bench.random_word(rng, opposite, opposite)))
    return found


@pytest.mark.parametrize("negate", [0, 1])
@pytest.mark.parametrize(("component", "function"), [(Multiply, numbers.multiply), (Add, numbers.add)], ids=["product", "sum"])
def test_two_words_make_the_nearest_one(bench, component, function, negate):
    dut, operands = component(), pairs(bench)
    found = bench.stream(dut, dut.delay, [{"x": x, "y": y} for x, y in operands], ("word", "fault"), {"enable": 1, "negate": negate})
    if function is numbers.add:
        wanted = [bench.expect(numbers.add, x, numbers.negate(y) if negate else y) for x, y in operands]
    else:
        wanted = [bench.expect(numbers.multiply, numbers.negate(x) if negate else x, y) for x, y in operands]
    bench.check(found, wanted, operands)
