"""Reductions of results: each lane's sum and maximum, and their reduction over all lanes."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.vector.numbers import BIAS, EXPONENT_BITS, FRACTION_BITS, SUM_BITS, SUM_FRACTION_BITS, WORD_BITS
from loralith.spec.vector.program import Reduce

from .from_integer import FromInteger
from .pack import POINT, TERM_BITS
from .word import INNER_EXPONENT, StageRegisters, Word

__all__ = ["ReductionAccumulator", "ReductionReader"]

MAGNITUDE_BITS = WORD_BITS - 1
RANK_BITS = MAGNITUDE_BITS + 1
"""Of a number that orders words: their magnitude, or by value a one before the magnitude of zero or more, a zero before the complement of
that of a negative word. 0 is below all words."""


class ReductionAccumulator(wiring.Component):
    """A lane's sum and its largest magnitude or value.

    Members:
        clear_sum, clear_maximum: reset it.
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
    """Reads the lanes' accumulators, one lane per cycle, and converts sums and maxima to words.

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
        all_lanes = (self.reduce == Reduce.SUM_ALL) | (self.reduce == Reduce.MAX_ALL) | (self.reduce == Reduce.TOP_ALL)
        lane_sum = registers("lane_sum", Array(list(self.sums))[lane])
        lane_maximum = registers("lane_maximum", Array(list(self.maxima))[lane])
        accumulate = registers("accumulate", all_lanes & (lane != 0))
        total, running_maximum = Signal(SUM_BITS, reset_less=True), Signal(RANK_BITS, reset_less=True)
        with m.If(self.enable):
            m.d.sync += total.eq((total & accumulate.replicate(SUM_BITS)) + lane_sum)
            with m.If(~accumulate | (running_maximum - lane_maximum)[-1]):
                m.d.sync += running_maximum.eq(lane_maximum)
        exponent = Signal(INNER_EXPONENT)
        unit = Mux(self.integers, BIAS + POINT, BIAS - 1 + SUM_FRACTION_BITS)
        m.d.sync += exponent.eq(self.scale - unit)
        m.submodules.convert = convert = FromInteger(SUM_BITS, scaled=True)
        m.d.comb += [convert.enable.eq(self.enable), convert.integer.eq(total), convert.exponent.eq(exponent)]
        summing = (self.reduce == Reduce.SUM_LANE) | (self.reduce == Reduce.SUM_ALL)
        signed = (self.reduce == Reduce.TOP_LANE) | (self.reduce == Reduce.TOP_ALL)
        rank = registers("found", running_maximum, FromInteger.delay)
        # A rank of 0 by value is that of no word: its exponent is 0 then, whose word is zero.
        negative = signed & ~rank[-1]
        largest = Cat(rank[:MAGNITUDE_BITS] ^ (negative & rank.any()).replicate(MAGNITUDE_BITS), negative)
        found = Mux(summing, convert.word.as_value(), largest)
        nonzero = found[FRACTION_BITS : FRACTION_BITS + EXPONENT_BITS].any()
        number, final = registers("number", lane, self.delay - 1), registers("final", last, self.delay - 1)
        m.d.comb += [
            self.word.eq(found & nonzero.replicate(WORD_BITS)),
            self.all_lanes.eq(all_lanes),
            self.lane.eq(number),
            self.last.eq(valid[-1] & final),
            self.write.eq(valid[-1] & (final | ~all_lanes)),
            self.fault.eq(self.write & summing & convert.fault),
        ]
        return m
