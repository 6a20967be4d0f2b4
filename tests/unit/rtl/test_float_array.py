"""The floating-point elements that the INT8 ones are compared with, against exact rational numbers."""

import random
from fractions import Fraction

import pytest

from loralith.baseline.float_array import BF16, FORMATS, FP16, FP32, FloatArray
from loralith.verif.block_test import simulate


def value(form, bits):
    """Exact; subnormals are zero."""
    sign = -1 if bits >> (form.bits - 1) else 1
    exponent, fraction = (bits >> form.fraction) & ((1 << form.exponent) - 1), bits & ((1 << form.fraction) - 1)
    if exponent == 0:
        return Fraction(0)
    return sign * ((1 << form.fraction) | fraction) * Fraction(2) ** (exponent - form.bias - form.fraction)


def fp32(x):
    """Bits of the FP32 nearest to the rational x, ties to even; too small gives zero, too large infinity."""
    if x == 0:
        return 0
    sign, x = int(x < 0) << 31, abs(x)
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > x
    scaled = x / Fraction(2) ** (exponent - 23)
    whole = round(scaled)  # a Fraction's round is half to even
    if whole == 1 << 24:
        whole, exponent = whole >> 1, exponent + 1
    if exponent + 127 <= 0:
        return 0
    return sign | (255 << 23 if exponent + 127 >= 255 else (exponent + 127) << 23 | whole & ((1 << 23) - 1))


def operand(form, rng, near):
    """Any bits but infinities and NaN; ``near``: of an exponent about that of one, so that sums lose leading bits."""
    most = (1 << form.exponent) - 2
    exponent = min(most, max(1, form.bias + rng.randrange(-3, 4))) if near else rng.randrange(most + 1)
    exponent = rng.choice([exponent] * 19 + [0])
    fraction = rng.choice([0, 1, (1 << form.fraction) - 1, rng.getrandbits(form.fraction), rng.getrandbits(form.fraction)])
    return rng.getrandbits(1) << (form.bits - 1) | exponent << form.fraction | fraction


@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_sums_are_the_exact_ones_rounded_once(form, near):
    rng = random.Random(f"{form.name} {near}")
    array = FloatArray(form, 1, 1)
    kinds = set()

    async def testbench(ctx):
        total = 0
        for step in range(2000 if near else 500):
            left, right = operand(form, rng, near), operand(form, rng, near)
            clear = step == 0 or rng.random() < 0.1
            for port, bits in ((array.left[0], left), (array.right[0], right), (array.clear, clear), (array.valid, 1)):
                ctx.set(port, bits)
            await ctx.tick()
            ctx.set(array.valid, 0)
            await ctx.tick()
            ctx.set(array.capture, 1)
            await ctx.tick()
            ctx.set(array.capture, 0)
            before = 0 if clear else total
            infinite = before >> 23 & 255 == 255
            total = before if infinite else fp32(value(FP32, before) + value(form, left) * value(form, right))
            kinds.add("infinite" if total >> 23 & 255 == 255 else "zero" if total == 0 else "finite")
            assert ctx.get(array.drain_out[0]) == total, f"{before:08x} + {left:x} * {right:x}"

    simulate(array, testbench)
    assert kinds >= ({"finite", "zero"} if near or form is FP16 else {"finite", "zero", "infinite"})


def test_steps_follow_each_other_and_shadows_move_to_the_left():
    """A dot product of each element, one step per cycle; a second tile runs while the first one is shifted out."""
    rows, cols, depth = 2, 3, 4
    rng = random.Random(1)
    array = FloatArray(BF16, rows, cols)

    def operands(count):
        return [operand(BF16, rng, True) for _ in range(count)]

    tiles = [[(operands(rows), operands(cols)) for _ in range(depth)] for _ in range(2)]

    def dot(tile, i, j):
        total = 0
        for lefts, rights in tile:
            total = fp32(value(FP32, total) + value(BF16, lefts[i]) * value(BF16, rights[j]))
        return total

    got = []

    async def testbench(ctx):
        steps = [(k == 0, *step) for tile in tiles for k, step in enumerate(tile)]
        first = depth - 1 + array.delay  # the cycle of the first capture
        for cycle in range(first + depth + cols):
            ctx.set(array.valid, cycle < len(steps))
            if cycle < len(steps):
                clear, lefts, rights = steps[cycle]
                ctx.set(array.clear, clear)
                for port, values in ((array.left, lefts), (array.right, rights)):
                    for k, bits in enumerate(values):
                        ctx.set(port[k], bits)
            moves = (cycle - first) % depth if cycle >= first else cols
            ctx.set(array.capture, moves == 0)
            ctx.set(array.shift, 0 < moves < cols)
            await ctx.tick()
            if moves < cols:
                got.append([ctx.get(array.drain_out[i]) for i in range(rows)])

    simulate(array, testbench)
    for number, tile in enumerate(tiles):
        columns = got[number * cols : (number + 1) * cols]
        assert columns == [[dot(tile, i, j) for i in range(rows)] for j in range(cols)]
