"""Sums and maxima of results: what each lane gathers, and what is made of all lanes at an inner loop's end."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.vector.numbers import BIAS, EXPONENT_BITS, FRACTION_BITS, SUM_BITS, SUM_FRACTION_BITS, WORD_BITS
from loralith.spec.vector.program import Reduce

from .from_integer import FromInteger
from .pack import POINT, TERM_BITS
from .word import INNER_EXPONENT, StageRegisters, Word

__all__ = ["Gather", "ReductionReader"]

MAGNITUDE_BITS = WORD_BITS - 1
RANK_BITS = MAGNITUDE_BITS + 1
"""Of a number that orders words: their magnitude, or by value a one before the magnitude of zero or more, a zero before the complement of
that of a negative word. 0 is below all words."""


class Gather(wiring.Component):
    """A lane's sum and its largest magnitude or value.

    Members:
        clear_sum, clear_maximum: forget it.
        summing, term: add this term. comparing, word: compare with this word; signed: by value.
        sum: of SUM_BITS, in two's complement. maximum: the largest rank, see RANK_BITS; 0 before the first one. Both a cycle later.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "clear_sum": In(1),
                "clear_maximum": In(1),
                "summing": In(1),
                "term": In(TERM_BITS),
                "comparing": In(1),
                "word": In(Word),
                "signed": In(1),
                "sum": Out(SUM_BITS),
                "maximum": Out(RANK_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.summing):
            m.d.sync += self.sum.eq(self.sum + self.term.as_signed())
        negative = self.signed & self.word.sign & self.word.exponent.any()
        rank = Cat(self.word.as_value()[:MAGNITUDE_BITS] ^ negative.replicate(MAGNITUDE_BITS), self.signed & ~negative)
        # The borrow of a subtraction: a comparison would become a tree of LUTs, not a carry chain.
        with m.If(self.comparing & (self.maximum - rank)[-1]):
            m.d.sync += self.maximum.eq(rank)
        with m.If(self.clear_sum):
            m.d.sync += self.sum.eq(0)
        with m.If(self.clear_maximum):
            m.d.sync += self.maximum.eq(0)
        return m


class ReductionReader(wiring.Component):
    """Reads what the lanes gathered, one lane a cycle, and makes words of it.

    Members:
        enable: see ``StageRegisters``.
        start: a pulse; the lanes' sums and maxima rest until ``done``.
        reduce, integers, scale: constants meanwhile. integers: terms are INT8 results; scale: see ``Pack``.
        sums, maxima: of all lanes.
        write: lane ``lane`` takes ``word``, all lanes of a reduction over lanes. last: with the last one of them.
        fault: the word is too large.

    Attributes:
        delay: cycles from ``start`` to the first lane's word; a reduction over lanes takes all lanes' cycles before that.
    """

    delay = 3 + FromInteger.delay

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(
            {
                "enable": In(1),
                "start": In(1),
                "reduce": In(3),
                "integers": In(1),
                "scale": In(EXPONENT_BITS),
                "sums": In(SUM_BITS).array(lanes),
                "maxima": In(RANK_BITS).array(lanes),
                "write": Out(1),
                "all_lanes": Out(1),
                "lane": Out(range(lanes)),
                "word": Out(WORD_BITS),
                "last": Out(1),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        registers = StageRegisters(m, self.enable)
        # A lane's number and whether it is the first, the last; then its sum and maximum; then the totals.
        lane, reading = Signal(range(self.lanes)), Signal()
        last = lane == self.lanes - 1
        with m.If(self.start):
            m.d.sync += [reading.eq(1), lane.eq(0)]
        with m.Elif(reading):
            m.d.sync += [reading.eq(~last), lane.eq(lane + 1)]
        valid = Signal(self.delay - 1)
        m.d.sync += valid.eq(Cat(reading, valid))
        every = (self.reduce == Reduce.SUM_ALL) | (self.reduce == Reduce.MAX_ALL) | (self.reduce == Reduce.TOP_ALL)
        one_sum = registers("one_sum", Array(list(self.sums))[lane])
        one_maximum = registers("one_maximum", Array(list(self.maxima))[lane])
        keeps = registers("keeps", every & (lane != 0))
        total, most = Signal(SUM_BITS, reset_less=True), Signal(RANK_BITS, reset_less=True)
        with m.If(self.enable):
            m.d.sync += total.eq((total & keeps.replicate(SUM_BITS)) + one_sum)
            with m.If(~keeps | (most - one_maximum)[-1]):
                m.d.sync += most.eq(one_maximum)
        exponent = Signal(INNER_EXPONENT)
        unit = Mux(self.integers, BIAS + POINT, BIAS - 1 + SUM_FRACTION_BITS)
        m.d.sync += exponent.eq(self.scale - unit)
        m.submodules.convert = convert = FromInteger(SUM_BITS, scaled=True)
        m.d.comb += [convert.enable.eq(self.enable), convert.integer.eq(total), convert.exponent.eq(exponent)]
        summing = (self.reduce == Reduce.SUM_LANE) | (self.reduce == Reduce.SUM_ALL)
        signed = (self.reduce == Reduce.TOP_LANE) | (self.reduce == Reduce.TOP_ALL)
        rank = registers("found", most, FromInteger.delay)
        # A rank of 0 by value is that of no word: its exponent is 0 then, whose word is zero.
        negative = signed & ~rank[-1]
        largest = Cat(rank[:MAGNITUDE_BITS] ^ (negative & rank.any()).replicate(MAGNITUDE_BITS), negative)
        found = Mux(summing, convert.word.as_value(), largest)
        holds = found[FRACTION_BITS : FRACTION_BITS + EXPONENT_BITS].any()
        number, final = registers("number", lane, self.delay - 1), registers("final", last, self.delay - 1)
        m.d.comb += [
            self.word.eq(found & holds.replicate(WORD_BITS)),
            self.all_lanes.eq(every),
            self.lane.eq(number),
            self.last.eq(valid[-1] & final),
            self.write.eq(valid[-1] & (final | ~every)),
            self.fault.eq(self.write & summing & convert.fault),
        ]
        return m
