"""The function unit of the vector unit against the definitions in ``loralith.spec.vector.numbers``, two lanes with one table."""

import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.rtl.vector.function_table import FunctionTable
from loralith.rtl.vector.function_unit import FunctionUnit
from loralith.rtl.vector.word import Word
from loralith.spec.vector import numbers
from loralith.spec.vector.program import Function

COUNT = 2500


class Pair(wiring.Component):
    """Two function units and their table."""

    def __init__(self) -> None:
        super().__init__({"function": In(3), "x": In(Word).array(2), "word": Out(Word).array(2), "fault": Out(1).array(2)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = FunctionTable()
        for i in range(2):
            m.submodules[f"unit{i}"] = unit = FunctionUnit()
            wiring.connect(m, unit.table, table.readers[i])
            m.d.comb += [unit.enable.eq(1), unit.function.eq(self.function), unit.x.eq(self.x[i])]
            m.d.comb += [self.word[i].eq(unit.word), self.fault[i].eq(unit.fault)]
        return m


def scale(word: int) -> int:
    return numbers.quantize_shift(word) + numbers.BIAS << numbers.FRACTION_BITS


DEFINITIONS = {
    Function.PASS: lambda word: numbers.negate(numbers.negate(word)),
    Function.EXP2: numbers.exp2,
    Function.RECIPROCAL: numbers.reciprocal,
    Function.RSQRT: numbers.rsqrt,
    Function.PHI: numbers.phi,
    Function.SCALE: scale,
}


def arguments(bench, function: Function) -> list[int]:
    """Corner cases, words of any exponent, more of those where the function is neither constant nor a limit, words beside limits."""
    rng = random.Random(function)
    found = [bench.ONE, *bench.corner_words(), *(bench.random_word(rng) for _ in range(COUNT))]
    low, high = {Function.EXP2: (105, 134), Function.PHI: (107, 131), Function.SCALE: (1, 8)}.get(function, (126, 129))
    found += [bench.random_word(rng, low, high) for _ in range(COUNT)]
    for limit in (-128, -127, -126, 125, 126, 127, 128, 8, -8, 1, -1):
        word = numbers.from_float(limit)
        found += [word, word - 1, word + 1]
    return found + [0] * (len(found) % 2)


@pytest.mark.parametrize("function", list(Function), ids=lambda f: f.name)
def test_a_function_equals_its_definition_in_both_lanes(bench, function):
    words = arguments(bench, function)
    inputs = [{"x.0": first, "x.1": second} for first, second in zip(words[::2], words[1::2], strict=True)]
    found = bench.stream(Pair(), FunctionUnit.delay, inputs, ("word.0", "fault.0", "word.1", "fault.1"), {"function": function})
    # The function's own decoding takes a cycle: the first operand comes with it.
    wanted = [bench.expect(DEFINITIONS[function], word) for word in words]
    bench.check([part for row in found for part in (row[:2], row[2:])][2:], wanted[2:], words[2:])
