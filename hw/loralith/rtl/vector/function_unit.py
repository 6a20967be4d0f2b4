"""The function between a lane's two pairs of product and sum."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.vector.numbers import BIAS, EXP2_LIMIT, EXPONENT_BITS, FRACTION_BITS
from loralith.spec.vector.program import Function
from loralith.spec.vector.tables import SEGMENT_BITS, VALUE_BITS

from .function_table import POSITION_BITS, TableSignature, table_number
from .word import INNER_EXPONENT, SIGNIFICAND_BITS, StageRegisters, Word, normalize, round_up, shift_right, significand

__all__ = ["FunctionUnit"]

LINE_BITS = VALUE_BITS + POSITION_BITS
FIXED_BITS = SEGMENT_BITS + POSITION_BITS
"""Fraction bits of an argument in fixed point; the argument of Phi, which is below 8, is divided by 8 on the way."""
WHOLE_BITS = 8
"""Bits of 2^x's argument above the point, with the sign."""
PHI_RANGE = 3
PHI_BITS = 21
"""Phi is cut to a multiple of 2^-21."""


@dataclass(frozen=True)
class _Bypass:
    """What bypasses the table. A result is ``exponent`` and, if ``direct``, ``fraction`` as it is."""

    exponent: Value
    fraction: Value
    sign: Value
    direct: Value
    zero: Value
    fault: Value


class FunctionUnit(wiring.Component):
    """The functions of ``loralith.spec.vector.program.Function``.

    Members:
        enable: see ``StageRegisters``.
        function: which one, of the argument that comes a cycle later.
        x: the argument. table: see ``TableSignature``.
        word, fault: ``delay`` cycles later.
    """

    delay = 10

    def __init__(self) -> None:
        super().__init__(
            {
                "enable": In(1),
                "function": In(3),
                "x": In(Word),
                "table": Out(TableSignature),
                "word": Out(Word),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        registers = StageRegisters(m, self.enable)
        kinds = self._kinds(m)
        fixed, bypass, x = self._fixed(registers, kinds)
        position, bypass = self._look_up(m, registers, kinds[3], fixed, bypass, x)
        line = self._line(registers, kinds[6], position)
        self._round(registers, kinds, line, bypass)
        m.d.comb += self.fault.eq(bypass.fault)
        return m

    def _kinds(self, m: Module) -> list[dict[Function, Signal]]:
        """For each cycle, whether the argument that is so far inside is one of a function."""
        kinds: list[dict[Function, Signal]] = []
        for cycle in range(self.delay):
            kind = {function: Signal(name=f"is_{function.name.lower()}{cycle}") for function in Function}
            for function, signal in kind.items():
                m.d.sync += signal.eq(kinds[-1][function] if kinds else self.function == function)
            kinds.append(kind)
        return kinds

    def _fixed(self, registers: StageRegisters, kinds: list[dict[Function, Signal]]) -> tuple[Value, _Bypass, Value]:
        """After three cycles: the argument in fixed point, in two's complement for 2^x and a magnitude for Phi; results that need no
        table; the argument."""
        x = data.View(Word, registers("x1", self.x.as_value()))
        negative = self.x.sign & kinds[0][Function.EXP2]
        magnitude = significand(self.x.fraction)
        signed = registers("signed", ((Cat(magnitude, Const(0, 1)) ^ negative.replicate(SIGNIFICAND_BITS + 1)) + negative)[:-1])
        nonzero, fill = registers("nonzero1", self.x.exponent.any()), registers("fill1", negative)
        # The leading one's place is that of 2^6 before it moves right.
        top = BIAS + WHOLE_BITS - 2
        distance = registers("distance", (Mux(kinds[0][Function.PHI], top + PHI_RANGE, top) - self.x.exponent)[: EXPONENT_BITS + 1])
        power = [x.exponent >= BIAS + WHOLE_BITS - 1, x.exponent >= BIAS + PHI_RANGE]
        outside = Mux(kinds[1][Function.EXP2], power[0], kinds[1][Function.PHI] & power[1])
        window = Cat(Const(0, WHOLE_BITS + FIXED_BITS - len(signed)), signed)
        sign = fill & nonzero
        # A small argument moves by 31, which is more than the window has: nothing but the sign stays.
        distance = registers.wire("clamped", distance[:5] | distance[5:-1].any().replicate(5))
        aligned, _ = shift_right(window, distance, (4, 3), sign)
        aligned, sign = registers("aligned", aligned), registers("fill2", sign)
        fixed, _ = shift_right(aligned, registers("distance2", distance[:3]), (2, 1, 0), sign)
        bypass = self._early(registers, kinds, x, nonzero, outside)
        return registers("fixed", fixed), bypass, registers("x3", x.as_value(), 2)

    def _early(
        self, registers: StageRegisters, kinds: list[dict[Function, Signal]], x: data.View, nonzero: Value, outside: Value
    ) -> _Bypass:
        """Two cycles after ``x``: exponents of all but 2^x and Phi, whose are constants here, and what needs no table."""
        kind = kinds[1]
        plain, scale = kind[Function.PASS], kind[Function.SCALE]
        reciprocal, root = kind[Function.RECIPROCAL], kind[Function.RSQRT]
        exact = ~x.fraction.any()
        above = x.fraction[-6:].all() & x.fraction[:-6].any()  # above 127/64
        half = x.exponent[1:]
        operand = Mux(plain | scale, x.exponent, Mux(reciprocal, ~x.exponent, Mux(root, Cat(~half, Const(1, 1)), 0)))
        # 254 - E, one less for what is no power of two; 190 - E / 2, one less likewise; E - 6 and one more.
        root_addend = Mux(x.exponent[0] & ~exact, -66, -65)
        constant = Mux(kind[Function.EXP2], BIAS + EXP2_LIMIT, BIAS)
        others = Mux(reciprocal, Mux(exact, -1, -2), Mux(root, root_addend, constant))
        addend = Mux(plain, 0, Mux(scale, Mux(above, -5, -6), others))
        exponent = registers("exponent2", (operand + addend)[:INNER_EXPONENT])
        low = exponent[-1] | ~exponent.any()
        takes = plain | scale | outside | (reciprocal & exact) | (root & exact & x.exponent[0])
        negative = outside & x.sign
        fault = (reciprocal & ~nonzero) | (root & (~nonzero | x.sign))
        return _Bypass(
            exponent=registers("exponent3", Mux(kinds[2][Function.SCALE] & low, 1, exponent)),
            fraction=registers("fraction3", Mux(plain, x.fraction, 0), 2),
            sign=registers("sign3", x.sign & nonzero, 2),
            direct=registers("direct3", takes, 2),
            zero=registers("zero3", (plain & ~nonzero) | negative, 2),
            fault=registers("fault3", fault, 2),
        )

    def _look_up(
        self, m: Module, registers: StageRegisters, kind: dict[Function, Signal], fixed: Value, bypass: _Bypass, x: Value
    ) -> tuple[Value, _Bypass]:
        """The table's address, from these registers; the position and the rest, one cycle later."""
        fraction, root = x[:FRACTION_BITS], kind[Function.RSQRT]
        last = FRACTION_BITS - SEGMENT_BITS  # a segment's last bit, in the fraction; of a root the octave's
        segment = Cat(Mux(root, ~x[FRACTION_BITS], fraction[last]), fraction[last + 1 :])
        position = Cat(Const(0, POSITION_BITS - last - 1), fraction[:last], root & fraction[last])
        both = Mux(kind[Function.EXP2] | kind[Function.PHI], fixed[:FIXED_BITS], Cat(position, segment))
        number = table_number(self.function)
        for cycle in range(4):
            number = registers.block(f"table{cycle}", number)
        m.d.comb += self.table.address.eq(Cat(both[POSITION_BITS:], number))
        # 2^126 is the largest power of two that is made.
        exp2, integer_part = kind[Function.EXP2], fixed[FIXED_BITS:]
        limit = exp2 & ~integer_part[-1] & integer_part[1:-1].all()
        computed = exp2 & ~bypass.direct
        exponent = Mux(computed, (integer_part.as_signed() + Const(BIAS, INNER_EXPONENT).as_signed())[:INNER_EXPONENT], bypass.exponent)
        return registers("position4", both[:POSITION_BITS]), _Bypass(
            exponent=registers("exponent4", Mux(limit & ~bypass.direct, BIAS + EXP2_LIMIT, exponent)[:INNER_EXPONENT]),
            fraction=registers("fraction8", bypass.fraction, 5),
            sign=registers("sign4", bypass.sign),
            direct=registers("direct8", bypass.direct | limit, 5),
            zero=registers("zero8", bypass.zero, 5),
            fault=registers("fault10", bypass.fault, 7),
        )

    def _line(self, registers: StageRegisters, kind: dict[Function, Signal], position: Value) -> Value:
        """Three cycles after the position: the line's value in units of 2^-LINE_BITS, with what is before the point."""
        position = registers.block("position5", position)
        slope = registers.block("slope", self.table.segment.slope)
        value = registers("value6", self.table.segment.value, 2)
        product = registers.block("product", slope.as_signed() * position)
        high = Cat(value, ~kind[Function.PHI]) + product[POSITION_BITS:].as_signed()
        line = Cat(product[:POSITION_BITS], high[: VALUE_BITS + 1])
        return registers("line", line)

    def _round(self, registers: StageRegisters, kinds: list[dict[Function, Signal]], line: Value, bypass: _Bypass) -> None:
        """Normalizes, which only Phi needs, and rounds: three cycles after ``line``."""
        dropped_bits = LINE_BITS - PHI_BITS
        # 1 - 2^-LINE_BITS - L of a negative argument of Phi.
        complement = registers("complement7", kinds[4][Function.PHI] & bypass.sign, 3)
        shifted, high = normalize(Cat(line[dropped_bits:-1] ^ complement.replicate(PHI_BITS), line[-1]), (16, 8))
        shifted, high = registers("shifted", shifted), registers("high", high)
        sticky = registers("sticky", line[:dropped_bits].any() & ~kinds[7][Function.PHI], 2)
        normal, low = normalize(shifted, (4, 2, 1))
        fraction = normal[-SIGNIFICAND_BITS:-1]
        rest = normal[:-SIGNIFICAND_BITS]
        direct = bypass.direct
        less = Mux(direct, 0, Cat(low, high))
        exponent = registers("exponent9", (registers("exponent8", bypass.exponent, 4) - less)[:INNER_EXPONENT])
        places, rest = registers("normal", Mux(direct, bypass.fraction, fraction)), registers("rest", Mux(direct, 0, rest))
        up = round_up(places[0], rest[-1], rest[:-1].any() | (sticky & ~registers("direct9", direct)))
        zero = registers("zero9", bypass.zero | (~direct & ~normal[-1]))
        signed = registers("signed9", kinds[4][Function.PASS] | kinds[4][Function.RECIPROCAL], 5)
        sign = registers("sign9", bypass.sign, 5)
        registers.rounded(sign & signed, exponent, places, up, zero, self.word, Signal(name="never"))  # none is 2^128 or more
