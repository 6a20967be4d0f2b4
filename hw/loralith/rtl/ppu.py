"""The post-processing unit: INT32 sums to INT8 by an exact integer scale, one output column of R lanes per cycle.

Definition: ``loralith.spec.numerics.requantize``; source: docs/numerics.md.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.commands import OutMode
from loralith.spec.numerics import Q8_MAX

__all__ = ["IndexHash", "LaneScale", "PostProcessor"]


class LaneScale(data.Struct):
    """value * m / 2**n."""

    m: 16
    n: 6


class IndexHash(wiring.Component):
    """``loralith.spec.numerics.hash32`` for ``lanes`` indices per cycle, ``delay`` cycles later.

    Members:
        valid: indices are given this cycle.
        keyed: per lane, lane offset + key0 (modulo 2**32), packed.
        column: what is added to each of them; index + key0 = keyed + column.
        key1: second key word, sampled ``key1_delay`` cycles after ``valid``.
        hashes: 32 bits per lane, packed.
    """

    delay = 9
    key1_delay = 4

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(
            {
                "valid": In(1),
                "keyed": In(32 * lanes),
                "column": In(32),
                "key1": In(32),
                "hashes": Out(32 * lanes),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        valid = Signal(self.delay)
        m.d.sync += valid.eq(Cat(self.valid, valid))
        enables = Cat(self.valid, valid)
        out = []
        for i in range(self.lanes):
            x = self.keyed.word_select(i, 32)

            def stage(number: int, value: Value, lane: int = i) -> Signal:
                register = Signal(32, name=f"mix{number}_{lane}", reset_less=True)
                with m.If(enables[number]):
                    m.d.sync += register.eq(value)
                return register

            def settle(name: str, value: Value, lane: int = i) -> Signal:
                wire = Signal(32, name=f"{name}_{lane}")
                m.d.comb += wire.eq(value)
                return wire

            # One addition per stage.
            x = stage(0, x + self.column)
            for number in (1, 5):
                a = settle(f"a{number}", x + (x << 10))
                x = stage(number, a ^ (a >> 6))
                b = settle(f"b{number}", x + (x << 3))
                x = stage(number + 1, b ^ (b >> 11))
                c = settle(f"c{number}", x + (x << 15))
                x = stage(number + 2, c ^ (c >> 16))
                if number == 1:
                    x = stage(self.key1_delay, x + self.key1)
            out.append(stage(8, x))
        m.d.comb += self.hashes.eq(Cat(out))
        return m


class PostProcessor(wiring.Component):
    """Requantization of R lanes.

    Members:
        valid, values: R INT32 sums, packed.
        scales: one ``LaneScale`` per lane. INT32 and NONE results take m = 1, n = 0.
        out_mode, stochastic: of this column.
        mask: lanes that count for maximum and saturations.
        hashes: sampled ``hash_delay`` cycles after ``valid``.
        quantized: R bytes, ``delay`` cycles after ``valid``; wide: R INT32, at the same time.
        saturated: one bit per lane, at the same time, masked, INT8 only.
        maximum: max \\|p\\| of the masked lanes, ``maximum_delay`` cycles after ``valid``.

    Attributes:
        maximum_delay: at least ``delay`` + 1.
    """

    hash_delay = 5
    delay = 7

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.maximum_delay = self.maximum_delay_of(lanes)
        super().__init__(
            {
                "valid": In(1),
                "values": In(32 * lanes),
                "scales": In(data.ArrayLayout(LaneScale, lanes)),
                "out_mode": In(2),
                "stochastic": In(1),
                "mask": In(lanes),
                "hashes": In(32 * lanes),
                "quantized": Out(8 * lanes),
                "wide": Out(32 * lanes),
                "saturated": Out(lanes),
                "maximum": Out(48),
            }
        )

    @classmethod
    def maximum_delay_of(cls, lanes: int) -> int:
        """``maximum_delay`` of a unit of ``lanes`` lanes."""
        return max(cls.delay + 1, ceil_log2(lanes) + 5)

    def _delayed(self, m: Module, enables: Value, value: Value, first: int, last: int, name: str) -> dict[int, Value]:
        """``value`` of stage ``first`` at each later stage up to ``last``."""
        stages = {first: value}
        for stage in range(first, last):
            register = Signal(len(value), name=f"{name}_{stage + 1}", reset_less=True)
            with m.If(enables[stage]):
                m.d.sync += register.eq(stages[stage])
            stages[stage + 1] = register
        return stages

    def elaborate(self, platform) -> Module:
        m = Module()
        # What comes rests in registers first, and products do: neither with enable or reset, so that both are a multiplier block's own.
        given = Signal()
        values = Signal.like(self.values, name="given_values", reset_less=True)
        scales = Signal.like(self.scales, name="given_scales", reset_less=True)
        given_stochastic = Signal()
        given_mask = Signal(self.lanes)
        given_narrow = Signal()
        m.d.sync += [
            given.eq(self.valid),
            values.eq(self.values),
            scales.eq(self.scales),
            given_stochastic.eq(self.stochastic),
            given_mask.eq(self.mask),
            given_narrow.eq(self.out_mode == OutMode.INT8),
        ]
        last = self.maximum_delay - 1  # stage, of those from here on
        valid = Signal(last)
        m.d.sync += valid.eq(Cat(given, valid))
        enables = Cat(given, valid)
        stochastic = self._delayed(m, enables, given_stochastic, 0, 5, "stochastic")
        mask = self._delayed(m, enables, given_mask, 0, 5, "mask")
        narrow = self._delayed(m, enables, given_narrow, 0, 5, "narrow")
        keys: list[Value] = []
        quantized, wide, saturated = [], [], []
        for i in range(self.lanes):

            def stage(number: int, name: str, shape, value: Value, lane: int = i) -> Signal:
                register = Signal(shape, name=f"{name}_{lane}", reset_less=True)
                with m.If(enables[number]):
                    m.d.sync += register.eq(value)
                return register

            def settle(name: str, shape, value: Value, lane: int = i) -> Signal:
                wire = Signal(shape, name=f"{name}_{lane}")
                m.d.comb += wire.eq(value)
                return wire

            value, mantissa = values.word_select(i, 32), scales[i].m
            shifts = self._delayed(m, enables, scales[i].n, 0, 3, f"n_{i}")
            # One multiplier block each for the two halves of the sum.
            low, high = (Signal(shape, name=f"{name}_{i}", reset_less=True) for name, shape in (("low", 32), ("high", signed(32))))
            m.d.sync += [low.eq(value[:16] * mantissa), high.eq(value[16:].as_signed() * mantissa)]
            product = stage(1, "product", 48, Cat(low[:16], (high + low[16:])[:32]))
            negative = product[47]

            # In the order of (\|p\| - 1, 1) for p < 0 and (p, 0) for p >= 0 a greater one has no smaller \|p\|: the tree compares
            # these, and one addition at its end makes the largest \|p\| of them.
            magnitude = Cat(negative, product[:47] ^ negative.replicate(47))
            keys.append(stage(2, "key", 48, Mux(mask[2][i], magnitude, 0)))

            # p turned right by n bits: p >> n lies in the low bits, what it drops in the n high ones.
            half = settle("half", 48, self._turned(product, shifts[2], (5, 4, 3)))
            turned2 = stage(2, "turned2", 48, half)
            sign2 = stage(2, "sign2", 1, negative)
            turned3 = stage(3, "turned3", 48, self._turned(turned2, shifts[3], (2, 1, 0)))
            sign3 = stage(3, "sign3", 1, sign2)
            dropped3 = stage(3, "dropped3", 48, self._high_bits(shifts[3]))

            fraction = settle("fraction", 48, turned3 & dropped3)
            # Stochastic: the hash's n high bits carry out of the fraction. The bits below them meet zeros.
            carried = settle("carried", 33, fraction[16:] + self.hashes.word_select(i, 32))
            # Half even: more than a half, or a half of an odd number.
            even = fraction[47] & (fraction[:47].any() | turned3[0])
            up = stage(4, "up", 1, Mux(stochastic[4], carried[32], even))
            fits = stage(4, "fits", 1, ~((turned3[7:] ^ sign3.replicate(41)) & ~dropped3[7:]).any())
            whole = settle("whole", 8, (turned3[:8] & ~dropped3[:8]) | (sign3.replicate(8) & dropped3[:8]))
            whole4 = stage(4, "whole4", 8, whole)
            sign4 = stage(4, "sign4", 1, sign3)
            wide4 = stage(4, "wide4", 32, turned3[:32])

            over = settle("over", 1, ~fits | ((whole4 == Q8_MAX) & up) | ((whole4 == 255 - Q8_MAX) & ~up))
            clipped = Mux(sign4, 256 - Q8_MAX, Q8_MAX)
            quantized.append(stage(5, "quantized", 8, Mux(over, clipped, (whole4 + up)[:8])))
            wide.append(stage(5, "wide", 32, wide4))
            saturated.append(stage(5, "saturated", 1, over & mask[5][i] & narrow[5]))

        number = 3
        while len(keys) > 1:  # one comparison per stage
            larger = []
            for at in range(0, len(keys), 2):
                register = Signal(48, name=f"larger{number}_{at}", reset_less=True)
                other = keys[at + 1] if at + 1 < len(keys) else keys[at]
                with m.If(enables[number]):
                    # The borrow of a subtraction: a comparison would become a tree of LUTs, not a carry chain.
                    m.d.sync += register.eq(Mux((keys[at] - other)[48], other, keys[at]))
                larger.append(register)
            keys, number = larger, number + 1
        maximum = Signal(48, reset_less=True)
        with m.If(enables[number]):
            m.d.sync += maximum.eq(keys[0][1:] + keys[0][0])
        m.d.comb += [
            self.quantized.eq(Cat(quantized)),
            self.wide.eq(Cat(wide)),
            self.saturated.eq(Cat(saturated)),
            self.maximum.eq(self._delayed(m, enables, maximum, number + 1, last, "maximum")[last]),
        ]
        return m

    def _turned(self, value: Value, amount: Value, bits: tuple[int, ...]) -> Value:
        """48 bits turned right by those ``bits`` of ``amount``."""
        for bit in bits:
            value = Mux(amount[bit], value.rotate_right(1 << bit), value)
        return value

    def _high_bits(self, n: Value) -> Value:
        """48 bits, of which the ``n`` highest are set."""
        eights, ones = n[3:], n[:3]
        last = Cat(ones > 7 - bit for bit in range(8))  # of the byte where they end
        return Cat(Mux(eights > 5 - byte, 0xFF, Mux(eights == 5 - byte, last, 0)) for byte in range(6))
