"""The post-processing unit: INT32 sums to INT8 by an exact integer scale, one output column of R lanes per cycle.

Definition: ``loralith.spec.numerics.requantize``; source: docs/numerics.md.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.commands import OutMode
from loralith.spec.numerics import Q8_MAX

from .pipeline import delayed, valid_bits
from .tile import field

__all__ = ["PRODUCT_BITS", "IndexHash", "LaneScale", "MaximumTree", "PostProcessor", "RequantizeLane"]

PRODUCT_BITS = 48
"""Of a sum times a mantissa, and of the largest magnitude of one."""


class LaneScale(data.Struct):
    """value * m / 2**n."""

    m: field("scale_m")
    n: field("scale_n")


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
        enables = valid_bits(m, self.valid, self.delay)
        out = []
        for i in range(self.lanes):
            x = self.keyed.word_select(i, 32)

            def stage(number: int, value: Value, lane: int = i) -> Signal:
                register = Signal(32, name=f"mix{number}_{lane}", reset_less=True)
                with m.If(enables[number]):
                    m.d.sync += register.eq(value)
                return register

            def wire(name: str, value: Value, lane: int = i) -> Signal:
                signal = Signal(32, name=f"{name}_{lane}")
                m.d.comb += signal.eq(value)
                return signal

            # One addition per stage.
            x = stage(0, x + self.column)
            for number in (1, 5):
                a = wire(f"a{number}", x + (x << 10))
                x = stage(number, a ^ (a >> 6))
                b = wire(f"b{number}", x + (x << 3))
                x = stage(number + 1, b ^ (b >> 11))
                c = wire(f"c{number}", x + (x << 15))
                x = stage(number + 2, c ^ (c >> 16))
                if number == 1:
                    x = stage(self.key1_delay, x + self.key1)
            out.append(stage(8, x))
        m.d.comb += self.hashes.eq(Cat(out))
        return m


class RequantizeLane(wiring.Component):
    """One lane of the post-processing unit; stage s of its pipeline takes a new column in a cycle with ``enables[s]``.

    Members:
        enables: bit s: the column that stage s takes, a cycle after it was taken by stage s - 1.
        value, scale: with ``enables[0]``, from registers.
        counts: with ``enables[2]``: the lane counts for the maximum.
        stochastic, hash: with ``enables[4]``: how to round.
        report: with ``enables[5]``: saturation is to be reported.
        key: after stage 2, for ``MaximumTree``.
        quantized, int32, saturated: after stage 5.
    """

    stages = 6

    def __init__(self) -> None:
        super().__init__(
            {
                "enables": In(self.stages),
                "value": In(32),
                "scale": In(LaneScale),
                "counts": In(1),
                "stochastic": In(1),
                "hash": In(32),
                "report": In(1),
                "key": Out(PRODUCT_BITS),
                "quantized": Out(8),
                "int32": Out(32),
                "saturated": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        def stage(number: int, name: str, shape: int, value: Value) -> Signal:
            register = Signal(shape, name=name, reset_less=True)
            with m.If(self.enables[number]):
                m.d.sync += register.eq(value)
            return register

        def wire(name: str, shape: int, value: Value) -> Signal:
            signal = Signal(shape, name=name)
            m.d.comb += signal.eq(value)
            return signal

        shifts = delayed(m, self.scale.n, 3, name="n", enables=self.enables, reset_less=True)
        # One multiplier block each for the two halves of the sum; products without enable or reset so that they are its own registers.
        low, high = (Signal(shape, name=name, reset_less=True) for name, shape in (("low", 32), ("high", signed(32))))
        m.d.sync += [low.eq(self.value[:16] * self.scale.m), high.eq(self.value[16:].as_signed() * self.scale.m)]
        product = stage(1, "product", PRODUCT_BITS, Cat(low[:16], (high + low[16:])[:32]))
        negative = product[47]

        # In the order of (\|p\| - 1, 1) for p < 0 and (p, 0) for p >= 0 a greater one has no smaller \|p\|: the tree compares these, and
        # one addition at its end makes the largest \|p\| of them.
        magnitude = Cat(negative, product[:47] ^ negative.replicate(47))
        m.d.comb += self.key.eq(stage(2, "key", PRODUCT_BITS, Mux(self.counts, magnitude, 0)))

        # p rotated right by n bits: p >> n lies in the low bits, what it drops in the n high ones.
        half = wire("half", 48, self._rotated(product, shifts[2], (5, 4, 3)))
        rotated2 = stage(2, "rotated2", 48, half)
        sign2 = stage(2, "sign2", 1, negative)
        rotated3 = stage(3, "rotated3", 48, self._rotated(rotated2, shifts[3], (2, 1, 0)))
        sign3 = stage(3, "sign3", 1, sign2)
        dropped3 = stage(3, "dropped3", 48, self._high_bits(shifts[3]))

        fraction = wire("fraction", 48, rotated3 & dropped3)
        # Stochastic: the hash's n high bits carry out of the fraction. The bits below them meet zeros.
        carried = wire("carried", 33, fraction[16:] + self.hash)
        # Half even: more than a half, or a half of an odd number.
        even = fraction[47] & (fraction[:47].any() | rotated3[0])
        up = stage(4, "up", 1, Mux(self.stochastic, carried[32], even))
        fits = stage(4, "fits", 1, ~((rotated3[7:] ^ sign3.replicate(41)) & ~dropped3[7:]).any())
        quotient = wire("quotient", 8, (rotated3[:8] & ~dropped3[:8]) | (sign3.replicate(8) & dropped3[:8]))
        quotient4 = stage(4, "quotient4", 8, quotient)
        sign4 = stage(4, "sign4", 1, sign3)
        int32_4 = stage(4, "int32_4", 32, rotated3[:32])

        over = wire("over", 1, ~fits | ((quotient4 == Q8_MAX) & up) | ((quotient4 == 255 - Q8_MAX) & ~up))
        clipped = Mux(sign4, 256 - Q8_MAX, Q8_MAX)
        m.d.comb += [
            self.quantized.eq(stage(5, "quantized5", 8, Mux(over, clipped, (quotient4 + up)[:8]))),
            self.int32.eq(stage(5, "int32_5", 32, int32_4)),
            self.saturated.eq(stage(5, "saturated5", 1, over & self.report)),
        ]
        return m

    @staticmethod
    def _rotated(value: Value, amount: Value, bits: tuple[int, ...]) -> Value:
        """48 bits rotated right by those ``bits`` of ``amount``."""
        for bit in bits:
            value = Mux(amount[bit], value.rotate_right(1 << bit), value)
        return value

    @staticmethod
    def _high_bits(n: Value) -> Value:
        """48 bits, of which the ``n`` highest are set."""
        eights, ones = n[3:], n[:3]
        last = Cat(ones > 7 - bit for bit in range(8))  # of the byte where they end
        return Cat(Mux(eights > 5 - byte, 0xFF, Mux(eights == 5 - byte, last, 0)) for byte in range(6))


class MaximumTree(wiring.Component):
    """The largest magnitude of ``lanes`` products, one comparison per cycle.

    Members:
        enables: bit s: stage s takes a column.
        keys: with ``enables[0]``: the lanes' ``RequantizeLane.key``.
        maximum: ``stages`` cycles later.
    """

    def __init__(self, lanes: int, stages: int | None = None) -> None:
        self.lanes = lanes
        self.stages = self.least_stages(lanes) if stages is None else stages
        super().__init__({"enables": In(self.stages), "keys": In(data.ArrayLayout(PRODUCT_BITS, lanes)), "maximum": Out(PRODUCT_BITS)})

    @staticmethod
    def least_stages(lanes: int) -> int:
        """Comparisons, and the addition at their end."""
        return ceil_log2(lanes) + 1

    def elaborate(self, platform: object) -> Module:
        m = Module()
        keys, number = list(self.keys), 0
        while len(keys) > 1:
            larger = []
            for at in range(0, len(keys), 2):
                register = Signal(PRODUCT_BITS, name=f"larger{number}_{at}", reset_less=True)
                other = keys[at + 1] if at + 1 < len(keys) else keys[at]
                with m.If(self.enables[number]):
                    # The borrow of a subtraction: a comparison would become a tree of LUTs, not a carry chain.
                    m.d.sync += register.eq(Mux((keys[at] - other)[PRODUCT_BITS], other, keys[at]))
                larger.append(register)
            keys, number = larger, number + 1
        maximum = Signal(PRODUCT_BITS, reset_less=True)
        with m.If(self.enables[number]):
            m.d.sync += maximum.eq(keys[0][1:] + keys[0][0])
        remaining = self.enables[number + 1 :]
        m.d.comb += self.maximum.eq(delayed(m, maximum, len(remaining), name="maximum_r", enables=remaining, reset_less=True)[-1])
        return m


class PostProcessor(wiring.Component):
    """Requantization of R lanes.

    Members:
        valid, values: R INT32 sums, packed.
        scales: one ``LaneScale`` per lane. INT32 and NONE results take m = 1, n = 0.
        out_mode, stochastic: of this column.
        mask: lanes that count for maximum and saturations.
        hashes: sampled ``hash_delay`` cycles after ``valid``.
        quantized: R bytes, ``delay`` cycles after ``valid``; int32: R INT32, at the same time.
        saturated: one bit per lane, at the same time, masked, INT8 only.
        maximum: max \\|p\\| of the masked lanes, ``maximum_delay`` cycles after ``valid``.

    Attributes:
        maximum_delay: at least ``delay`` + 1.
    """

    hash_delay = 5
    delay = RequantizeLane.stages + 1

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.maximum_delay = self.maximum_delay_of(lanes)
        super().__init__(
            {
                "valid": In(1),
                "values": In(32 * lanes),
                "scales": In(data.ArrayLayout(LaneScale, lanes)),
                "out_mode": In(field("out_mode")),
                "stochastic": In(field("stochastic")),
                "mask": In(lanes),
                "hashes": In(32 * lanes),
                "quantized": Out(8 * lanes),
                "int32": Out(32 * lanes),
                "saturated": Out(lanes),
                "maximum": Out(PRODUCT_BITS),
            }
        )

    @classmethod
    def maximum_delay_of(cls, lanes: int) -> int:
        """``maximum_delay`` of a unit of ``lanes`` lanes: a register, three stages to a lane's key, and the tree."""
        return max(cls.delay + 1, 4 + MaximumTree.least_stages(lanes))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Register inputs without enable or reset so that they pack into the DSP block's pipeline registers.
        values = Signal.like(self.values, name="values_r", reset_less=True)
        scales = Signal.like(self.scales, name="scales_r", reset_less=True)
        stochastic_r = Signal()
        mask_r = Signal(self.lanes)
        int8_r = Signal()
        m.d.sync += [
            values.eq(self.values),
            scales.eq(self.scales),
            stochastic_r.eq(self.stochastic),
            mask_r.eq(self.mask),
            int8_r.eq(self.out_mode == OutMode.INT8),
        ]
        # Stages are counted from these registers on.
        enables = valid_bits(m, self.valid, self.maximum_delay)[1:]
        stochastic = delayed(m, stochastic_r, 4, name="stochastic", enables=enables, reset_less=True)
        mask = delayed(m, mask_r, 5, name="mask", enables=enables, reset_less=True)
        int8 = delayed(m, int8_r, 5, name="int8_", enables=enables, reset_less=True)
        m.submodules.tree = tree = MaximumTree(self.lanes, self.maximum_delay - 4)
        m.d.comb += [tree.enables.eq(enables[3:]), self.maximum.eq(tree.maximum)]
        for i in range(self.lanes):
            m.submodules[f"lane{i}"] = lane = RequantizeLane()
            m.d.comb += [
                lane.enables.eq(enables),
                lane.value.eq(values.word_select(i, 32)),
                lane.scale.eq(scales[i]),
                lane.counts.eq(mask[2][i]),
                lane.stochastic.eq(stochastic[4]),
                lane.hash.eq(self.hashes.word_select(i, 32)),
                lane.report.eq(mask[5][i] & int8[5]),
                tree.keys[i].eq(lane.key),
                self.quantized.word_select(i, 8).eq(lane.quantized),
                self.int32.word_select(i, 32).eq(lane.int32),
                self.saturated[i].eq(lane.saturated),
            ]
        return m
