"""The operand path: scratchpad reads, bank selection for a fold, and the array's operand registers."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.config import Config

from .tile import Step

__all__ = ["OperandPath"]


class OperandPath(wiring.Component):
    """Takes a step and gives the array its operands ``delay`` cycles later.

    Members:
        valid, step: from the sequencer.
        left_en, left_row, left_data, right_en, right_row, right_data: read ports of the two scratchpads.
        left, right, array_valid, base, zero: to the array; ``last`` goes with its step.
        macs: useful multiply-accumulates of one step, some cycles later.

    With fold f, lane group l of the left operand takes bank position + l // (max_fold / f).
    """

    delay = 3

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "valid": In(1),
                "step": In(Step),
                "left_en": Out(config.banks),
                "left_row": Out(16),
                "left_data": In(data.ArrayLayout(8 * config.rows, config.banks)),
                "right_en": Out(config.banks),
                "right_row": Out(16),
                "right_data": In(data.ArrayLayout(8 * config.cols, config.banks)),
                "left": Out(data.ArrayLayout(8 * config.rows, config.max_fold)),
                "right": Out(data.ArrayLayout(8, config.cols)),
                "array_valid": Out(1),
                "base": Out(2),
                "zero": Out(1),
                "last": Out(1),
                "macs": Out(20),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        log_banks, log_fold = ceil_log2(config.banks), ceil_log2(config.max_fold)

        # Stage 0: addresses to the memories.
        valid0, reads0, last0, base0 = Signal(), Signal(), Signal(), Signal(2)
        fold0 = Signal(4)
        left_bank0, right_bank0 = Signal(log_banks), Signal(log_banks)
        m.d.sync += [valid0.eq(self.valid), self.left_en.eq(0), self.right_en.eq(0)]
        left_bank, right_bank = self.step.left_position[:log_banks], self.step.right_position[:log_banks]
        with m.If(self.valid):
            m.d.sync += [
                reads0.eq(self.step.reads),
                last0.eq(self.step.last),
                base0.eq(self.step.base),
                fold0.eq(self.step.fold_log2),
                left_bank0.eq(left_bank),
                right_bank0.eq(right_bank),
                self.left_row.eq(self.step.left_row + self.step.left_position[log_banks:]),
                self.right_row.eq(self.step.right_row + self.step.right_position[log_banks:]),
            ]
            with m.If(self.step.reads):
                ones = Signal(config.max_fold)
                m.d.comb += ones.eq(Cat(bank < (1 << self.step.fold_log2) for bank in range(config.max_fold)))
                m.d.sync += [
                    self.left_en.eq(ones << left_bank),
                    self.right_en.eq(Const(1, config.banks) << right_bank),
                ]

        # Stage 1: the memories' words are there; choose. Slice j of a fold lies in bank position + j; as position is a
        # multiple of the fold, a slice above 0 comes from few banks, and each lane group from few slices.
        valid1, reads1, last1, base1 = Signal(), Signal(), Signal(), Signal(2)
        fold1, left_bank1, right_bank1 = Signal(4), Signal(log_banks), Signal(log_banks)
        m.d.sync += valid1.eq(valid0)
        with m.If(valid0):
            m.d.sync += [
                reads1.eq(reads0),
                last1.eq(last0),
                base1.eq(base0),
                fold1.eq(fold0),
                left_bank1.eq(left_bank0),
                right_bank1.eq(right_bank0),
            ]
        slices = []
        for j in range(config.max_fold):
            span = 1 << j.bit_length()  # smallest fold that has slice j
            word = Signal(8 * config.rows, name=f"slice{j}")
            banks = [self.left_data[b] for b in range(j, config.banks, span)]
            chosen = left_bank1[j.bit_length() :]
            m.d.comb += word.eq(Array(banks)[chosen] if len(banks) > 1 else banks[0])
            slices.append(word)

        # Stage 2: operand registers.
        m.d.sync += [self.array_valid.eq(valid1), self.last.eq(valid1 & last1)]
        with m.If(valid1):
            m.d.sync += [self.base.eq(base1), self.zero.eq(~reads1)]
        with m.If(valid1 & reads1):
            m.d.sync += self.right.as_value().eq(Array(self.right_data)[right_bank1])
            for group in range(config.max_fold):
                by_fold = [slices[(group << f) >> log_fold] for f in range(log_fold + 1)]
                m.d.sync += self.left[group].eq(Array(by_fold)[fold1] if group else slices[0])

        # Useful MACs: rows * cols * k, as shifts and adds over three cycles, so that no DSP block is spent on counting.
        area, depth, counted = Signal(13), Signal(5), Signal()
        m.d.sync += counted.eq(self.valid & self.step.reads)
        with m.If(self.valid):
            m.d.sync += [
                area.eq(sum(Mux(self.step.rows[i], self.step.cols << i, 0) for i in range(7))),
                depth.eq(self.step.depth),
            ]
        m.d.sync += self.macs.eq(Mux(counted, sum(Mux(depth[i], area << i, 0) for i in range(5)), 0))
        return m
