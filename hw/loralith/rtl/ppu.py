"""The post-processing unit: INT32 sums to INT8 by an exact integer scale, one output column of R lanes per cycle.

Definition: ``loralith.spec.numerics.requantize``; source: docs/numerics.md.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

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

    delay = 7
    key1_delay = 3

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

            x = stage(0, x + self.column)
            for number in (1, 4):
                a = settle(f"a{number}", x + (x << 10))
                x = stage(number, a ^ (a >> 6))
                b = settle(f"b{number}", x + (x << 3))
                x = stage(number + 1, b ^ (b >> 11))
                c = settle(f"c{number}", x + (x << 15))
                d = c ^ (c >> 16)
                x = stage(number + 2, d + self.key1 if number == 1 else d)
            out.append(x)
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
        maximum: max \\|p\\| of the masked lanes, at the same time.
    """

    hash_delay = 4
    delay = 9

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
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
        valid = Signal(self.delay)
        m.d.sync += valid.eq(Cat(self.valid, valid))
        enables = Cat(self.valid, valid)
        stochastic = self._delayed(m, enables, self.stochastic, 0, 4, "stochastic")
        mask = self._delayed(m, enables, self.mask, 0, 8, "mask")
        narrow = self._delayed(m, enables, self.out_mode == OutMode.INT8, 0, 8, "narrow")
        sizes: list[Value] = []
        quantized, wide, saturated = [], [], []
        for i in range(self.lanes):

            def stage(number: int, name: str, shape, value: Value, lane: int = i) -> Signal:
                register = Signal(shape, name=f"{name}_{lane}", reset_less=True)
                with m.If(enables[number]):
                    m.d.sync += register.eq(value)
                return register

            value = self.values.word_select(i, 32).as_signed()
            shifts = self._delayed(m, enables, self.scales[i].n, 0, 7, f"n_{i}")
            # Two registers behind the multiplier let synthesis pipeline the two DSP blocks it takes.
            product1 = stage(0, "product1", signed(48), value * self.scales[i].m)
            product2 = stage(1, "product2", signed(48), product1)
            size = stage(2, "size", 48, Mux(mask[2][i], Mux(product2 < 0, -product2, product2)[:48], 0))
            product3 = stage(2, "product3", signed(48), product2)
            product4 = stage(3, "product4", signed(48), product3)
            sizes.append(size)
            # Both roundings add X >> (48 - n): half less one, or the top n bits of the hash.
            source = Mux(stochastic[4], self.hashes.word_select(i, 32) << 16, (1 << 47) - 1)
            addend = stage(4, "addend", 48, source >> (48 - shifts[4])[:6])
            odd = Mux(stochastic[4] | (shifts[4] == 0), 0, (product4.as_unsigned() >> shifts[4])[0])
            carry = stage(4, "carry", 1, odd)
            product5 = stage(4, "product5", signed(48), product4)
            total = stage(5, "total", signed(49), product5 + addend + carry)
            coarse = stage(6, "coarse", signed(49), total >> Cat(0, 0, 0, shifts[6][3:6])[:6])
            fine = stage(7, "fine", signed(49), coarse >> shifts[7][:3])
            over = (fine > Q8_MAX) | (fine < -Q8_MAX)
            clipped = Mux(fine < 0, -Q8_MAX, Q8_MAX)
            quantized.append(stage(8, "quantized", 8, Mux(over, clipped, fine)[:8]))
            wide.append(stage(8, "wide", 32, fine[:32]))
            saturated.append(stage(8, "saturated", 1, over & mask[8][i] & narrow[8]))
        number = 3
        while len(sizes) > 1:
            grouped = []
            for at in range(0, len(sizes), 4):
                best = sizes[at]
                for other in sizes[at + 1 : at + 4]:
                    best = Mux(other > best, other, best)
                register = Signal(48, name=f"maximum{number}_{at}", reset_less=True)
                with m.If(enables[number]):
                    m.d.sync += register.eq(best)
                grouped.append(register)
            sizes, number = grouped, number + 1
        maximum = self._delayed(m, enables, sizes[0], number, self.delay, "maximum")
        m.d.comb += [
            self.quantized.eq(Cat(quantized)),
            self.wide.eq(Cat(wide)),
            self.saturated.eq(Cat(saturated)),
            self.maximum.eq(maximum[self.delay]),
        ]
        return m
