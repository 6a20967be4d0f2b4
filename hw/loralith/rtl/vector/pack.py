"""Last stage of a lane: rounding of the result to its storage format, and its term of a sum."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.numerics import Q8_MAX
from loralith.spec.vector.numbers import BRAIN_BITS, EXPONENT_BITS, FRACTION_BITS, SUM_FRACTION_BITS, WORD_BITS
from loralith.spec.vector.program import Format

from .word import INNER_EXPONENT, SIGNIFICAND_BITS, StageRegisters, Word, round_up, shift_right

__all__ = ["POINT", "TERM_BITS", "Pack"]

INTEGER_BITS = 8
"""Magnitude bits above the point of what becomes an INT8: enough to see that it is too large."""
POINT = SUM_FRACTION_BITS - INTEGER_BITS
"""Where the point of such a number is, in the window that is a term's otherwise."""
RANDOM_BITS = 8
TERM_BITS = SUM_FRACTION_BITS + 1
DROPPED = FRACTION_BITS - BRAIN_BITS


class Pack(wiring.Component):
    """``round_brain``, ``quantize`` and ``sum_term`` of ``loralith.spec.vector.numbers``: one shifter makes an INT8 or a term.

    Members:
        enable: see ``StageRegisters``.
        format, scale: of the result that comes a cycle later. scale: the exponent field of the INT8's scale, or of the bound of the terms.
        summing: results are terms of a sum; sampled ``delay`` - 1 cycles after the result.
        x: the result. random: sampled ``random_delay`` cycles after it.
        word: what is stored, ``delay`` cycles later; of an INT8 the low byte.
        term: x as a multiple of 2^(k - SUM_FRACTION_BITS), at the same time; of an INT8 result that integer, times 2^POINT.
        saturated: the INT8 was clipped. fault: the result, or the term, is too large.
    """

    delay = 5
    random_delay = 3

    def __init__(self) -> None:
        super().__init__(
            {
                "enable": In(1),
                "format": In(2),
                "summing": In(1),
                "scale": In(EXPONENT_BITS),
                "x": In(Word),
                "random": In(RANDOM_BITS),
                "word": Out(WORD_BITS),
                "term": Out(TERM_BITS),
                "saturated": Out(1),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        registers = StageRegisters(m, self.enable)
        is_int8 = (self.format == Format.INT8) | (self.format == Format.INT8_STOCHASTIC)
        int8 = registers("int8_4", is_int8, 5)
        stochastic = registers("stochastic3", self.format == Format.INT8_STOCHASTIC, 4)
        brain = registers("brain3", self.format == Format.BRAIN, 4)
        shifted, over = self._shifted(m, registers, is_int8)
        x = data.View(Word, registers("x3", self.x.as_value(), 3))
        nonzero = registers("nonzero3", self.x.exponent.any(), 3)
        word, overflow = self._word(registers, x, nonzero, brain)
        # An INT8: half to even, or a carry out of the places that the random byte has.
        places = shifted[POINT - RANDOM_BITS - 1 :]
        up = ~stochastic & round_up(shifted[POINT], shifted[POINT - 1], shifted[: POINT - 1].any())
        rounded = registers("integer", (places + Cat(stochastic, self.random & stochastic.replicate(RANDOM_BITS), up))[: len(places)])
        integer, sign = rounded[RANDOM_BITS + 1 :], registers("sign4", x.sign)
        beyond = Mux(integer[-1], ~integer[-2] | ~integer[:-2].any(), integer[-2]) | over
        byte = Mux(beyond, Mux(sign, 256 - Q8_MAX, Q8_MAX), integer[:8])
        term = registers("term4", shifted)
        with m.If(self.enable):
            m.d.sync += [
                self.word.eq(Mux(int8, byte, word)),
                self.saturated.eq(int8 & beyond),
                self.term.eq(Mux(int8, Cat(Const(0, POINT), byte, byte[-1]), term)),
                self.fault.eq(overflow | (self.summing & ~int8 & over)),
            ]
        return m

    def _shifted(self, m: Module, registers: StageRegisters, is_int8: Value) -> tuple[Value, Value]:
        """(x in the window, three cycles after it; whether it is too large for the window, a cycle later still)."""
        anchor = Signal(EXPONENT_BITS + 1)
        m.d.sync += anchor.eq(self.scale + Mux(is_int8, INTEGER_BITS - 1, 0))
        nonzero = self.x.exponent.any()
        negative = self.x.sign & nonzero
        magnitude = Cat(self.x.fraction & nonzero.replicate(FRACTION_BITS), nonzero, Const(0, 1))
        signed = registers("signed", ((magnitude ^ negative.replicate(len(magnitude))) + negative)[: SIGNIFICAND_BITS + 1])
        distance = registers("distance", (anchor - self.x.exponent)[:INNER_EXPONENT])
        window = Cat(Const(0, TERM_BITS - len(signed)), signed)
        # What is small moves by 31, which leaves the sign in all places but the last one.
        far = distance[5:-1].any()
        clamped = registers.wire("clamped", distance[:5] | far.replicate(5))
        shifted, _ = shift_right(window, clamped, (4, 3), signed[-1])
        shifted, low = registers("moved2", shifted), registers("distance2", clamped[:3])
        sign = shifted[-1]
        shifted, _ = shift_right(shifted, low, (2, 1, 0), sign)
        last = Mux(registers("far2", far), sign, shifted[0])
        over = registers("over4", distance[-1] & registers("nonzero1", nonzero), 3)
        return registers("moved3", Cat(last, shifted[1:])), over

    def _word(self, registers: StageRegisters, x: data.View, nonzero: Value, brain: Value) -> tuple[Value, Value]:
        """The clean word, rounded for BRAIN, and whether it is too large, a cycle after ``x``."""
        up = brain & nonzero & round_up(x.fraction[DROPPED], x.fraction[DROPPED - 1], x.fraction[: DROPPED - 1].any())
        low = x.fraction[:DROPPED] & (nonzero & ~brain).replicate(DROPPED)
        high = (Cat(x.fraction[DROPPED:] & nonzero.replicate(BRAIN_BITS), x.exponent) + up)[: BRAIN_BITS + EXPONENT_BITS]
        word = registers("word4", Cat(low, high, x.sign & nonzero))
        return word, word[FRACTION_BITS : FRACTION_BITS + EXPONENT_BITS].all()
