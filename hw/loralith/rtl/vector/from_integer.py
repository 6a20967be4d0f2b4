"""Integers to words: INT32 sums of the array, and the vector unit's own sums."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.vector.numbers import BIAS

from .word import INNER_EXPONENT, SIGNIFICAND_BITS, StageRegisters, Word, normalize, round_up

__all__ = ["FromInteger"]


class FromInteger(wiring.Component):
    """``loralith.spec.vector.numbers.from_integer``.

    Parameters:
        width: bits of the integer.
        scaled: there is an exponent; without, it is 0 and nothing is out of range.

    Members:
        enable: see ``StageRegisters``.
        integer: in two's complement.
        exponent: integer * 2^exponent is converted; in two's complement. A constant for as long as an integer is inside.
        word, fault: ``delay`` cycles later.
    """

    delay = 4

    def __init__(self, width: int = 32, scaled: bool = False) -> None:
        self.width, self.scaled = width, scaled
        exponent = {"exponent": In(INNER_EXPONENT)} if scaled else {}
        super().__init__({"enable": In(1), "integer": In(width), **exponent, "word": Out(Word), "fault": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        registers = StageRegisters(m, self.enable)
        negative = self.integer[-1]
        sign = registers("sign1", negative)
        magnitude = registers("magnitude", ((self.integer ^ negative.replicate(self.width)) + negative)[: self.width])
        steps = tuple(1 << bit for bit in reversed(range(ceil_log2(self.width))))
        shifted, high = normalize(magnitude, steps[:2])
        # What can reach no place that counts any more.
        below = self.width - SIGNIFICAND_BITS - steps[1]
        shifted, high = registers("shifted", Cat(shifted[:below].any(), shifted[below:])), registers("high", high)
        normal, low = normalize(shifted, steps[2:])
        exponent = self.exponent if self.scaled else Const(0, INNER_EXPONENT)
        biased = (exponent + (BIAS + self.width - 1) - Cat(low, high))[:INNER_EXPONENT]
        normal, biased = registers("normal", normal), registers("biased", biased)
        fraction, rest = normal[-SIGNIFICAND_BITS:-1], normal[:-SIGNIFICAND_BITS]
        up = round_up(fraction[0], rest[-1], rest[:-1].any())
        zero = ~normal[-1]
        registers.rounded(registers("sign3", sign, 2), biased, fraction, up, zero, self.word, self.fault)
        return m
