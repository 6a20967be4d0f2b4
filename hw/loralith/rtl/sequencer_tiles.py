"""Which tile the array works on: its size, and where its operands and results lie."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.commands import ScaleMode
from loralith.spec.config import Config

from .sequencer_lookahead import PlanFacts
from .tile import COUNT_BITS, Plan, field

__all__ = ["TileAddresses", "TileCounter", "TilePlace"]

TilePlace = data.StructLayout(
    {
        "left_row": data.ArrayLayout(field("left0_base"), 2),
        "right_row": data.ArrayLayout(field("right0_base"), 2),
        "out_row": field("out_base"),
        "result_row": field("result_base"),
        "acc_row": field("acc_base"),
        "scale_word": field("scale_base"),
        "index": field("index_base"),
    }
)
"""Where a tile lies: the memory rows of its operands, for each segment, and the fields of ``Tile``; acc_row is that of column 0."""


class TileCounter(wiring.Component):
    """Counts the rows and columns of a command that are still to come, tile by tile; column blocks change fastest.

    Members:
        load, plan, facts: a command comes; its first tile is the present one from the next cycle on.
        last: a tile's last step leaves; the next tile is the present one from the next cycle on.
        n: first column of the present tile. first: it is its command's first one.
        last_col_block: it is the last one of its row block.
        rows, cols: its size, a cycle after it became the present one.
        ended: ``last``, a cycle later. size_known: ``ended``, where no command comes.
        is_last_tile: the present tile is its command's last one.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "load": In(1),
                "plan": In(Plan),
                "facts": In(PlanFacts),
                "last": In(1),
                "n": Out(field("n_cols")),
                "first": Out(1),
                "last_col_block": Out(1),
                "rows": Out(COUNT_BITS),
                "cols": Out(COUNT_BITS),
                "ended": Out(1),
                "size_known": Out(1),
                "is_last_tile": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        plan, facts = self.plan, self.facts
        n_cols = Signal.like(plan.n_cols)
        tile_cols = Signal.like(facts.tile_cols)
        rows_remaining = Signal.like(plan.m_rows)  # the present tile's included, and so of the columns
        cols_remaining = Signal.like(plan.n_cols)
        loaded = Signal()
        rows_end = Signal()
        cols_end = Signal()
        m.d.comb += [
            rows_end.eq(rows_remaining <= self.config.rows),
            cols_end.eq(cols_remaining <= tile_cols),
            self.size_known.eq(self.ended & ~self.load),
            self.is_last_tile.eq(rows_end & cols_end),
        ]
        m.d.sync += [self.ended.eq(self.last), loaded.eq(self.load)]
        with m.If(self.last):
            m.d.sync += self.first.eq(0)
            with m.If(~self.last_col_block):
                m.d.sync += [cols_remaining.eq(cols_remaining - tile_cols), self.n.eq(self.n + tile_cols)]
            with m.Else():
                m.d.sync += [cols_remaining.eq(n_cols), self.n.eq(0), rows_remaining.eq(rows_remaining - self.config.rows)]
        with m.If(self.size_known):  # else it is what the command that comes brings with it
            m.d.sync += self.last_col_block.eq(cols_end)
        with m.If(self.load):
            m.d.sync += [
                n_cols.eq(plan.n_cols),
                tile_cols.eq(facts.tile_cols),
                rows_remaining.eq(plan.m_rows),
                cols_remaining.eq(plan.n_cols),
                self.last_col_block.eq(facts.one_col_block),
                self.n.eq(0),
                self.first.eq(1),
            ]
        with m.If(self.ended | loaded):
            m.d.sync += [
                self.rows.eq(Mux(rows_end, rows_remaining, self.config.rows)),
                self.cols.eq(Mux(cols_end, cols_remaining, tile_cols)),
            ]
        return m


class TileAddresses(wiring.Component):
    """Addresses of the present tile, by addition of the command's strides.

    Members:
        load, plan, facts: a command comes; its first tile is the present one from the next cycle on.
        next_cols, next_rows: the next tile, in the same row block, or at the start of the next one, is the present one from the next
            cycle on.
        command: the present tile's.
        place: of the present tile.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "load": In(1),
                "plan": In(Plan),
                "facts": In(PlanFacts),
                "next_cols": In(1),
                "next_rows": In(1),
                "command": Out(Plan),
                "place": Out(TilePlace),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        plan, command, place = self.plan, self.command, self.place
        index_step = Signal.like(self.facts.index_step)
        index_row = Signal.like(plan.index_base)
        next_index_row = Signal.like(plan.index_base)
        m.d.comb += next_index_row.eq(index_row + (command.flags.index_row_stride << ceil_log2(self.config.rows)))
        with m.If(self.next_cols):
            m.d.sync += [
                place.right_row[0].eq(place.right_row[0] + command.right0_stride),
                place.right_row[1].eq(place.right_row[1] + command.right1_stride),
                place.index.eq(place.index + index_step),
            ]
        with m.If(self.next_rows):
            m.d.sync += [
                place.left_row[0].eq(place.left_row[0] + command.left0_stride),
                place.left_row[1].eq(place.left_row[1] + command.left1_stride),
                place.right_row[0].eq(command.right0_base),
                place.right_row[1].eq(command.right1_base),
                place.out_row.eq(place.out_row + command.out_stride),
                place.result_row.eq(place.result_row + command.result_stride),
                place.acc_row.eq(place.acc_row + command.acc_stride),
                place.scale_word.eq(place.scale_word + (command.flags.scale_mode == ScaleMode.ROW)),
                index_row.eq(next_index_row),
                place.index.eq(next_index_row),
            ]
        with m.If(self.load):
            m.d.sync += [
                command.eq(plan),
                index_step.eq(self.facts.index_step),
                place.left_row[0].eq(plan.left0_base),
                place.left_row[1].eq(plan.left1_base),
                place.right_row[0].eq(plan.right0_base),
                place.right_row[1].eq(plan.right1_base),
                place.out_row.eq(plan.out_base),
                place.result_row.eq(plan.result_base),
                place.acc_row.eq(plan.acc_base),
                place.scale_word.eq(plan.scale_base),
                index_row.eq(plan.index_base),
                place.index.eq(plan.index_base),
            ]
        return m
