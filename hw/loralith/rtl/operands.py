"""The operand path: scratchpad reads, bank selection for a fold, and the array's operand registers."""

from itertools import pairwise

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from loralith.spec.config import Config

from .memories import OperandMemory
from .tile import Step

__all__ = ["OperandPath"]


class OperandPath(wiring.Component):
    """Takes a step and gives the array its operands ``delay`` cycles later.

    Members:
        valid, step: from the sequencer.
        left_en, left_row, left_data, right_en, right_row, right_data: read ports of the two scratchpads.
        array_valid, base: to the array, a cycle before left and right, the step's operands; right is zero for a step that reads none.
        last: with its array_valid.
        macs: useful multiply-accumulates of one step, some cycles later.

    With fold f, lane group l of the left operand takes bank position + l // (max_fold / f).

    Attributes:
        group: of so many banks one is chosen in the cycle in which the memories' words come, and of the groups one in the next.
    """

    delay = OperandMemory.delay + 5
    group = 4

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
                "last": Out(1),
                "macs": Out(20),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        log_banks, log_fold = ceil_log2(config.banks), ceil_log2(config.max_fold)

        # What comes rests in registers first: the sequencer is far from here, and the memories are far from here too.
        given = Signal()
        step = Signal(Step)
        m.d.sync += [given.eq(self.valid), step.eq(self.step)]

        # Stage 0: addresses to the memories.
        valid0 = Signal()
        reads0 = Signal()
        last0 = Signal()
        base0 = Signal(2)
        fold0 = Signal(4)
        left_bank0 = Signal(log_banks)
        right_bank0 = Signal(log_banks)
        m.d.sync += [valid0.eq(given), self.left_en.eq(0), self.right_en.eq(0)]
        left_bank, right_bank = step.left_position[:log_banks], step.right_position[:log_banks]
        with m.If(given):
            m.d.sync += [
                reads0.eq(step.reads),
                last0.eq(step.last),
                base0.eq(step.base),
                fold0.eq(step.fold_log2),
                left_bank0.eq(left_bank),
                right_bank0.eq(right_bank),
                self.left_row.eq(step.left_row + step.left_position[log_banks:]),
                self.right_row.eq(step.right_row + step.right_position[log_banks:]),
            ]
            with m.If(step.reads):
                ones = Signal(config.max_fold)
                # Not as a comparison, which would be a carry chain.
                folds = [step.fold_log2 == log for log in range(log_fold + 1)]
                m.d.comb += ones.eq(Cat(Cat(folds[bank.bit_length() :]).any() for bank in range(config.max_fold)))
                m.d.sync += [
                    self.left_en.eq(ones << left_bank),
                    self.right_en.eq(Const(1, config.banks) << right_bank),
                ]

        for _ in range(OperandMemory.delay - 1):
            valid0, (reads0, last0, base0, fold0, left_bank0, right_bank0) = self._later(
                m, valid0, reads0, last0, base0, fold0, left_bank0, right_bank0
            )

        # Stage 1: the memories' words are there; choose one of each group of banks. Slice j of a fold lies in bank position + j; as
        # position is a multiple of the fold, a slice above 0 comes from few banks, and each lane group from few slices.
        valid1 = Signal()
        reads1 = Signal()
        last1 = Signal()
        base1 = Signal(2)
        fold1 = Signal(4)
        left_bank1 = Signal(log_banks)
        right_bank1 = Signal(log_banks)
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
        # Only steps of a fold that has the slice need it.
        needed1 = [Signal(name=f"needed{log}") for log in range(log_fold + 1)]
        m.d.sync += [needed.eq(valid0 & reads0 & (fold0 >= log)) for log, needed in enumerate(needed1)]
        left_groups: list[list[Value]] = []  # of slice j
        for j in range(config.max_fold):
            banks = [self.left_data[b] for b in range(j, config.banks, 1 << j.bit_length())]
            left_groups.append(self._groups(m, f"slice{j}", needed1[j.bit_length()], banks, left_bank1[j.bit_length() :]))
        right_groups = self._groups(m, "word", needed1[0], list(self.right_data), right_bank1)

        # Stage 2: choose among the groups.
        valid2 = Signal()
        reads2 = Signal()
        last2 = Signal()
        base2 = Signal(2)
        fold2 = Signal(4)
        left_bank2 = Signal(log_banks)
        right_bank2 = Signal(log_banks)
        m.d.sync += valid2.eq(valid1)
        with m.If(valid1):
            m.d.sync += [
                reads2.eq(reads1),
                last2.eq(last1),
                base2.eq(base1),
                fold2.eq(fold1),
                left_bank2.eq(left_bank1),
                right_bank2.eq(right_bank1),
            ]
        taken2 = Signal()
        m.d.sync += taken2.eq(needed1[0])
        slices = []
        right3 = Signal(8 * config.cols, reset_less=True)
        for j, words in enumerate(left_groups):
            word = Signal(8 * config.rows, name=f"slice{j}", reset_less=True)
            with m.If(taken2):
                m.d.sync += word.eq(self._chosen(words, left_bank2[j.bit_length() :][exact_log2(self.group) :]))
            slices.append(word)
        with m.If(taken2):
            m.d.sync += right3.eq(self._chosen(right_groups, right_bank2[exact_log2(self.group) :]))

        # Stage 3: each lane group chooses among the slices, beside its elements, which lie all over the part.
        valid3 = Signal()
        reads3 = Signal()
        last3 = Signal()
        base3 = Signal(2)
        fold3 = Signal(4)
        taken3 = Signal()
        m.d.sync += [valid3.eq(valid2), taken3.eq(taken2)]
        with m.If(valid2):
            m.d.sync += [reads3.eq(reads2), last3.eq(last2), base3.eq(base2), fold3.eq(fold2)]

        # Stage 4: operand registers.
        m.d.comb += [self.array_valid.eq(valid3), self.last.eq(valid3 & last3), self.base.eq(base3)]
        with m.If(valid3):
            m.d.sync += self.right.as_value().eq(Mux(taken3, right3, 0))
        with m.If(taken3):
            for group in range(config.max_fold):
                by_fold = [slices[(group << f) >> log_fold] for f in range(log_fold + 1)]
                m.d.sync += self.left[group].eq(Array(by_fold)[fold3] if group else slices[0])

        # Useful MACs: rows * cols * k, as shifts and one addition per cycle, so that no DSP block is spent on counting. The size of the
        # tile comes a cycle after its step.
        depth = [Signal(5, name=f"depth{i}") for i in range(4)]
        counted = Signal(7)
        m.d.sync += [
            counted.eq(Cat(self.valid & self.step.reads, counted)),
            depth[0].eq(self.step.depth),
            *(after.eq(before) for before, after in pairwise(depth)),
        ]
        area = self._sum(m, "area", counted, [Mux(self.step.rows[i], self.step.cols << i, 0) for i in range(8)], 13)
        total = self._sum(m, "total", counted[3:], [Mux(depth[3][i], area << i, 0) for i in range(5)], 20)
        m.d.comb += self.macs.eq(Mux(counted[-1], total, 0))
        return m

    def _later(self, m: Module, valid: Value, *values: Value) -> tuple[Value, tuple[Value, ...]]:
        """``valid`` a cycle later, and what goes with it."""
        after = tuple(Signal.like(value, name=f"{value.name}_later") for value in values)
        valid_after = Signal(name=f"{valid.name}_later")
        m.d.sync += valid_after.eq(valid)
        with m.If(valid):
            m.d.sync += [new.eq(old) for new, old in zip(after, values, strict=True)]
        return valid_after, after

    def _groups(self, m: Module, name: str, enable: Value, words: list[Value], which: Value) -> list[Value]:
        """Registers that take, of each ``group`` words, the one that the low bits of ``which`` name."""
        registers: list[Value] = []
        for at in range(0, len(words), self.group):
            register = Signal(len(words[at]), name=f"{name}_group{at // self.group}", reset_less=True)
            with m.If(enable):
                m.d.sync += register.eq(self._chosen(words[at : at + self.group], which[: exact_log2(self.group)]))
            registers.append(register)
        return registers

    def _chosen(self, words: list[Value], which: Value) -> Value:
        return Array(words)[which[: exact_log2(len(words))]] if len(words) > 1 else words[0]

    def _sum(self, m: Module, name: str, enables: Value, terms: list[Value], width: int) -> Value:
        """The sum of up to eight terms, three cycles later."""
        for stage in range(3):
            sums: list[Value] = []
            for at in range(0, len(terms), 2):
                register = Signal(width, name=f"{name}{stage}_{at}", reset_less=True)
                with m.If(enables[stage]):
                    m.d.sync += register.eq(sum(terms[at + 1 : at + 2], start=terms[at]))
                sums.append(register)
            terms = sums
        return terms[0]
