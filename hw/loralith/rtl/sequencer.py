"""The tile sequencer: turns a checked COMPUTE command into one step of the array per cycle."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.config import Config

from .array import Base
from .interfaces import SignalSignature, WaitSignature
from .tile import Plan, Step, Tile

__all__ = ["Sequencer"]


class Sequencer(wiring.Component):
    """Walks row blocks, column blocks, segments and k of one command after the other, without a cycle in between.

    Members:
        plans: checked commands.
        valid, step: a step leaves this cycle.
        tile_done, tile: pulse with the last step of a tile; ``tile`` holds from the next cycle on until the next pulse.
        final: pulse: the last step of a command leaves.
        hold: no command may end now (its completion could not be queued).
        stop: no step leaves.
        segment: tokens that a second segment waits for.
        read_signal: tokens given when a command has read its last operand.
        active: a command is in progress.

    Attributes:
        least_spacing: fewest cycles from one tile's last step to the next one's; the drain relies on it.
    """

    least_spacing = 5

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "plans": In(stream.Signature(Plan)),
                "valid": Out(1),
                "step": Out(Step),
                "tile_done": Out(1),
                "tile": Out(Tile),
                "final": Out(1),
                "hold": In(1),
                "stop": In(1),
                "segment": Out(WaitSignature),
                "read_signal": Out(SignalSignature),
                "active": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        log_rows, log_cols = ceil_log2(config.rows), ceil_log2(config.cols)
        plan = Signal(Plan)
        active = Signal()
        m.d.comb += self.active.eq(active)

        # Where we are. Rows and columns left include the present tile; k left includes the present step.
        rows_left, cols_left, k_left = Signal(16), Signal(16), Signal(17)
        n, second, shift_left = Signal(16), Signal(), Signal(5)
        left_position, right_position = Signal(17), Signal(17)
        left_rows, right_rows = [Signal(16, name=f"left{s}") for s in (0, 1)], [Signal(16, name=f"right{s}") for s in (0, 1)]
        out_row, result_row, acc_row, scale_word = Signal(16), Signal(16), Signal(16), Signal(16)
        index_row, index_tile = Signal(32), Signal(32)
        first_tile, first_step, segment_granted = Signal(), Signal(), Signal()

        fold = Signal(5)
        tile_cols = Signal(8)
        m.d.comb += [fold.eq(1 << plan.fold_log2), tile_cols.eq(config.cols >> plan.fold_log2)]
        last_rows, last_cols, last_k = Signal(), Signal(), Signal()
        m.d.comb += [
            last_rows.eq(rows_left <= config.rows),
            last_cols.eq(cols_left <= tile_cols),
            last_k.eq(k_left <= fold),
        ]

        # Shifts of more than one stage take steps of their own; the last stage rides on the segment's first product.
        shifting = Signal()
        shift_stage = Mux(shift_left >= 4, 4, 1)
        m.d.comb += shifting.eq(second & first_step & (shift_left != 0) & (shift_left != 1) & (shift_left != 4))
        tile_last = Signal()
        m.d.comb += tile_last.eq(last_k & (second | ~plan.chained) & ~shifting)
        command_last = Signal()
        m.d.comb += command_last.eq(tile_last & last_rows & last_cols)

        # The shadow accumulators take one tile at a time.
        spacing = Signal(range(max(config.cols, self.least_spacing)))
        with m.If(spacing != 0):
            m.d.sync += spacing.eq(spacing - 1)
        read_pending = Signal()
        need_segment = Signal()
        m.d.comb += need_segment.eq(second & first_tile & ~segment_granted)
        go = Signal()
        m.d.comb += [
            go.eq(active & ~self.stop & ~need_segment & ~(tile_last & (spacing != 0)) & ~(command_last & (self.hold | read_pending))),
            self.segment.valid.eq(active & need_segment & ~self.stop),
            self.segment.mask.eq(plan.segment_wait),
        ]
        with m.If(self.segment.valid & self.segment.ready):
            m.d.sync += segment_granted.eq(1)

        rows, cols = Signal(8), Signal(8)
        m.d.comb += [
            rows.eq(Mux(last_rows, rows_left, config.rows)),
            cols.eq(Mux(last_cols, cols_left, tile_cols)),
        ]
        m.d.comb += [
            self.valid.eq(go),
            self.step.reads.eq(~shifting),
            self.step.fold_log2.eq(plan.fold_log2),
            self.step.left_row.eq(Mux(second, left_rows[1], left_rows[0])),
            self.step.right_row.eq(Mux(second, right_rows[1], right_rows[0])),
            self.step.left_position.eq(left_position),
            self.step.right_position.eq(right_position),
            self.step.last.eq(tile_last),
            self.step.rows.eq(rows),
            self.step.cols.eq(cols),
            self.step.depth.eq(Mux(shifting, 0, Mux(last_k, k_left, fold))),
            self.tile_done.eq(go & tile_last),
            self.final.eq(go & command_last),
        ]
        with m.If(~first_step):
            m.d.comb += self.step.base.eq(Base.KEEP)
        with m.Elif(~second):
            m.d.comb += self.step.base.eq(Base.CLEAR)
        with m.Elif(shift_left == 0):
            m.d.comb += self.step.base.eq(Base.KEEP)
        with m.Else():
            m.d.comb += self.step.base.eq(Mux(shift_left >= 4, Base.SHIFT4, Base.SHIFT1))

        # read_pending rises one cycle after the last step: its operands are then in the memories' output registers.
        m.d.comb += [self.read_signal.valid.eq(read_pending)]
        read_mask = Signal.like(plan.read_signal)
        m.d.comb += self.read_signal.mask.eq(read_mask)
        with m.If(read_pending & self.read_signal.ready):
            m.d.sync += read_pending.eq(0)

        def begin_segment(chosen: int) -> None:
            m.d.sync += [
                second.eq(chosen),
                first_step.eq(1),
                left_position.eq(0),
                right_position.eq(0),
                k_left.eq(plan.k1 if chosen else plan.k0),
                shift_left.eq(plan.shift),
            ]

        with m.If(go):
            m.d.sync += first_step.eq(0)
            with m.If(shifting):
                m.d.sync += [first_step.eq(1), shift_left.eq(shift_left - shift_stage)]
            with m.Elif(~last_k):
                m.d.sync += [
                    k_left.eq(k_left - fold),
                    left_position.eq(left_position + fold),
                    right_position.eq(right_position + 1),
                ]
            with m.Elif(plan.chained & ~second):
                begin_segment(1)
            with m.Else():
                begin_segment(0)
                m.d.sync += [first_tile.eq(0), spacing.eq(Mux(cols > self.least_spacing, cols, self.least_spacing) - 1)]
                with m.If(~last_cols):
                    m.d.sync += [
                        cols_left.eq(cols_left - tile_cols),
                        n.eq(n + tile_cols),
                        right_rows[0].eq(right_rows[0] + plan.right0_stride),
                        right_rows[1].eq(right_rows[1] + plan.right1_stride),
                        index_tile.eq(index_tile + ((plan.flags.index_col_stride << log_cols) >> plan.fold_log2)),
                    ]
                with m.Else():
                    following = Signal(32)
                    m.d.comb += following.eq(index_row + (plan.flags.index_row_stride << log_rows))
                    m.d.sync += [
                        cols_left.eq(plan.n_cols),
                        n.eq(0),
                        right_rows[0].eq(plan.right0_base),
                        right_rows[1].eq(plan.right1_base),
                        rows_left.eq(rows_left - config.rows),
                        left_rows[0].eq(left_rows[0] + plan.left0_stride),
                        left_rows[1].eq(left_rows[1] + plan.left1_stride),
                        out_row.eq(out_row + plan.out_stride),
                        result_row.eq(result_row + plan.result_stride),
                        acc_row.eq(acc_row + plan.acc_stride),
                        scale_word.eq(scale_word + (plan.flags.scale_mode == 1)),
                        index_row.eq(following),
                        index_tile.eq(following),
                    ]
            with m.If(tile_last):
                m.d.sync += [
                    self.tile.flags.eq(plan.flags),
                    self.tile.fold_log2.eq(plan.fold_log2),
                    self.tile.rows.eq(rows),
                    self.tile.cols.eq(cols),
                    self.tile.first.eq(first_tile),
                    self.tile.last.eq(command_last),
                    self.tile.n.eq(n),
                    self.tile.out_row.eq(out_row),
                    self.tile.result_row.eq(result_row),
                    self.tile.acc_word.eq(acc_row + n),
                    self.tile.scale_word.eq(scale_word),
                    self.tile.index.eq(index_tile),
                ]
            with m.If(command_last):
                m.d.sync += [active.eq(0), read_pending.eq(1), read_mask.eq(plan.read_signal)]

        m.d.comb += self.plans.ready.eq(~self.stop & (~active | self.final))
        coming = self.plans.payload
        with m.If(self.plans.valid & self.plans.ready):
            m.d.sync += [
                active.eq(1),
                plan.eq(coming),
                rows_left.eq(coming.m_rows),
                cols_left.eq(coming.n_cols),
                k_left.eq(coming.k0),
                shift_left.eq(coming.shift),
                n.eq(0),
                second.eq(0),
                first_step.eq(1),
                first_tile.eq(1),
                segment_granted.eq(coming.segment_wait == 0),
                left_position.eq(0),
                right_position.eq(0),
                left_rows[0].eq(coming.left0_base),
                left_rows[1].eq(coming.left1_base),
                right_rows[0].eq(coming.right0_base),
                right_rows[1].eq(coming.right1_base),
                out_row.eq(coming.out_base),
                result_row.eq(coming.result_base),
                acc_row.eq(coming.acc_base),
                scale_word.eq(coming.scale_base),
                index_row.eq(coming.index_base),
                index_tile.eq(coming.index_base),
            ]
        return m
