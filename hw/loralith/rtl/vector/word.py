"""The vector unit's word, and what several of its stages are made of: registers with an enable, normalization, rounding."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data

from loralith.spec.vector.numbers import EXPONENT_BITS, FRACTION_BITS

__all__ = [
    "INNER_EXPONENT",
    "SIGNIFICAND_BITS",
    "StageRegisters",
    "Word",
    "add_carry",
    "normalize",
    "round_up",
    "shift_right",
    "significand",
]

SIGNIFICAND_BITS = FRACTION_BITS + 1
INNER_EXPONENT = EXPONENT_BITS + 2
"""Bits of a biased exponent between a stage's registers, in two's complement: wide enough for a product's and for a difference's."""


class Word(data.Struct):
    """A number, see ``loralith.spec.vector.numbers``. Between stages a zero has exponent 0 and anything in the other fields."""

    fraction: FRACTION_BITS
    exponent: EXPONENT_BITS
    sign: 1


class StageRegisters:
    """Pipeline registers of the module ``m``. They rest while ``enable`` is low, which saves power and a simulator's time.

    ``enable`` does not stall a stage: it is low only while no operand is inside. Those that belong into a multiplier
    block have none.
    """

    def __init__(self, m: Module, enable: Value) -> None:
        self._m, self._enable = m, enable

    def __call__(self, name: str, value: Value, stages: int = 1) -> Value:
        """``value``, ``stages`` cycles later."""
        for stage in range(stages):
            register = Signal(len(value), name=name if stage == stages - 1 else f"{name}_{stage}", reset_less=True)
            with self._m.If(self._enable):
                self._m.d.sync += register.eq(value)
            value = register
        return value

    def wire(self, name: str, value: Value) -> Signal:
        """``value`` by a name, in the same cycle."""
        wire = Signal(len(value), name=name)
        self._m.d.comb += wire.eq(value)
        return wire

    def block(self, name: str, value: Value) -> Signal:
        """``value`` a cycle later, in a register that a multiplier block can take in: without enable and reset."""
        register = Signal(len(value), name=name, reset_less=True)
        self._m.d.sync += register.eq(value)
        return register

    def rounded(self, sign: Value, exponent: Value, fraction: Value, up: Value, zero: Value, word: Word, fault: Signal) -> None:
        """StageRegisters ``word``, the number of these parts with ``up`` added to its last place, and ``fault``: it is too large.

        exponent: biased, INNER_EXPONENT bits in two's complement. zero: the number is zero whatever its parts say.
        """
        total = self.wire("rounded", Cat(fraction, exponent) + up)
        biased = total[FRACTION_BITS : FRACTION_BITS + INNER_EXPONENT]
        holds = ~zero & ~biased[-1]
        with self._m.If(self._enable):
            self._m.d.sync += [
                word.fraction.eq(total[:FRACTION_BITS]),
                word.exponent.eq(Mux(holds, biased[:EXPONENT_BITS], 0)),
                word.sign.eq(sign),
                fault.eq(holds & (biased[EXPONENT_BITS] | biased[:EXPONENT_BITS].all())),
            ]


def significand(fraction: Value) -> Value:
    """The significand of a number that is not zero: its fraction below a leading one."""
    return Cat(fraction, Const(1, 1))


def add_carry(left: Value, right: Value, carry: Value) -> Value:
    """left + right + carry modulo 2^bits of ``left``, on one carry chain."""
    return (Cat(Const(1, 1), left) + Cat(carry, right))[1 : len(left) + 1]


def normalize(value: Value, steps: tuple[int, ...]) -> tuple[Value, Value]:
    """(value shifted left, by how much): each step of ``steps``, falling powers of two, is taken where that many leading bits are zero."""
    count: list[Value] = []
    for step in steps:
        zeros = ~value[-step:].any()
        value = Mux(zeros, Cat(Const(0, step), value[:-step]), value)
        count.append(zeros)
    return value, Cat(reversed(count))


def shift_right(value: Value, amount: Value, bits: tuple[int, ...], fill: Value) -> tuple[Value, Value]:
    """(``value`` shifted right by those ``bits`` of ``amount``, whether a bit that was set is lost); ``fill`` enters at the top."""
    sticky: Value = Const(0, 1)
    for bit in bits:
        sticky = sticky | (amount[bit] & value[: 1 << bit].any())
        value = Mux(amount[bit], Cat(value[1 << bit :], fill.replicate(1 << bit)), value)
    return value, sticky


def round_up(last: Value, guard: Value, sticky: Value) -> Value:
    """Whether half to even rounds up: ``last`` place that stays, first that goes, and whether any of those below it is set."""
    return guard & (last | sticky)
