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
        quantized, wide, saturated: its results, ``PostProcessor.delay`` cycles later. maximum: ``maximum_delay`` cycles later.
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
        late = PostProcessor.maximum_delay_of(config.rows)
        valid = Signal(late)
        m.d.sync += valid.eq(Cat(self.valid, valid))
        columns = [self.column]
        for stage, enable in enumerate(Cat(self.valid, valid)[:late]):
            register = Signal(Column, name=f"column{stage + 1}", reset_less=True)
            with m.If(enable):
                m.d.sync += register.eq(columns[-1])
            columns.append(register)
        column, done = columns[PostProcessor.delay], valid[PostProcessor.delay - 1]

        # Registers of their own, as others wait for the left scratchpad's port and the output buffer is wide.
        coming, soon = columns[PostProcessor.delay - 1], valid[PostProcessor.delay - 2]
        wide = Signal()
        m.d.sync += [
            self.out_en.eq(soon & coming.flags.to_out),
            self.left_en.eq(soon & coming.flags.to_left),
        ]
        with m.If(soon):
            m.d.sync += wide.eq(coming.flags.out_mode == OutMode.INT32)
        position = Signal(18)
        m.d.comb += [
            position.eq(Mux(wide, column.n << 2, column.n)),
            self.out_row.eq(column.out_row + position[log_banks:]),
            self.out_mask.eq(Mux(wide, Const(15, config.banks), Const(1, config.banks)) << position[:log_banks]),
            self.left_row.eq(column.result_row + column.n[log_banks:]),
            self.left_mask.eq(Const(1, config.banks) << column.n[:log_banks]),
            self.left_word.eq(self.quantized),
        ]
        for byte in range(4):
            plane = Cat(self.wide[32 * lane + 8 * byte :][:8] for lane in range(config.rows))
            m.d.comb += self.out_words[byte].eq(Mux(wide, plane, self.quantized))

        # One register for the column's saturation count, which then waits for the column's maximum; the command's running values.
        counted = Signal()
        clipped = Signal(8)
        m.d.sync += counted.eq(done)
        with m.If(done):
            m.d.sync += clipped.eq(sum(self.saturated[lane] for lane in range(config.rows)))
        m.d.comb += self.saturations.eq(Mux(counted, clipped, 0))
        for stage in range(PostProcessor.delay + 1, late):
            waiting = Signal(8, name=f"clipped{stage}", reset_less=True)
            with m.If(valid[stage - 1]):
                m.d.sync += waiting.eq(clipped)
            clipped = waiting
        measured = columns[late]
        running_max = Signal(48)
        running_clipped = Signal(32)
        finish = Signal()
        finished = Signal.like(measured.flags)
        m.d.sync += finish.eq(valid[late - 1] & measured.last)
        with m.If(valid[late - 1]):
            with m.If(measured.first | (running_max - self.maximum)[48]):
                m.d.sync += running_max.eq(self.maximum)
            m.d.sync += [
                running_clipped.eq(Mux(measured.first, 0, running_clipped) + clipped),
                finished.eq(measured.flags),
            ]
        m.d.comb += [
            self.stat_update.eq(finish & finished.stat_enable),
            self.stat_slot.eq(finished.stat_slot),
            self.stat_clear.eq(finished.stat_clear),
            self.stat_maximum.eq(running_max),
            self.stat_saturations.eq(running_clipped),
        ]

        # The slot is written three cycles after the update; register and fifo take as long.
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(width=SEMAPHORES, depth=self.queue_depth)
        settled = Signal()
        settled_mask = Signal(SEMAPHORES)
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
