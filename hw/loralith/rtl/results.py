"""Where requantized columns go: output buffer, left scratchpad, statistics, and the command's completion."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.commands import OutMode
from loralith.spec.config import Config

from .interfaces import SignalSignature
from .pipeline import delayed, valid_bits
from .ppu import PostProcessor
from .tile import Column, field

__all__ = ["Results"]


class Results(wiring.Component):
    """Writes each column that leaves the post-processing unit, and completes commands in order.

    Members:
        valid, column: a column enters the post-processing unit this cycle.
        quantized, int32, saturated: its results, ``PostProcessor.delay`` cycles later. maximum: ``maximum_delay`` cycles later.
        out_*: write port of the output buffer.
        left_*: write port of the left scratchpad; must be taken at once.
        stat_*: statistics update.
        saturations: INT8 results clipped in one cycle.
        started: pulse per command that will complete; complete: pulse per command completed.
        signal: tokens of completed commands.
        full: as many commands are in flight as the FIFO of completions holds.
        pending: at least one is.

    Attributes:
        completion_delay_of: cycles from a command's last column to its tokens.
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
                "int32": In(32 * rows),
                "saturated": In(rows),
                "maximum": In(48),
                "out_en": Out(1),
                "out_row": Out(field("out_base")),
                "out_mask": Out(config.banks),
                "out_words": Out(data.ArrayLayout(8 * rows, 4)),
                "left_en": Out(1),
                "left_row": Out(field("result_base")),
                "left_mask": Out(config.banks),
                "left_word": Out(8 * rows),
                "stat_update": Out(1),
                "stat_slot": Out(field("stat_slot")),
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

    @staticmethod
    def completion_delay_of(rows: int) -> int:
        """The column's maximum, the command's, a register and the FIFO, which takes two."""
        return PostProcessor.maximum_delay_of(rows) + 4

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        log_banks = ceil_log2(config.banks)
        late = PostProcessor.maximum_delay_of(config.rows)
        valid = valid_bits(m, self.valid, late)
        columns = delayed(m, self.column, late, name="column", enables=valid, reset_less=True)
        column, done = columns[PostProcessor.delay], valid[PostProcessor.delay]

        # Enables in registers of their own, as others wait for the left scratchpad's port and the output buffer has many bits.
        next_column, next_valid = columns[PostProcessor.delay - 1], valid[PostProcessor.delay - 1]
        int32 = Signal()
        m.d.sync += [
            self.out_en.eq(next_valid & next_column.flags.to_out),
            self.left_en.eq(next_valid & next_column.flags.to_left),
        ]
        with m.If(next_valid):
            m.d.sync += int32.eq(next_column.flags.out_mode == OutMode.INT32)
        position = Signal(len(column.n) + 2)
        m.d.comb += [
            position.eq(Mux(int32, column.n << 2, column.n)),
            self.out_row.eq(column.out_row + position[log_banks:]),
            self.out_mask.eq(Mux(int32, Const(15, config.banks), Const(1, config.banks)) << position[:log_banks]),
            self.left_row.eq(column.result_row + column.n[log_banks:]),
            self.left_mask.eq(Const(1, config.banks) << column.n[:log_banks]),
            self.left_word.eq(self.quantized),
        ]
        for byte in range(4):
            plane = Cat(self.int32[32 * lane + 8 * byte :][:8] for lane in range(config.rows))
            m.d.comb += self.out_words[byte].eq(Mux(int32, plane, self.quantized))

        # The column's saturation count waits for the column's maximum; then both join the command's running values.
        counted = Signal()
        clipped = Signal(len(self.saturations))
        m.d.sync += counted.eq(done)
        with m.If(done):
            m.d.sync += clipped.eq(sum(self.saturated[lane] for lane in range(config.rows)))
        m.d.comb += self.saturations.eq(Mux(counted, clipped, 0))
        stages = late - PostProcessor.delay - 1
        clipped = delayed(m, clipped, stages, name="clipped", enables=valid[PostProcessor.delay + 1 :], reset_less=True)[-1]
        measured = columns[late]
        running_max = Signal.like(self.maximum)
        running_clipped = Signal.like(self.stat_saturations)
        finish = Signal()
        flags = Signal.like(measured.flags)
        m.d.sync += finish.eq(valid[late] & measured.last)
        with m.If(valid[late]):
            with m.If(measured.first | (running_max - self.maximum)[len(running_max)]):
                m.d.sync += running_max.eq(self.maximum)
            m.d.sync += [
                running_clipped.eq(Mux(measured.first, 0, running_clipped) + clipped),
                flags.eq(measured.flags),
            ]
        m.d.comb += [
            self.stat_update.eq(finish & flags.stat_enable),
            self.stat_slot.eq(flags.stat_slot),
            self.stat_clear.eq(flags.stat_clear),
            self.stat_maximum.eq(running_max),
            self.stat_saturations.eq(running_clipped),
        ]

        # The slot is written three cycles after the update; register and FIFO take as long.
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(width=len(flags.signal), depth=self.queue_depth)
        finish_r = Signal()
        signal_r = Signal.like(flags.signal)
        m.d.sync += [finish_r.eq(finish), signal_r.eq(flags.signal)]
        m.d.comb += [
            queue.w_en.eq(finish_r),
            queue.w_data.eq(signal_r),
            self.signal.valid.eq(queue.r_rdy),
            self.signal.mask.eq(queue.r_data),
            queue.r_en.eq(self.signal.ready),
            self.complete.eq(queue.r_rdy & self.signal.ready),
        ]
        in_flight = Signal(range(self.queue_depth + 1))
        m.d.sync += in_flight.eq(in_flight + self.started - self.complete)
        m.d.comb += [self.full.eq(in_flight == self.queue_depth), self.pending.eq(in_flight != 0)]
        return m
