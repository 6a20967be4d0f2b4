"""Where requantized columns go: output buffer, left scratchpad, statistics, and the command's completion."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.commands import SEMAPHORES, OutMode
from loralith.spec.config import Config

from .interfaces import SignalSignature
from .ppu import PostProcessor
from .tile import Column

__all__ = ["Results"]


class Results(wiring.Component):
    """Writes each column that leaves the post-processing unit, and completes commands in order.

    Members:
        valid, column: a column enters the post-processing unit this cycle.
        quantized, wide, saturated, maximum: its results, ``PostProcessor.delay`` cycles later.
        out_*: write port of the output buffer.
        left_*: write port of the left scratchpad; must be taken at once.
        stat_*: statistics update.
        saturations: INT8 results clipped in one cycle.
        started: pulse per command that will complete; complete: pulse per command completed.
        signal: tokens of completed commands.
        full: as many commands are on their way as can be queued.
        pending: some are.
    """

    queue_depth = 8

    def __init__(self, config: Config) -> None:
        self.config = config
        rows = config.rows
        super().__init__(
            {
                "valid": In(1),
                "column": In(Column),
                "quantized": In(8 * rows),
                "wide": In(32 * rows),
                "saturated": In(rows),
                "maximum": In(48),
                "out_en": Out(1),
                "out_row": Out(16),
                "out_mask": Out(config.banks),
                "out_words": Out(data.ArrayLayout(8 * rows, 4)),
                "left_en": Out(1),
                "left_row": Out(16),
                "left_mask": Out(config.banks),
                "left_word": Out(8 * rows),
                "stat_update": Out(1),
                "stat_slot": Out(8),
                "stat_clear": Out(1),
                "stat_maximum": Out(48),
                "stat_saturations": Out(32),
                "saturations": Out(8),
                "started": In(1),
                "complete": Out(1),
                "signal": Out(SignalSignature),
                "full": Out(1),
                "pending": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        log_banks = ceil_log2(config.banks)
        depth = PostProcessor.delay
        valid = Signal(depth)
        m.d.sync += valid.eq(Cat(self.valid, valid))
        column = self.column
        for stage, enable in enumerate(Cat(self.valid, valid)[:depth]):
            register = Signal(Column, name=f"column{stage + 1}", reset_less=True)
            with m.If(enable):
                m.d.sync += register.eq(column)
            column = register
        done = valid[-1]

        wide = column.flags.out_mode == OutMode.INT32
        position = Signal(18)
        m.d.comb += [
            position.eq(Mux(wide, column.n << 2, column.n)),
            self.out_en.eq(done & column.flags.to_out),
            self.out_row.eq(column.out_row + position[log_banks:]),
            self.out_mask.eq(Mux(wide, Const(15, config.banks), Const(1, config.banks)) << position[:log_banks]),
            self.left_en.eq(done & column.flags.to_left),
            self.left_row.eq(column.result_row + column.n[log_banks:]),
            self.left_mask.eq(Const(1, config.banks) << column.n[:log_banks]),
            self.left_word.eq(self.quantized),
        ]
        for byte in range(4):
            plane = Cat(self.wide[32 * lane + 8 * byte :][:8] for lane in range(config.rows))
            m.d.comb += self.out_words[byte].eq(Mux(wide, plane, self.quantized))

        # One register for the column's saturation count, then the running values of the command.
        counted, last, first = Signal(), Signal(), Signal()
        clipped, maximum = Signal(8), Signal(48)
        m.d.sync += counted.eq(done)
        with m.If(done):
            m.d.sync += [
                clipped.eq(sum(self.saturated[lane] for lane in range(config.rows))),
                maximum.eq(self.maximum),
                first.eq(column.first),
                last.eq(column.last),
            ]
        m.d.comb += self.saturations.eq(Mux(counted, clipped, 0))
        flags = Signal.like(column.flags)
        with m.If(done):
            m.d.sync += flags.eq(column.flags)
        running_max, running_clipped = Signal(48), Signal(32)
        old_max, old_clipped = Mux(first, 0, running_max), Mux(first, 0, running_clipped)
        finish = Signal()
        m.d.sync += [finish.eq(counted & last)]
        with m.If(counted):
            m.d.sync += [
                running_max.eq(Mux(maximum > old_max, maximum, old_max)),
                running_clipped.eq(old_clipped + clipped),
            ]
        finished = Signal.like(flags)
        with m.If(counted & last):
            m.d.sync += finished.eq(flags)
        m.d.comb += [
            self.stat_update.eq(finish & finished.stat_enable),
            self.stat_slot.eq(finished.stat_slot),
            self.stat_clear.eq(finished.stat_clear),
            self.stat_maximum.eq(running_max),
            self.stat_saturations.eq(running_clipped),
        ]

        # The slot is written two cycles after the update; the fifo takes at least as long.
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(width=SEMAPHORES, depth=self.queue_depth)
        settled, settled_mask = Signal(), Signal(SEMAPHORES)
        m.d.sync += [settled.eq(finish), settled_mask.eq(finished.signal)]
        m.d.comb += [
            queue.w_en.eq(settled),
            queue.w_data.eq(settled_mask),
            self.signal.valid.eq(queue.r_rdy),
            self.signal.mask.eq(queue.r_data),
            queue.r_en.eq(self.signal.ready),
            self.complete.eq(queue.r_rdy & self.signal.ready),
        ]
        on_their_way = Signal(range(self.queue_depth + 1))
        m.d.sync += on_their_way.eq(on_their_way + self.started - self.complete)
        m.d.comb += [self.full.eq(on_their_way == self.queue_depth), self.pending.eq(on_their_way != 0)]
        return m
