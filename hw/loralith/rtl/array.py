"""The processing elements: R x C output-stationary INT8 multiply-accumulate with shadow accumulators."""

from enum import IntEnum

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.config import Config

__all__ = ["Base", "ProcessingArray"]


class Base(IntEnum):
    """What a step adds its product to."""

    KEEP = 0
    CLEAR = 1
    SHIFT1 = 2
    """The accumulator shifted left by one."""
    SHIFT4 = 3


class ProcessingArray(wiring.Component):
    """R x C elements, each acc = base(acc) + left * right in one step per cycle.

    The columns form ``max_fold`` lane groups of C / max_fold columns; group l takes the left operand ``left[l]``, R bytes.
    All elements of a column take byte j of ``right``. Operands are INT8, sums INT32 modulo 2**32.

    Members:
        valid: a step is on the operand ports this cycle.
        base: ``Base`` of the step, sampled with ``valid``.
        zero: with valid, the product counts as zero (a step that only shifts).
        capture: ``accumulate_delay`` cycles after the last step of a tile: copy the accumulators to the shadow set, in
            the very cycle in which the next tile's first product may overwrite them.
        shift: move the shadow set one column to the left; not together with ``capture``.
        heads: the shadow values of the first column of each lane group, [max_fold][R] INT32 bit patterns.
    """

    product_delay = 1
    accumulate_delay = 2

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "left": In(data.ArrayLayout(8 * config.rows, config.max_fold)),
                "right": In(data.ArrayLayout(8, config.cols)),
                "valid": In(1),
                "base": In(2),
                "zero": In(1),
                "capture": In(1),
                "shift": In(1),
                "heads": Out(data.ArrayLayout(32 * config.rows, config.max_fold)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        group = config.cols // config.max_fold
        valid, keep, shift1, shift4 = Signal(), Signal(), Signal(), Signal()
        m.d.sync += valid.eq(self.valid)
        with m.If(self.valid):
            m.d.sync += [
                keep.eq(self.base == Base.KEEP),
                shift1.eq(self.base == Base.SHIFT1),
                shift4.eq(self.base == Base.SHIFT4),
            ]
        # Registers of a kind next to each other, so that a simulator's compiler can treat several at once.
        rows, cols = range(config.rows), range(config.cols)
        product = [[Signal(signed(16), name=f"product_{i}_{j}", reset_less=True) for j in cols] for i in rows]
        acc = [[Signal(32, name=f"acc_{i}_{j}", reset_less=True) for j in cols] for i in rows]
        shadow = [[Signal(32, name=f"shadow_{i}_{j}", reset_less=True) for j in cols] for i in rows]
        with m.If(self.valid):
            for i in rows:
                for j in cols:
                    left, right = self.left[j // group][8 * i : 8 * i + 8].as_signed(), self.right[j].as_signed()
                    m.d.sync += product[i][j].eq(Mux(self.zero, 0, left * right))
        with m.If(valid):
            for i in rows:
                for j in cols:
                    # Whole 32-bit words throughout: wider intermediates cost time in simulation and buy nothing.
                    old = acc[i][j]
                    shifted = Mux(shift1, Cat(Const(0, 1), old[:31]), Mux(shift4, Cat(Const(0, 4), old[:28]), Const(0, 32)))
                    m.d.sync += old.eq(Mux(keep, old, shifted).as_signed() + product[i][j])
        for i in rows:
            for j in cols:
                with m.If(self.capture):
                    m.d.sync += shadow[i][j].eq(acc[i][j])
                with m.Elif(self.shift):
                    m.d.sync += shadow[i][j].eq(shadow[i][j + 1] if j + 1 < config.cols else 0)
            for g in range(config.max_fold):
                m.d.comb += self.heads[g][32 * i : 32 * i + 32].eq(shadow[i][g * group])
        return m
