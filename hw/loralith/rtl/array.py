"""The processing elements: R x C output-stationary INT8 multiply-accumulate with shadow accumulators."""

from collections.abc import Sequence
from enum import IntEnum
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.config import Config

from .pipeline import delayed, valid_bits

__all__ = ["AccumulateMode", "Columns", "ProcessingArray"]


class AccumulateMode(IntEnum):
    """What a step adds its product to: the accumulator, zero, or the accumulator shifted left by one or by four bits."""

    KEEP = 0
    CLEAR = 1
    SHIFT1 = 2
    SHIFT4 = 3


class Columns(wiring.Component):
    """Neighbouring columns of elements, with their own copy of the control registers (fan-out).

    Operands and products are registered without enable or reset so that they pack into the DSP block's pipeline registers
    (`placement/register_packing.py`). Verilator keeps this a module of its own, whose code serves all instances (`native/modules.vlt`).

    Parameters: rows, columns; lanes: how many left operands there are, each for columns / lanes of the columns.

    Members:
        left: [lanes][R] INT8; right: [columns] INT8; valid, accumulate_mode, capture, shift: the array's.
        neighbour: [R] INT32, the shadow set of the column on the right; shadow: [columns][R], those of these.
    """

    def __init__(self, rows: int, columns: int, lanes: int) -> None:
        self.rows, self.columns, self.lanes = rows, columns, lanes
        super().__init__(
            {
                "left": In(data.ArrayLayout(8 * rows, lanes)),
                "right": In(data.ArrayLayout(8, columns)),
                "valid": In(1),
                "accumulate_mode": In(2),
                "capture": In(1),
                "shift": In(1),
                "neighbour": In(32).array(rows),
                "shadow": Out(data.ArrayLayout(data.ArrayLayout(32, rows), columns)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        # Three cycles later the product is added. One-hot registers select the start value, so that an element has one level of logic in
        # front of its adder.
        valid = valid_bits(m, self.valid, 3)
        accumulate_mode = delayed(m, self.accumulate_mode, 2, name="accumulate_mode", enables=valid)[-1]
        accumulate = valid[3]
        keep = Signal()
        shift1 = Signal()
        shift4 = Signal()
        with m.If(valid[2]):
            m.d.sync += [
                keep.eq(accumulate_mode == AccumulateMode.KEEP),
                shift1.eq(accumulate_mode == AccumulateMode.SHIFT1),
                shift4.eq(accumulate_mode == AccumulateMode.SHIFT4),
            ]
        # In the next cycle the shadow set takes the accumulators, or the shadow set of the columns on its right.
        move = Signal()
        load = Signal()
        m.d.sync += [move.eq(self.capture | self.shift), load.eq(self.capture)]

        # Names that sort by column: Yosys writes signals in that order, and a simulator's compiler then takes a column as one vector. For
        # synthesis a row's elements are those that belong together (`placement/fanout.py`).
        rows, columns, lanes = range(self.rows), range(self.columns), range(self.lanes)
        left = [[Signal(signed(8), name=f"left_{lane:02}_{i:02}", reset_less=True) for i in rows] for lane in lanes]
        right = [Signal(signed(8), name=f"right_{j:02}", reset_less=True) for j in columns]
        product = [[Signal(signed(16), name=f"product_{j:02}_{i:02}", reset_less=True) for i in rows] for j in columns]
        acc = [[Signal(32, name=f"acc_{j:02}_{i:02}", reset_less=True) for i in rows] for j in columns]
        shadow = [[Signal(32, name=f"shadow_{j:02}_{i:02}", reset_less=True) for i in rows] for j in columns]
        m.d.comb += self.shadow.as_value().eq(Cat(Cat(column) for column in shadow))
        m.d.sync += [left[lane][i].eq(self.left[lane][8 * i : 8 * i + 8]) for lane in lanes for i in rows]
        m.d.sync += [right[j].eq(self.right[j]) for j in columns]
        m.d.sync += [product[j][i].eq(left[j * self.lanes // self.columns][i] * right[j]) for j in columns for i in rows]
        with m.If(accumulate):
            for j in reversed(columns):
                for i in reversed(rows):
                    # 32-bit words throughout: wider intermediates cost time in simulation and buy nothing.
                    old = acc[j][i]
                    starts = ((keep, old), (shift1, Cat(Const(0, 1), old[:31])), (shift4, Cat(Const(0, 4), old[:28])))
                    start = reduce(or_, (Mux(chosen, value, Const(0, 32)) for chosen, value in starts))
                    m.d.sync += old.eq(start.as_signed() + product[j][i])
        with m.If(move):
            with m.If(load):
                m.d.sync += [shadow[j][i].eq(acc[j][i]) for j in columns for i in rows]
            with m.Else():
                right_of = [*shadow[1:], self.neighbour]
                m.d.sync += [shadow[j][i].eq(right_of[j][i]) for j in columns for i in rows]
        return m


class ProcessingArray(wiring.Component):
    """R x C elements, each acc = start + left * right in one step per cycle, where the step's ``AccumulateMode`` says what start is.

    The columns form ``max_fold`` lane groups of C / max_fold columns; group l takes the left operand ``left[l]``, R bytes.
    All elements of a column take byte j of ``right``. Operands are INT8, sums INT32 modulo 2**32.

    Members:
        valid: a step is on the operand ports in the next cycle.
        accumulate_mode: ``AccumulateMode`` of the step, sampled with ``valid``.
        capture: ``accumulate_delay`` cycles after the ``valid`` of a tile's last step: the next cycle copies the accumulators to the
            shadow set, in the very cycle in which the next tile's first product may overwrite them.
        shift: the next cycle moves the shadow set one column to the left; ``capture`` goes before it.
        drain_out: the shadow values of the first column of each lane group, [max_fold][R] INT32 bit patterns.
    """

    accumulate_delay = 3
    columns_together = 2

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "left": In(data.ArrayLayout(8 * config.rows, config.max_fold)),
                "right": In(data.ArrayLayout(8, config.cols)),
                "valid": In(1),
                "accumulate_mode": In(2),
                "capture": In(1),
                "shift": In(1),
                "drain_out": Out(data.ArrayLayout(32 * config.rows, config.max_fold)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        group = config.cols // config.max_fold
        drain_out: dict[int, Value] = {}
        neighbour: Sequence[ValueLike] = [Const(0, 32)] * config.rows
        for first in reversed(range(0, config.cols, self.columns_together)):
            at = range(first, min(first + self.columns_together, config.cols))
            left = self.left[at[0] // group : at[-1] // group + 1]
            m.submodules[f"columns{first}"] = columns = Columns(config.rows, len(at), len(left))
            m.d.comb += [getattr(columns, name).eq(getattr(self, name)) for name in ("valid", "accumulate_mode", "capture", "shift")]
            m.d.comb += [
                columns.left.eq(left),
                columns.right.eq(self.right[at.start : at.stop]),
                *(port.eq(value) for port, value in zip(columns.neighbour, neighbour, strict=True)),
            ]
            drain_out |= {j // group: columns.shadow[j - first].as_value() for j in at if j % group == 0}
            neighbour = [columns.shadow[0][i] for i in range(config.rows)]
        m.d.comb += [self.drain_out[g].eq(column) for g, column in drain_out.items()]
        return m
