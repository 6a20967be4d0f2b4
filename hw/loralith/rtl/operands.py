"""The operand path: scratchpad reads, bank selection for a fold, and the array's operand registers."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from loralith.spec.config import Config

from .mac_counter import MacCounter
from .memories import OperandMemory
from .pipeline import delayed, valid_bits
from .tile import Step, field

__all__ = ["BankSelect", "OperandPath"]


class BankSelect(wiring.Component):
    """One of several banks' words, in two cycles: of each ``group`` banks one, then one of the groups.

    Parameters: width of a word; banks: how many, a power of two.

    Members:
        words: of the banks.
        first, second: enables of the two stages of registers; ``second`` comes a cycle after ``first``.
        first_bank, second_bank: which bank, with ``first`` and with ``second``.
        word: two cycles after ``words``; held while ``second`` is low.
    """

    group = 4

    def __init__(self, width: int, banks: int) -> None:
        self.width, self.banks = width, banks
        bank = ceil_log2(banks)
        super().__init__(
            {
                "words": In(data.ArrayLayout(width, banks)),
                "first": In(1),
                "first_bank": In(bank),
                "second": In(1),
                "second_bank": In(bank),
                "word": Out(width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        groups: list[Value] = []
        for at in range(0, self.banks, self.group):
            register = Signal(self.width, name=f"group{at // self.group}", reset_less=True)
            words = [self.words[bank] for bank in range(at, min(at + self.group, self.banks))]
            with m.If(self.first):
                m.d.sync += register.eq(self._chosen(words, self.first_bank))
            groups.append(register)
        word = Signal(self.width, reset_less=True)
        with m.If(self.second):
            m.d.sync += word.eq(self._chosen(groups, self.second_bank[exact_log2(self.group) :]))
        m.d.comb += self.word.eq(word)
        return m

    @staticmethod
    def _chosen(words: list[Value], which: Value) -> Value:
        return Array(words)[which[: exact_log2(len(words))]] if len(words) > 1 else words[0]


class OperandPath(wiring.Component):
    """Takes a step and gives the array its operands ``delay`` cycles later.

    Members:
        valid, step: from the sequencer.
        left_en, left_row, left_data, right_en, right_row, right_data: read ports of the two scratchpads.
        array_valid, base: to the array, a cycle before left and right, the step's operands; right is zero for a step that reads none.
        last: with its array_valid.
        macs: useful multiply-accumulates of one step, some cycles later.

    With fold f, lane group l of the left operand takes bank position + l // (max_fold / f).
    """

    delay = OperandMemory.delay + 5

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "valid": In(1),
                "step": In(Step),
                "left_en": Out(config.banks),
                "left_row": Out(field("left0_base")),
                "left_data": In(data.ArrayLayout(8 * config.rows, config.banks)),
                "right_en": Out(config.banks),
                "right_row": Out(field("right0_base")),
                "right_data": In(data.ArrayLayout(8 * config.cols, config.banks)),
                "left": Out(data.ArrayLayout(8 * config.rows, config.max_fold)),
                "right": Out(data.ArrayLayout(8, config.cols)),
                "array_valid": Out(1),
                "accumulate_mode": Out(Step["accumulate_mode"].shape),
                "last": Out(1),
                "macs": Out(MacCounter.width),
            }
        )

    def _addresses(self, m: Module, valid: Value, step: data.View, left_bank: Value, right_bank: Value) -> None:
        """Reads both memories for a step: of the left one as many banks as the fold has slices."""
        config, log_banks = self.config, ceil_log2(self.config.banks)
        m.d.sync += [self.left_en.eq(0), self.right_en.eq(0)]
        with m.If(valid):
            m.d.sync += [
                self.left_row.eq(step.left_row + step.left_position[log_banks:]),
                self.right_row.eq(step.right_row + step.right_position[log_banks:]),
            ]
            with m.If(step.reads):
                slices = Signal(config.max_fold)
                # Not as a comparison, which would be a carry chain.
                folds = [step.fold_log2 == log for log in range(ceil_log2(config.max_fold) + 1)]
                m.d.comb += slices.eq(Cat(Cat(folds[bank.bit_length() :]).any() for bank in range(config.max_fold)))
                m.d.sync += [self.left_en.eq(slices << left_bank), self.right_en.eq(Const(1, config.banks) << right_bank)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        log_banks, log_fold = ceil_log2(config.banks), ceil_log2(config.max_fold)

        # Registers at the input: the sequencer and the memories are placed far from here.
        step = Signal(Step)
        m.d.sync += step.eq(self.step)
        valid = valid_bits(m, self.valid, self.delay - 1)
        left_bank, right_bank = step.left_position[:log_banks], step.right_position[:log_banks]
        self._addresses(m, valid[1], step, left_bank, right_bank)

        # What each stage needs of the step. ``words``: the stage in which the memories' words are there.
        control = Signal(
            data.StructLayout(
                {
                    "reads": 1,
                    "last": 1,
                    "accumulate_mode": Step["accumulate_mode"].shape,
                    "fold_log2": Step["fold_log2"].shape,
                    "left_bank": log_banks,
                    "right_bank": log_banks,
                }
            )
        )
        m.d.comb += [control[name].eq(step[name]) for name in ("reads", "last", "accumulate_mode", "fold_log2")]
        m.d.comb += [control.left_bank.eq(left_bank), control.right_bank.eq(right_bank)]
        stages = delayed(m, control, self.delay - 2, name="control", enables=valid[1:])
        words = OperandMemory.delay
        select_group, select_word, operands = stages[words + 1 :]

        # Choose one bank's word. Slice j of a fold lies in bank position + j; as position is a multiple of the fold, a slice above 0 comes
        # from few banks, and each lane group from few slices. Only steps of a fold that has the slice need it.
        needed = [Signal(name=f"needed{log}") for log in range(log_fold + 1)]
        reading = valid[words + 1] & stages[words].reads
        m.d.sync += [bit.eq(reading & (stages[words].fold_log2 >= log)) for log, bit in enumerate(needed)]
        reads = valid_bits(m, needed[0], 2, name="reads_r")

        def select(name: str, enable: Value, banks: list[Value], first_bank: Value, second_bank: Value) -> Value:
            m.submodules[name] = block = BankSelect(len(banks[0]), len(banks))
            m.d.comb += [port.eq(word) for port, word in zip(block.words, banks, strict=True)]
            m.d.comb += [block.first.eq(enable), block.second.eq(reads[1])]
            m.d.comb += [block.first_bank.eq(first_bank), block.second_bank.eq(second_bank)]
            return block.word

        slices = []
        for j in range(config.max_fold):
            log = j.bit_length()
            banks = [self.left_data[b] for b in range(j, config.banks, 1 << log)]
            slices.append(select(f"fold{1 << log}_slice{j}", needed[log], banks, select_group.left_bank[log:], select_word.left_bank[log:]))
        right = select("right_word", needed[0], list(self.right_data), select_group.right_bank, select_word.right_bank)

        # Operand registers: each lane group chooses among the slices, beside its elements, which lie all over the part.
        m.d.comb += [
            self.array_valid.eq(valid[-1]),
            self.last.eq(valid[-1] & operands.last),
            self.accumulate_mode.eq(operands.accumulate_mode),
        ]
        with m.If(valid[-1]):
            m.d.sync += self.right.as_value().eq(Mux(reads[2], right, 0))
        with m.If(reads[2]):
            for group in range(config.max_fold):
                by_fold = [slices[(group << f) >> log_fold] for f in range(log_fold + 1)]
                m.d.sync += self.left[group].eq(Array(by_fold)[operands.fold_log2] if group else slices[0])

        m.submodules.mac_counter = mac_counter = MacCounter()
        m.d.comb += [mac_counter.valid.eq(self.valid), mac_counter.step.eq(self.step), self.macs.eq(mac_counter.macs)]
        return m
