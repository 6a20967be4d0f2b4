"""Sums of two words."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.vector.numbers import EXPONENT_BITS

from .word import INNER_EXPONENT, SIGNIFICAND_BITS, StageRegisters, Word, add_carry, normalize, round_up, shift_right

__all__ = ["Add"]

GUARD_BITS = 3
"""Places below the last one that an addition keeps: guard, round, and one that stands for all below."""


class Add(wiring.Component):
    """``loralith.spec.vector.numbers.add``.

    Members:
        enable: see ``StageRegisters``.
        x, y: the terms. negate: y is subtracted.
        word, fault: ``delay`` cycles later.
    """

    delay = 7

    def __init__(self) -> None:
        super().__init__({"enable": In(1), "x": In(Word), "y": In(Word), "negate": In(1), "word": Out(Word), "fault": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        registers = StageRegisters(m, self.enable)
        larger, smaller, sticky, distance, signs = self._ordered(registers)
        # Align: the smaller one moves right.
        near, sticky_bit = shift_right(smaller, distance, (2, 1, 0), Const(0, 1))
        near, sticky = registers("near", near), registers("sticky3", sticky | sticky_bit)
        larger, signs = registers("larger3", larger), registers("signs3", signs)
        # Add: the difference of two magnitudes is not below zero, as the larger one comes first.
        subtract = signs[0] ^ signs[1]
        left = Cat(Const(0, GUARD_BITS), larger[: SIGNIFICAND_BITS - 1], Const(1, 1), Const(0, 1))
        right = Cat(sticky, near, Const(0, 1))
        total = registers("total", add_carry(left, right ^ subtract.replicate(len(right)), subtract))
        exponent, sign = registers("exponent4", larger[SIGNIFICAND_BITS - 1 :]), registers("sign4", signs[0])
        # Normalize and round.
        shifted, high = normalize(total, (16, 8))
        shifted, high = registers("shifted", shifted), registers("high", high)
        exponent = registers("exponent5", exponent)
        normal, low = normalize(shifted, (4, 2, 1))
        biased = registers("biased", (exponent + 1 - Cat(low, high))[:INNER_EXPONENT])
        normal = registers("normal", normal)
        fraction, rest = normal[-SIGNIFICAND_BITS:-1], normal[:-SIGNIFICAND_BITS]
        up = round_up(fraction[0], rest[-1], rest[:-1].any())
        registers.rounded(registers("sign6", sign, 2), biased, fraction, up, ~normal[-1], self.word, self.fault)
        return m

    def _ordered(self, registers: StageRegisters):
        """After two cycles: (larger magnitude's fraction and exponent, the smaller one with two places more and aligned by 16 and 8,
        whether that lost anything, how far it has to move, both signs, the larger one's first)."""
        x = registers("x", self.x.as_value()[:-1])
        y = registers("y", self.y.as_value()[:-1])
        signs = registers("signs1", Cat(self.x.sign, self.y.sign ^ self.negate))
        magnitude = registers.wire("compared", self.x.as_value()[:-1] - self.y.as_value()[:-1])
        swap = registers("swap", magnitude[-1])
        by_y = registers("by_y", (self.x.exponent - self.y.exponent)[:EXPONENT_BITS])
        by_x = registers("by_x", (self.y.exponent - self.x.exponent)[:EXPONENT_BITS])
        bits = SIGNIFICAND_BITS - 1
        distance = registers.wire("distance1", Mux(swap, by_x, by_y))
        nonzero = Mux(swap, x[bits:].any(), y[bits:].any())
        # So far below, a term changes nothing, however it is rounded.
        far = distance[5:].any()
        small = registers.wire("small", Mux(nonzero & ~far, Cat(Mux(swap, x[:bits], y[:bits]), Const(1, 1)), 0))
        # Two places more: guard and round.
        aligned, sticky_bit = shift_right(Cat(Const(0, GUARD_BITS - 1), small), distance, (4, 3), Const(0, 1))
        return (
            registers("larger2", Mux(swap, y, x)),
            registers("smaller", aligned),
            registers("sticky2", sticky_bit),
            registers("distance", distance[:3]),
            registers("signs2", Cat(Mux(swap, signs[1], signs[0]), Mux(swap, signs[0], signs[1]))),
        )
