"""Checks a COMPUTE command before it runs, takes its tokens, and hands it to the sequencer."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.commands import COMPUTE, SEMAPHORES, OutMode, ScaleMode
from loralith.spec.config import Config
from loralith.spec.numerics import K_LIMIT, MANTISSA_MIN, SHIFT_MAX
from loralith.spec.status import Check, Code

from .extent import Extent
from .interfaces import CommandEntry, FaultSignature, StatReadSignature, WaitSignature, record_layout
from .results import Results
from .tile import CommandFlags, Plan

__all__ = ["ComputeDecoder"]

SHIFT_LIMIT = 16


class ComputeDecoder(wiring.Component):
    """One command at a time: check (docs/machine.md, Checks), wait for tokens, set a device_shift's shift, offer the plan.

    The next command is checked while the sequencer runs the present one; a check takes about as many cycles as the
    longest extent (some twenty).

    Attributes:
        most_unrecorded: commands that may be handed on and not recorded: those that `Results` has room for, and two in the sequencer.

    Members:
        commands: the compute queue.
        plans: checked commands.
        wait: tokens of the command.
        segment_due: semaphores of which the command before will still take tokens: this one takes none of them before that.
        exponent: the statistics slot of a command with ``device_shift``, read after its tokens and after all records of earlier commands.
        recorded: pulse: a command's record is in its slot from the next cycle but one on.
        fault: the first bad command; nothing more is taken.
        stop: take no command and no token.
        active: a command is taken and not yet handed on.
    """

    most_unrecorded = Results.queue_depth + 2

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "commands": In(stream.Signature(CommandEntry)),
                "plans": Out(stream.Signature(Plan)),
                "wait": Out(WaitSignature),
                "segment_due": In(SEMAPHORES),
                "exponent": Out(StatReadSignature),
                "recorded": In(1),
                "fault": Out(FaultSignature),
                "stop": In(1),
                "active": Out(1),
            }
        )

    def _extents(
        self, m: Module, command, steps: list[Signal], sizes: Value, lengths: Value, start: Value
    ) -> list[tuple[Value, Value, Check]]:
        """(done, ok or not needed, detail) of every region, in the order of docs/machine.md.

        In the cycle of ``sizes`` the blocks and ``steps`` are counted, in that of ``lengths``, after it, the words; ``start`` follows.
        """
        config = self.config
        rows, cols = config.rows, config.cols
        log_banks = ceil_log2(config.banks)
        log_cols = ceil_log2(cols)
        row_blocks = Signal(17 - ceil_log2(rows))
        col_blocks = Signal(17)
        width = Signal(18)
        fold_log2 = command.fold_log2[: ceil_log2(config.max_fold).bit_length()]  # of a command that is no error
        fold_mask = Signal(4)
        m.d.comb += fold_mask.eq((1 << fold_log2) - 1)
        with m.If(sizes):
            m.d.sync += [
                row_blocks.eq((command.m_rows + (rows - 1)) >> ceil_log2(rows)),
                col_blocks.eq(((command.n_cols + (Const(cols - 1, log_cols) >> fold_log2)) << fold_log2) >> log_cols),
                width.eq(Mux(command.out_mode == OutMode.INT32, command.n_cols << 2, command.n_cols)),
                *(count.eq((k + fold_mask) >> fold_log2) for count, k in zip(steps, (command.k0, command.k1), strict=True)),
            ]

        def ceil_shift(value: Value, log: int) -> Value:
            return (value + ((1 << log) - 1)) >> log

        narrow = command.out_mode == OutMode.INT8
        vector = narrow & (command.scale_mode != ScaleMode.TENSOR)
        by_row = command.scale_mode == ScaleMode.ROW
        scale_words = Mux(by_row, row_blocks, ceil_shift(command.n_cols, ceil_log2(rows)))
        chained = command.chained
        regions = (
            (Check.LEFT, 1, command.left0_base, row_blocks, command.left0_stride, ceil_shift(command.k0, log_banks), "left"),
            (Check.LEFT2, chained, command.left1_base, row_blocks, command.left1_stride, ceil_shift(command.k1, log_banks), "left"),
            (Check.RIGHT, 1, command.right0_base, col_blocks, command.right0_stride, ceil_shift(steps[0], log_banks), "right"),
            (Check.RIGHT2, chained, command.right1_base, col_blocks, command.right1_stride, ceil_shift(steps[1], log_banks), "right"),
            (Check.OUT, command.to_out, command.out_base, row_blocks, command.out_stride, ceil_shift(width, log_banks), "out"),
            (Check.LEFT_RESULT, command.to_left, command.result_base, row_blocks, command.result_stride, ceil_shift(command.n_cols, log_banks), "left"),  # noqa: E501
            (Check.ACC, command.acc_read | command.acc_write, command.acc_base, row_blocks, command.acc_stride, command.n_cols, "acc"),
            (Check.SCALE, vector, command.scale_base, 1, 0, scale_words, "scale"),
        )  # fmt: skip
        results: list[tuple[Value, Value, Check]] = []
        for check, needed, base, count, stride, length, memory in regions:
            blocks = len(count) if isinstance(count, Value) else 1
            words = Signal(18, name=f"words_{check.name.lower()}")
            with m.If(lengths):
                m.d.sync += words.eq(length)
            m.submodules[f"extent_{check.name.lower()}"] = extent = Extent(base=16, count=blocks, stride=16, length=18, limit=17)
            m.d.comb += [
                extent.start.eq(start),
                extent.base.eq(base),
                extent.count.eq(count),
                extent.stride.eq(stride),
                extent.length.eq(words),
                extent.limit.eq(config.depth(memory)),
            ]
            results.append((extent.done, extent.ok | ~Value.cast(needed).bool(), check))
        slot_ok = Signal()
        m.d.comb += slot_ok.eq(~command.stat_enable | (command.stat_slot < config.stat_slots))
        results.append((Value.cast(1), slot_ok, Check.STAT))
        exponent_ok = Signal()
        m.d.comb += exponent_ok.eq(~command.device_shift | (command.exponent_slot < config.stat_slots))
        results.append((Value.cast(1), exponent_ok, Check.STAT))
        return results

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        raw = Signal(8 * COMPUTE.size)
        index = Signal(32)
        command = data.View(record_layout(COMPUTE), raw)

        sizes = Signal()
        lengths = Signal()
        start = Signal()
        reserved_ok = Signal()
        enum_ok = Signal()
        counts_ok = Signal()
        size_ok = Signal()
        reserved = [raw[b] for b in range(len(raw)) if COMPUTE.reserved_mask >> b & 1]
        narrow = command.out_mode == OutMode.INT8
        tensor_scale = narrow & (command.scale_mode == ScaleMode.TENSOR)
        shifted = Signal(34)
        length = Signal(35)
        span = Signal(6)  # of t
        bounds_ok = Signal()
        span_ok = Signal()
        # In two steps, as the command's bits are far apart.
        clean = Signal(-(-len(reserved) // 16))
        meant = (
            command.fold_log2 <= ceil_log2(config.max_fold),
            command.shift <= SHIFT_LIMIT,
            command.out_mode <= OutMode.INT32,
            command.scale_mode <= ScaleMode.COLUMN,
            command.chained | ((command.shift == 0) & (command.segment_wait == 0)),
            ~command.to_left | narrow,
            ~command.to_out | (command.out_mode != OutMode.NONE),
        )
        means = Signal(len(meant))
        with m.If(sizes):
            m.d.sync += [
                clean.eq(Cat(~Cat(reserved[at : at + 16]).any() for at in range(0, len(reserved), 16))),
                means.eq(Cat(meant)),
                shifted.eq(command.k0 << command.shift),
                span.eq(command.t_high - command.t_low),
                bounds_ok.eq((command.t_low <= command.t_high) & (command.t_high <= SHIFT_MAX)),
            ]
        with m.If(lengths):
            m.d.sync += [
                reserved_ok.eq(clean.all()),
                enum_ok.eq(means.all()),
                length.eq(shifted + command.k1),
                span_ok.eq(~command.device_shift | (bounds_ok & Mux(command.chained, span <= command.shift, tensor_scale))),
                counts_ok.eq(
                    (command.m_rows != 0)
                    & (command.n_cols != 0)
                    & (command.k0 != 0)
                    & ((command.k1 != 0) == command.chained)
                    & (~tensor_scale | ((command.scale_m >= MANTISSA_MIN) & (command.scale_n <= SHIFT_MAX)))
                ),
            ]
        m.d.comb += size_ok.eq(counts_ok & (length <= K_LIMIT))

        steps = [Signal(17, name=f"steps{segment}") for segment in (0, 1)]
        extents = self._extents(m, command, steps, sizes, lengths, start)
        plan = self.plans.payload
        for name, _ in data.Layout.cast(Plan):
            if name not in ("flags", "steps0", "steps1"):
                m.d.comb += plan[name].eq(command[name])
        m.d.comb += [plan.steps0.eq(steps[0]), plan.steps1.eq(steps[1])]
        for name, _ in data.Layout.cast(CommandFlags):
            m.d.comb += plan.flags[name].eq(command[name])
        # Of a device_shift: the slot's maximum is shifted right, whatever falls out kept as one bit, until it is at most 127.
        maximum = Signal(48)
        dropped = Signal()
        t = Signal(6)
        delta = Signal(6)
        shift = Signal(5)
        large = Signal()
        more = Signal()
        four = Signal()
        room = Signal()
        # Of the states MAXIMUM and SHIFT: registers of their own, as a slot's word comes from far away.
        takes = Signal()
        shifts = Signal()
        m.d.sync += [takes.eq(0), shifts.eq(0)]
        with m.If(takes):
            m.d.sync += maximum.eq(self.exponent.data[:48])
        with m.Elif(shifts):
            # Once too often at the end, when nothing looks at it again: its registers would wait for a late verdict.
            m.d.sync += maximum.eq(Mux(four, maximum >> 4, maximum >> 1))
        with m.If(command.device_shift & command.chained):
            m.d.comb += plan.shift.eq(shift)
        with m.Elif(command.device_shift):
            m.d.comb += plan.flags.scale_n.eq(t)
        m.d.comb += self.exponent.slot.eq(command.exponent_slot)
        m.d.comb += [self.wait.mask.eq(command.wait), self.fault.command.eq(index)]
        waits = Signal()  # in state WAIT: a register of its own, as the semaphores are far away
        disputed = Signal()  # falls at most while a command is here: the one before it was handed on earlier
        m.d.comb += self.wait.valid.eq(waits)
        m.d.sync += disputed.eq((command.wait & self.segment_due).any())

        # Slots that commands handed on may still record in: all of them, until none is left.
        unrecorded = Signal(range(self.most_unrecorded + 1))
        dirty = Signal(config.stat_slots)
        slot_dirty = Signal()
        records = self.plans.valid & self.plans.ready & command.stat_enable
        m.d.sync += [
            slot_dirty.eq(dirty.bit_select(command.exponent_slot[: ceil_log2(config.stat_slots)], 1)),
            unrecorded.eq(unrecorded + records - (self.recorded & (unrecorded != 0))),
        ]
        with m.If(unrecorded == 0):
            m.d.sync += dirty.eq(0)
        with m.If(records):
            m.d.sync += dirty.bit_select(command.stat_slot[: ceil_log2(config.stat_slots)], 1).eq(1)

        def fail(code: Code, detail: Check) -> None:
            m.d.sync += [self.fault.valid.eq(1), self.fault.code.eq(code), self.fault.detail.eq(detail), waits.eq(0)]
            m.next = "FAULT"

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.commands.ready.eq(~self.stop)
                # Whatever is there: what enables so many registers should be one.
                m.d.sync += [raw.eq(self.commands.payload.bits), index.eq(self.commands.payload.index)]
                with m.If(self.commands.valid & ~self.stop):
                    m.next = "SIZES"
            with m.State("SIZES"):
                m.d.comb += [self.active.eq(1), sizes.eq(1)]
                m.next = "LENGTHS"
            with m.State("LENGTHS"):
                m.d.comb += [self.active.eq(1), lengths.eq(1)]
                m.next = "FIELDS"
            with m.State("FIELDS"):
                m.d.comb += [self.active.eq(1), start.eq(1)]
                with m.If(~reserved_ok):
                    fail(Code.BAD_FIELD, Check.RESERVED)
                with m.Elif(~enum_ok | ~span_ok):
                    fail(Code.BAD_FIELD, Check.ENUM)
                with m.Elif(~size_ok):
                    fail(Code.BAD_FIELD, Check.SIZE)
                with m.Else():
                    m.next = "EXTENTS"
            with m.State("EXTENTS"):
                m.d.comb += self.active.eq(1)
                all_done = Cat(done for done, _, _ in extents).all()
                # Extents start in the cycle before and drop done in this one, so that old results are not taken.
                with m.If(all_done):
                    m.d.sync += waits.eq(~disputed)
                    m.next = "WAIT"
                    for _, ok, check in reversed(extents):
                        with m.If(~ok):
                            fail(Code.SCRATCHPAD_BOUNDS, check)
            with m.State("WAIT"):
                m.d.comb += self.active.eq(1)
                m.d.sync += waits.eq(~disputed)
                with m.If(self.wait.ready | self.stop):
                    m.d.sync += waits.eq(0)
                with m.If(self.wait.ready & ~self.stop):
                    m.next = "OFFER"
                    with m.If(command.device_shift):
                        m.next = "SLOT"
            with m.State("SLOT"):
                m.d.comb += [self.active.eq(1), self.exponent.en.eq(1)]
                with m.If(~slot_dirty):
                    m.d.sync += takes.eq(1)
                    m.next = "MAXIMUM"
            with m.State("MAXIMUM"):
                m.d.comb += self.active.eq(1)
                m.d.sync += [dropped.eq(0), t.eq(0)]
                m.next = "LOOK"
            with m.State("LOOK"):
                m.d.comb += self.active.eq(1)
                m.d.sync += [
                    large.eq(maximum[7:].any() | (maximum[:7].all() & dropped)),
                    more.eq(t < command.t_low),
                    four.eq(maximum[11:].any() & (command.t_high >= t + 4)),
                    delta.eq(command.t_high - t),
                    room.eq(command.t_high != t),
                    shifts.eq(1),
                ]
                m.next = "SHIFT"
            with m.State("SHIFT"):
                m.d.comb += self.active.eq(1)
                with m.If(more | (large & room)):
                    m.next = "LOOK"
                    with m.If(four):
                        m.d.sync += [dropped.eq(dropped | maximum[:4].any()), t.eq(t + 4)]
                    with m.Else():
                        m.d.sync += [dropped.eq(dropped | maximum[0]), t.eq(t + 1)]
                with m.Else():
                    m.next = "SPAN"
            with m.State("SPAN"):
                m.d.comb += self.active.eq(1)
                with m.If(~command.shift_up):
                    m.d.sync += delta.eq(t - command.t_low)
                m.next = "LESS"
            with m.State("LESS"):
                m.d.comb += self.active.eq(1)
                m.d.sync += shift.eq(command.shift - delta)
                m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += [self.active.eq(1), self.plans.valid.eq(1)]
                with m.If(self.plans.ready):
                    m.next = "IDLE"
            with m.State("FAULT"):
                m.d.comb += self.active.eq(1)
        return m
