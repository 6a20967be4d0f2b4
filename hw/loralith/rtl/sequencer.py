"""The tile sequencer: turns a checked COMPUTE command into one step of the array per cycle."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.commands import SEMAPHORES
from loralith.spec.config import Config

from .array import Base
from .interfaces import SignalSignature, WaitSignature
from .tile import Plan, Step, Tile

__all__ = ["Sequencer"]


class Sequencer(wiring.Component):
    """Walks row blocks, column blocks, segments and k of one command after the other, without a cycle in between.

    Members:
        plans: checked commands; taken in the cycle after their first step was decided.
        valid, step: a step leaves this cycle.
        tile: of the tile whose last step left, from ``tile_delay`` cycles after that step on until the next tile's.
        final: pulse: the last step of a command leaves.
        hold: no command may end now (its completion could not be queued).
        stop: no step leaves from two cycles later on, and no command is accepted.
        segment: tokens that a second segment waits for. segment_due: those that the present command will still take so.
        read_signal: tokens given when a command has read its last operand.
        active: a command is in progress.

    A command that adds sums which the one before it writes, or that records a maximum as that one does, ends its first tile late enough
    for that one's last column to be past: ``result_spacing`` cycles more than its columns after that one's last step.

    Attributes:
        least_spacing: fewest cycles from one tile's last step to the next one's; the drain relies on it.
        result_spacing: cycles from a column's way into the drain to the first one that finds its sum in the accumulate buffer and its
            maximum recorded, less one. Commands further apart than neighbours are so by ``least_spacing``.
    """

    least_spacing = 5
    result_spacing = 3
    tile_delay = 3

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "plans": In(stream.Signature(Plan)),
                "valid": Out(1),
                "step": Out(Step),
                "tile": Out(Tile),
                "final": Out(1),
                "hold": In(1),
                "stop": In(1),
                "segment": Out(WaitSignature),
                "segment_due": Out(SEMAPHORES),
                "read_signal": Out(SignalSignature),
                "active": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        log_rows, log_cols = ceil_log2(config.rows), ceil_log2(config.cols)
        fold_bits = ceil_log2(config.max_fold).bit_length()
        coming = self.plans.payload
        coming_fold = coming.fold_log2[:fold_bits]
        accept = Signal()
        load = Signal()

        # A command is looked at for a cycle before its first step: what the first decisions need then rests in registers.
        known = Signal()
        coming_steps = [Signal(17, name=f"coming_steps{s}") for s in (0, 1)]
        coming_one_step = [Signal(name=f"coming_one_step{s}") for s in (0, 1)]
        coming_tail = [Signal(5, name=f"coming_tail{s}") for s in (0, 1)]
        coming_last_rows = Signal()
        coming_last_cols = Signal()
        coming_tile_cols = Signal(8)
        coming_index_step = Signal(32)
        coming_follows = Signal()  # it reads what the command before it writes
        fold_mask = Signal(4)
        m.d.comb += [fold_mask.eq((1 << coming_fold) - 1), self.plans.ready.eq(load)]
        m.d.sync += [
            known.eq(self.plans.valid & ~load & ~self.stop),
            load.eq(accept),
            coming_last_rows.eq(coming.m_rows <= config.rows),
            coming_last_cols.eq(coming.n_cols <= config.cols >> coming_fold),
            coming_tile_cols.eq(config.cols >> coming_fold),
            coming_index_step.eq((coming.flags.index_col_stride << log_cols) >> coming_fold),
        ]
        for s, (k, count) in enumerate(((coming.k0, coming.steps0), (coming.k1, coming.steps1))):
            m.d.sync += [
                coming_steps[s].eq(count),
                coming_one_step[s].eq(count == 1),
                coming_tail[s].eq(((k - 1) & fold_mask) + 1),
            ]

        # Decisions: which step is next. All that they depend on is a register, and so is what they make.
        active = Signal()
        second = Signal()
        chained = Signal()
        shifting = Signal()
        steps, tail = [Signal(17, name=f"steps{s}") for s in (0, 1)], [Signal(5, name=f"tail{s}") for s in (0, 1)]
        one_step = [Signal(name=f"one_step{s}") for s in (0, 1)]
        fold_log2 = Signal(fold_bits)
        fold = Signal(5)
        shift = Signal(5)
        shift_left = Signal(5)
        steps_left = Signal(17)  # of the segment; the present one counts
        last_step = Signal()
        ends = Signal()  # the step ends the tile
        last_tile = Signal()  # the tile ends the command
        first_tile = Signal()
        first_step = Signal()
        waits = Signal()
        left_position = Signal(17)  # zero on a first step: no reset, which would be late
        right_position = Signal(17)
        wait_mask = Signal.like(coming.segment_wait)
        read_mask = Signal.like(coming.read_signal)
        apart = Signal(init=1)  # the shadow accumulators can take a tile by the time this step's would come
        held = Signal()  # the command before has results on their way that this one's would overtake
        spaced = Signal(init=1)  # neither keeps a tile from its end
        writes_sums = Signal()
        records = Signal()
        read_pending = Signal()
        closed = Signal()
        go = Signal()
        m.d.comb += [
            fold.eq(1 << fold_log2),
            go.eq(active & ~waits & (~ends | (spaced & ~(last_tile & closed)))),
            # Without ``go``, which many wait for: a command is accepted when none is active or the active one's last step leaves.
            accept.eq(known & ~load & (~active | (~waits & ends & spaced & last_tile & ~closed))),
            self.segment.valid.eq(waits),
            self.segment.mask.eq(wait_mask),
        ]
        # Both change but every ``least_spacing`` cycles.
        m.d.sync += closed.eq(self.hold | read_pending)
        with m.If(self.segment.valid & self.segment.ready):
            m.d.sync += [waits.eq(0), self.segment_due.eq(0)]

        spacing = Signal(range(max(config.cols, self.least_spacing)))
        columns_left = Signal(range(config.cols + 1))  # of the last command's last tile, with some cycles before its first
        final = Signal()
        finished = Signal()
        apart_next = Signal()
        held_next = Signal()
        under_way = final | finished | (columns_left > 1)
        m.d.comb += [
            apart_next.eq((apart & ~(go & ends)) | (spacing == 1)),
            held_next.eq(Mux(accept, coming_follows & (active | under_way), held & under_way)),
        ]
        m.d.sync += [
            coming_follows.eq((coming.flags.acc_read & writes_sums) | (coming.flags.stat_enable & records)),
            apart.eq(apart_next),
            held.eq(held_next),
            spaced.eq(apart_next & ~held_next),
            finished.eq(final),
        ]

        def shifts(amount: Value) -> Value:
            """The shift takes steps of its own: all but the last stage, which rides on the segment's first product."""
            return (amount != 0) & (amount != 1) & (amount != 4)

        def begin(into: int, count: Value, only: Value, chains: Value, by: Value) -> None:
            """The first step of a segment is next."""
            stages = shifts(by) if into else 0
            m.d.sync += [
                second.eq(into),
                first_step.eq(1),
                steps_left.eq(count),
                last_step.eq(only),
                shift_left.eq(by),
                shifting.eq(stages),
                ends.eq(only & ~stages if into else only & ~chains),
            ]

        # A step that ends no tile needs no ``go``, which comes late: such a one always goes.
        moves = active & ~waits
        with m.If(moves & shifting):
            rest = Signal(5)
            m.d.comb += rest.eq(shift_left - Mux(shift_left >= 4, 4, 1))
            m.d.sync += [shift_left.eq(rest), shifting.eq(shifts(rest)), ends.eq(last_step & ~shifts(rest))]
        with m.Elif(moves & ~last_step):
            m.d.sync += [
                first_step.eq(0),
                steps_left.eq(steps_left - 1),
                last_step.eq(steps_left == 2),
                ends.eq((steps_left == 2) & (second | ~chained)),
                left_position.eq(Mux(first_step, 0, left_position) + fold),
                right_position.eq(Mux(first_step, 0, right_position) + 1),
            ]
        with m.Elif(go):
            with m.If(chained & ~second):
                begin(1, steps[1], one_step[1], chained, shift)
                m.d.sync += waits.eq(first_tile & (wait_mask != 0))
            with m.Else():
                begin(0, steps[0], one_step[0], chained, shift)
                m.d.sync += first_tile.eq(0)
        with m.If(go & ends & last_tile):
            m.d.sync += active.eq(0)
        with m.If(accept):
            begin(0, coming_steps[0], coming_one_step[0], coming.chained, coming.shift)
            m.d.sync += [
                active.eq(1),
                *(steps[s].eq(coming_steps[s]) for s in (0, 1)),
                *(one_step[s].eq(coming_one_step[s]) for s in (0, 1)),
                *(tail[s].eq(coming_tail[s]) for s in (0, 1)),
                fold_log2.eq(coming_fold),
                chained.eq(coming.chained),
                shift.eq(coming.shift),
                wait_mask.eq(coming.segment_wait),
                self.segment_due.eq(coming.segment_wait),
                writes_sums.eq(coming.flags.acc_write),
                records.eq(coming.flags.stat_enable),
                first_tile.eq(1),
                last_tile.eq(coming_last_rows & coming_last_cols),
            ]

        # What every step depends on does not look at ``stop`` itself.
        with m.If(self.stop):
            m.d.sync += [active.eq(0), waits.eq(0)]

        # The step leaves. Where in the memories it reads changes with its tile.
        valid = Signal()
        last = Signal()
        into = Signal()
        plan = Signal(Plan)
        step = Signal(Step)
        m.d.sync += [valid.eq(go), last.eq(go & ends), final.eq(go & ends & last_tile)]
        # Whether or not it goes: ``go`` comes late.
        m.d.sync += [
            into.eq(second),
            step.reads.eq(~shifting),
            step.fold_log2.eq(fold_log2),
            step.left_position.eq(Mux(first_step, 0, left_position)),
            step.right_position.eq(Mux(first_step, 0, right_position)),
            step.last.eq(ends),
            step.depth.eq(Mux(shifting, 0, Mux(last_step, Mux(second, tail[1], tail[0]), fold))),
        ]
        with m.If(~first_step):
            m.d.sync += step.base.eq(Base.KEEP)
        with m.Elif(~second):
            m.d.sync += step.base.eq(Base.CLEAR)
        with m.Elif(shift_left == 0):
            m.d.sync += step.base.eq(Base.KEEP)
        with m.Else():
            m.d.sync += step.base.eq(Mux(shift_left >= 4, Base.SHIFT4, Base.SHIFT1))

        # Rows and columns left include the present tile.
        rows_left = Signal(16)
        cols_left = Signal(16)
        n = Signal(16)
        rows = Signal(8)
        cols = Signal(8)
        left_rows, right_rows = [Signal(16, name=f"left{s}") for s in (0, 1)], [Signal(16, name=f"right{s}") for s in (0, 1)]
        out_row = Signal(16)
        result_row = Signal(16)
        acc_row = Signal(16)
        scale_word = Signal(16)
        index_row = Signal(32)
        index_tile = Signal(32)
        last_cols = Signal()
        first = Signal()
        tile_cols = Signal(8)
        index_step = Signal(32)
        m.d.comb += [
            self.active.eq(active | valid),
            self.valid.eq(valid),
            self.step.eq(step),
            self.step.left_row.eq(Mux(into, left_rows[1], left_rows[0])),
            self.step.right_row.eq(Mux(into, right_rows[1], right_rows[0])),
            self.final.eq(final),
        ]

        # read_pending rises one cycle after the last step, whose operands are read two cycles later (`operands.py`): a load that waits
        # for it asks the bus first, and writes far later than that.
        m.d.comb += [self.read_signal.valid.eq(read_pending), self.read_signal.mask.eq(read_mask)]
        with m.If(read_pending & self.read_signal.ready):
            m.d.sync += read_pending.eq(0)
        with m.If(final):
            m.d.sync += [read_pending.eq(1), read_mask.eq(plan.read_signal)]

        # What the tile was, in two steps: its size is known a cycle later than its place.
        ended = Signal()
        loaded = Signal()
        leaves = Signal()
        tile = Signal(Tile)
        m.d.sync += [ended.eq(last), loaded.eq(load)]
        with m.If(last):
            m.d.sync += [
                tile.flags.eq(plan.flags),
                tile.fold_log2.eq(plan.fold_log2),
                tile.first.eq(first),
                tile.last.eq(final),
                tile.n.eq(n),
                tile.out_row.eq(out_row),
                tile.result_row.eq(result_row),
                tile.acc_word.eq(acc_row + n),
                tile.scale_word.eq(scale_word),
                tile.index.eq(index_tile),
                first.eq(0),
            ]
            with m.If(~last_cols):
                m.d.sync += [
                    cols_left.eq(cols_left - tile_cols),
                    n.eq(n + tile_cols),
                    right_rows[0].eq(right_rows[0] + plan.right0_stride),
                    right_rows[1].eq(right_rows[1] + plan.right1_stride),
                    index_tile.eq(index_tile + index_step),
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
        with m.If(load):
            m.d.sync += [
                plan.eq(coming),
                rows_left.eq(coming.m_rows),
                cols_left.eq(coming.n_cols),
                last_cols.eq(coming_last_cols),
                tile_cols.eq(coming_tile_cols),
                index_step.eq(coming_index_step),
                n.eq(0),
                first.eq(1),
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

        # A cycle after the tile ended, or its command came: the size of the present tile, and how long to wait for the next one.
        rows_end = Signal()
        cols_end = Signal()
        m.d.comb += [rows_end.eq(rows_left <= config.rows), cols_end.eq(cols_left <= tile_cols)]
        with m.If(ended | loaded):
            m.d.sync += [rows.eq(Mux(rows_end, rows_left, config.rows)), cols.eq(Mux(cols_end, cols_left, tile_cols))]
        with m.If(spacing != 0):
            m.d.sync += spacing.eq(spacing - 1)
        with m.If(finished):
            m.d.sync += columns_left.eq(cols)
        with m.Elif(columns_left != 0):
            m.d.sync += columns_left.eq(columns_left - 1)
        with m.If(ended):
            # Not over what the next command, should it just have come, brought with it.
            with m.If(~load):
                m.d.sync += last_cols.eq(cols_end)
            with m.If(~load & ~accept):
                m.d.sync += last_tile.eq(rows_end & cols_end)
            m.d.sync += [
                # The next tile's last step comes this many cycles after this one's: two have passed, two pass before it sees ``spaced``.
                spacing.eq(Mux(cols > self.least_spacing, cols, self.least_spacing) - 3),
                tile.rows.eq(rows),
                tile.cols.eq(cols),
            ]
        settled = Signal(self.tile_delay - 1)
        m.d.sync += [settled.eq(Cat(ended, settled)), leaves.eq(settled[-1])]
        with m.If(leaves):
            m.d.sync += self.tile.eq(tile)
        m.d.comb += [self.step.rows.eq(rows), self.step.cols.eq(cols)]
        return m
