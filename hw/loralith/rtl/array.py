"""The processing elements: R x C output-stationary INT8 multiply-accumulate with shadow accumulators."""

from enum import IntEnum
from functools import reduce
from operator import or_

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
    """By four."""


class ColumnControl(wiring.Component):
    """What a few columns do, in registers of their own: one register for all elements would be far from most of them.

    Members:
        valid, base, capture, shift: the array's.
        accumulate: three cycles later: add the product.
        keep, up1, up4: to what: to the sum as it is, or shifted up by one or by four; else to zero. One register for each, so that
            an element's adder and one level of logic do.
        move, load: in the next cycle: the shadow set changes; to the accumulators, else to the columns on its right.
    """

    def __init__(self) -> None:
        super().__init__(
            {name: In(1) for name in ("valid", "capture", "shift")}
            | {name: Out(1) for name in ("accumulate", "move", "load")}
            | {name: Out(1) for name in ("keep", "up1", "up4")}
            | {"base": In(2)}
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        given = Signal()
        multiplied = Signal()
        base = Signal(2)
        base_given = Signal(2)
        m.d.sync += [
            given.eq(self.valid),
            multiplied.eq(given),
            self.accumulate.eq(multiplied),
            self.move.eq(self.capture | self.shift),
            self.load.eq(self.capture),
        ]
        with m.If(self.valid):
            m.d.sync += base.eq(self.base)
        with m.If(given):
            m.d.sync += base_given.eq(base)
        with m.If(multiplied):
            m.d.sync += [
                self.keep.eq(base_given == Base.KEEP),
                self.up1.eq(base_given == Base.SHIFT1),
                self.up4.eq(base_given == Base.SHIFT4),
            ]
        return m


class ProcessingArray(wiring.Component):
    """R x C elements, each acc = base(acc) + left * right in one step per cycle.

    The columns form ``max_fold`` lane groups of C / max_fold columns; group l takes the left operand ``left[l]``, R bytes.
    All elements of a column take byte j of ``right``. Operands are INT8, sums INT32 modulo 2**32. Operands and products rest in registers
    that have neither enable nor reset: those are a multiplier block's own (`synth/registers.py`).

    Members:
        valid: a step is on the operand ports in the next cycle.
        base: ``Base`` of the step, sampled with ``valid``.
        capture: ``accumulate_delay`` cycles after the ``valid`` of a tile's last step: the next cycle copies the accumulators to the
            shadow set, in the very cycle in which the next tile's first product may overwrite them.
        shift: the next cycle moves the shadow set one column to the left; ``capture`` goes before it.
        heads: the shadow values of the first column of each lane group, [max_fold][R] INT32 bit patterns.
    """

    accumulate_delay = 3
    columns_per_control = 2

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "left": In(data.ArrayLayout(8 * config.rows, config.max_fold)),
                "right": In(data.ArrayLayout(8, config.cols)),
                "valid": In(1),
                "base": In(2),
                "capture": In(1),
                "shift": In(1),
                "heads": Out(data.ArrayLayout(32 * config.rows, config.max_fold)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        group = config.cols // config.max_fold
        # Registers of a kind next to each other, so that a simulator's compiler can treat several at once.
        rows, cols = range(config.rows), range(config.cols)
        product = [[Signal(signed(16), name=f"product_{i}_{j}", reset_less=True) for j in cols] for i in rows]
        acc = [[Signal(32, name=f"acc_{i}_{j}", reset_less=True) for j in cols] for i in rows]
        shadow = [[Signal(32, name=f"shadow_{i}_{j}", reset_less=True) for j in cols] for i in rows]
        left = Signal.like(self.left, reset_less=True)
        right = Signal.like(self.right, reset_less=True)
        m.d.sync += [left.eq(self.left), right.eq(self.right)]
        for i in rows:
            for j in cols:
                m.d.sync += product[i][j].eq(left[j // group][8 * i : 8 * i + 8].as_signed() * right[j].as_signed())
        for first in range(0, config.cols, self.columns_per_control):
            m.submodules[f"control{first}"] = control = ColumnControl()
            m.d.comb += [getattr(control, name).eq(getattr(self, name)) for name in ("valid", "base", "capture", "shift")]
            elements = [(i, j) for i in rows for j in cols[first : first + self.columns_per_control]]
            with m.If(control.accumulate):
                for i, j in elements:
                    # Whole 32-bit words throughout: wider intermediates cost time in simulation and buy nothing.
                    old = acc[i][j]
                    starts = ((control.keep, old), (control.up1, Cat(Const(0, 1), old[:31])), (control.up4, Cat(Const(0, 4), old[:28])))
                    start = reduce(or_, (Mux(chosen, value, Const(0, 32)) for chosen, value in starts))
                    m.d.sync += old.eq(start.as_signed() + product[i][j])
            with m.If(control.move):
                with m.If(control.load):
                    m.d.sync += [shadow[i][j].eq(acc[i][j]) for i, j in elements]
                with m.Else():
                    m.d.sync += [shadow[i][j].eq(shadow[i][j + 1] if j + 1 < config.cols else 0) for i, j in elements]
        for i in rows:
            for g in range(config.max_fold):
                m.d.comb += self.heads[g][32 * i : 32 * i + 32].eq(shadow[i][g * group])
        return m
