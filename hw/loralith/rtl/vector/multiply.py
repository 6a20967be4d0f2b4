"""Products of words."""

from __future__ import annotations

from amaranth.hdl import Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.vector.numbers import BIAS

from .word import INNER_EXPONENT, SIGNIFICAND_BITS, StageRegisters, Word, round_up, significand

__all__ = ["Multiply"]


class Multiply(wiring.Component):
    """``loralith.spec.vector.numbers.multiply``. The significands and their product lie in a multiplier block's registers.

    Members:
        enable: see ``StageRegisters``.
        x, y: the factors. negate: turns the product's sign.
        word, fault: ``delay`` cycles later.
    """

    delay = 4

    def __init__(self) -> None:
        super().__init__({"enable": In(1), "x": In(Word), "y": In(Word), "negate": In(1), "word": Out(Word), "fault": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        registers = StageRegisters(m, self.enable)
        left, right = registers.block("left", self.x.fraction), registers.block("right", self.y.fraction)
        x, y = registers("x_exponent", self.x.exponent), registers("y_exponent", self.y.exponent)
        sign = registers("sign3", self.x.sign ^ self.y.sign ^ self.negate, 3)
        product = registers.block("product", significand(left) * significand(right))
        exponent = registers("exponent2", x + y)
        zero = registers("zero3", registers("zero2", ~(x.any() & y.any())))
        # The product of two numbers in [1, 2) is in [1, 4).
        large, bits = product[-1], SIGNIFICAND_BITS - 1
        low = product[: bits - 1]
        fraction = registers.wire("fraction2", Mux(large, product[-SIGNIFICAND_BITS:-1], product[-SIGNIFICAND_BITS - 1 : -2]))
        guard, sticky = Mux(large, product[bits], product[bits - 1]), low.any() | (large & product[bits - 1])
        up = registers("up", round_up(fraction[0], guard, sticky))
        biased = registers("biased", (exponent - BIAS + large)[:INNER_EXPONENT])
        registers.rounded(sign, biased, registers("fraction", fraction), up, zero, self.word, self.fault)
        return m
