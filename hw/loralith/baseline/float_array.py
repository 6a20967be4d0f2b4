"""R x C output-stationary floating-point multiply-accumulate: the elements that area and energy of the INT8 ones are held against."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["BF16", "FORMATS", "FP16", "FP32", "FloatArray", "FloatFormat"]


@dataclass(frozen=True)
class FloatFormat:
    """An IEEE 754 layout: sign, ``exponent`` bits, ``fraction`` bits."""

    name: str
    exponent: int
    fraction: int

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.fraction

    @property
    def bias(self) -> int:
        return (1 << (self.exponent - 1)) - 1


FP16 = FloatFormat("fp16", 5, 10)
BF16 = FloatFormat("bf16", 8, 7)
FP32 = FloatFormat("fp32", 8, 23)
FORMATS = {form.name: form for form in (FP16, BF16, FP32)}


class FloatArray(wiring.Component):
    """Elements acc = (clear ? 0 : acc) + left * right, products exact, sums FP32 rounded once to nearest, ties to even.

    Registers and control are those of `rtl.array.ProcessingArray`: a product, an accumulator and a shadow that moves to the left. A
    multiplier's result is kept unrounded; addition, normalization and rounding are one cycle, so that no register more than there is
    counted for the baseline. Subnormal operands and sums are zero, a sum too large is infinity and stays; operands must be finite.

    Members:
        left, right: an operand of each row and of each column.
        valid: the operands are a step; ``clear`` with it: the first one of a tile.
        capture, shift: the next cycle copies the accumulators to the shadow set, or moves it one column to the left.
        drain_out: the shadow values of the first column, FP32 bit patterns.

    Attributes:
        delay: cycles from ``valid`` to the sum in the accumulator.
    """

    delay = 2

    def __init__(self, form: FloatFormat, rows: int, cols: int) -> None:
        self._form, self._rows, self._cols = form, rows, cols
        super().__init__(
            {
                "left": In(data.ArrayLayout(form.bits, rows)),
                "right": In(data.ArrayLayout(form.bits, cols)),
                "drain_out": Out(data.ArrayLayout(FP32.bits, rows)),
            }
            | {name: In(1) for name in ("valid", "clear", "capture", "shift")}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        accumulate = Signal()
        clear = Signal()
        m.d.sync += accumulate.eq(self.valid)
        with m.If(self.valid):
            m.d.sync += clear.eq(self.clear)
        for i in range(self._rows):
            shadows = [Signal(FP32.bits, name=f"shadow_{i}_{j}", reset_less=True) for j in range(self._cols)]
            for j, shadow in enumerate(shadows):
                m.submodules[f"element_{i}_{j}"] = element = _Element(self._form)
                m.d.comb += [
                    element.left.eq(self.left[i]),
                    element.right.eq(self.right[j]),
                    element.step.eq(self.valid),
                    element.accumulate.eq(accumulate),
                    element.clear.eq(clear),
                ]
                with m.If(self.capture):
                    m.d.sync += shadow.eq(element.sum)
                with m.Elif(self.shift):
                    m.d.sync += shadow.eq(shadows[j + 1] if j + 1 < self._cols else 0)
            m.d.comb += self.drain_out[i].eq(shadows[0])
        return m


class _Element(wiring.Component):
    """One multiply-accumulate. ``step``: multiply in this cycle; ``accumulate``: add the product in this one, to zero with ``clear``."""

    def __init__(self, form: FloatFormat) -> None:
        self._form = form
        super().__init__(
            {"left": In(form.bits), "right": In(form.bits), "sum": Out(FP32.bits)}
            | {name: In(1) for name in ("step", "accumulate", "clear")}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        f, e = self._form.fraction, self._form.exponent
        fields = [(v[:f], v[f : f + e], v[-1]) for v in (self.left, self.right)]
        (lf, le, ls), (rf, re, rs) = fields
        is_zero = (le == 0) | (re == 0)

        # The product: 2 f fraction bits below 1 <= x < 4, its exponent biased as FP32's; zero has no significand.
        significand = Signal(2 * f + 2, reset_less=True)
        exponent = Signal(signed(11), reset_less=True)
        sign = Signal(reset_less=True)
        with m.If(self.step):
            m.d.sync += [
                significand.eq(Mux(is_zero, 0, Cat(lf, C(1, 1)) * Cat(rf, C(1, 1)))),
                exponent.eq(le + re + (FP32.bias - 2 * self._form.bias)),
                sign.eq(ls ^ rs),
            ]
        acc = self.sum
        with m.If(self.accumulate):
            m.d.sync += acc.eq(self._added(m, (significand, exponent, sign), Mux(self.clear, 0, acc)))
        return m

    def _added(self, m: Module, product: tuple[Value, Value, Value], acc: Value) -> Value:
        """acc + product as FP32 bits."""
        significand, exponent, sign = product
        f = 2 * self._form.fraction
        # Two bits below the longer operand: whatever else a shift drops is one sticky bit, and a sum that loses its leading bits
        # came from operands too near to each other to drop any.
        aligned_bits = max(f, FP32.fraction) + 2
        old_exponent = Signal(8)
        old_sign = acc[-1]
        full = Signal(aligned_bits + 2)
        old = Signal(aligned_bits + 2)
        m.d.comb += [
            old_exponent.eq(acc[FP32.fraction : FP32.bits - 1]),
            full.eq(significand << (aligned_bits - f)),
            old.eq(Mux(old_exponent == 0, 0, Cat(acc[: FP32.fraction], C(1, 1)) << (aligned_bits - FP32.fraction))),
        ]
        gap = Signal(signed(12))
        m.d.comb += gap.eq(exponent - old_exponent)
        product_leads = Signal()  # the product's exponent counts
        m.d.comb += product_leads.eq((old_exponent == 0) | ((gap >= 0) & (significand != 0)))
        distance = Signal(range(aligned_bits + 4))
        size = Mux(gap < 0, -gap, gap)
        m.d.comb += distance.eq(Mux(size > aligned_bits + 3, aligned_bits + 3, size))
        big = Mux(product_leads, full, old)
        small = Signal(aligned_bits + 2)
        m.d.comb += small.eq(Mux(product_leads, old, full))
        moved = Signal(aligned_bits + 2)
        m.d.comb += moved.eq(small >> distance)
        sticky = Array([C(0, 1), *(small[:n].any() for n in range(1, aligned_bits + 4))])[distance]

        total = Signal(signed(aligned_bits + 5))
        signs = Mux(product_leads, sign, old_sign), Mux(product_leads, old_sign, sign)
        one, two = Cat(C(0, 1), big), Cat(sticky, moved)
        m.d.comb += total.eq(Mux(signs[0] == signs[1], one + two, one - two))
        negative = total[-1]
        size_of = Signal(aligned_bits + 4)
        m.d.comb += size_of.eq(Mux(negative, -total, total))

        # The leading one to the top bit; its weight there is 2**2 of the exponent that counts.
        places = Signal(range(aligned_bits + 5))
        level: Value = size_of
        count: Value = C(0)
        sum_bits = aligned_bits + 4
        for power in reversed(range((sum_bits - 1).bit_length())):
            if (1 << power) < sum_bits:
                empty = ~level[sum_bits - (1 << power) :].any()
                level = Mux(empty, (level << (1 << power))[:sum_bits], level)
                count = count + (empty << power)
        m.d.comb += places.eq(count)
        top = Signal(sum_bits)
        m.d.comb += top.eq(level)
        truncated, rest = top[sum_bits - 24 :], top[: sum_bits - 24]
        up = rest[-1] & (rest[:-1].any() | truncated[0])
        rounded = Signal(25)
        m.d.comb += rounded.eq(truncated + up)
        result = Signal(signed(13))
        m.d.comb += result.eq(Mux(product_leads, exponent, old_exponent) + 2 - places + rounded[-1])
        fraction = Mux(rounded[-1], 0, rounded[: FP32.fraction])
        negative_sum = Mux(negative, ~signs[0], signs[0])
        finite = Mux(
            (size_of == 0) | (result <= 0),
            0,
            Mux(result >= 255, Cat(C(0, 23), C(255, 8), negative_sum), Cat(fraction, result[:8], negative_sum)),
        )
        return Mux(old_exponent == 255, acc, finite)
