"""The drain: shadow accumulators to one column of R sums per cycle, with fold sums and the accumulate buffer."""

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.commands import OutMode, ScaleMode
from loralith.spec.config import Config

from .ppu import LaneScale
from .tile import Column, ResultFlags, Tile

__all__ = ["Drain"]


class Drain(wiring.Component):
    """Takes a tile at ``capture`` and gives its columns, one per cycle, ``delay`` cycles after the capture for the first.

    Members:
        capture, tile: the array copies its accumulators in this cycle; ``tile`` says what they are.
        heads, shift: the array's shadow accumulators.
        acc_*: the accumulate buffer's ports; scale_*: the scale memory's read port.
        valid, column, values, scales, mask: a column of R sums, to the post-processing unit.
        hash_valid, hash_keyed, hash_column, hash_key1: to the index hash, ``hash_lead`` cycles before ``valid``; key1 at
            its own, later time.
        active: columns are on their way.
    """

    delay = 4
    hash_lead = 3
    key1_delay = 3

    def __init__(self, config: Config) -> None:
        self.config = config
        width = 32 * config.rows
        super().__init__(
            {
                "capture": In(1),
                "tile": In(Tile),
                "heads": In(data.ArrayLayout(width, config.max_fold)),
                "shift": Out(1),
                "acc_read_en": Out(1),
                "acc_read_row": Out(16),
                "acc_read_data": In(width),
                "acc_write_en": Out(1),
                "acc_write_row": Out(16),
                "acc_write_data": Out(width),
                "scale_en": Out(1),
                "scale_row": Out(16),
                "scale_data": In(width),
                "valid": Out(1),
                "column": Out(Column),
                "values": Out(width),
                "scales": Out(data.ArrayLayout(LaneScale, config.rows)),
                "mask": Out(config.rows),
                "hash_valid": Out(1),
                "hash_keyed": Out(width),
                "hash_column": Out(32),
                "hash_key1": Out(32),
                "active": Out(1),
            }
        )

    def _lane_keys(self, m: Module) -> Signal:
        """key0 + lane * index_row_stride per lane, ready three cycles after ``tile``, in time for the capture."""
        rows = self.config.rows
        stride = self.tile.flags.index_row_stride
        low_count = min(rows, 8)
        low = [Signal(32, name=f"offset_low_{i}", reset_less=True) for i in range(low_count)]
        high = [Signal(32, name=f"offset_high_{i}", reset_less=True) for i in range(rows // low_count)]
        for i, offset in enumerate(low):
            m.d.sync += offset.eq(sum((stride << b for b in range(3) if i >> b & 1), start=0))
        for i, offset in enumerate(high):
            m.d.sync += offset.eq(self.tile.flags.key0 + sum((stride << (3 + b) for b in range(3) if i >> b & 1), start=0))
        keys = Signal(32 * rows)
        for lane in range(rows):
            m.d.sync += keys.word_select(lane, 32).eq(low[lane % low_count] + high[lane // low_count])
        return keys

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        rows, log_rows = config.rows, ceil_log2(config.rows)

        # Stage 0: the tile's columns, one per cycle.
        tile = Signal(Tile)
        active = Signal()
        left, first = Signal(8), Signal()
        n, acc_word, index = Signal(16), Signal(16), Signal(32)
        lane_keys, keys = self._lane_keys(m), Signal(32 * rows)
        taps = Signal(config.max_fold)
        last = Signal()
        m.d.comb += [last.eq(left == 1), self.shift.eq(active & ~self.capture)]
        with m.If(self.capture):
            m.d.sync += [
                tile.eq(self.tile),
                active.eq(1),
                left.eq(self.tile.cols),
                first.eq(self.tile.first),
                n.eq(self.tile.n),
                acc_word.eq(self.tile.acc_word),
                index.eq(self.tile.index),
            ]
            for group in range(config.max_fold):
                # With fold f, the heads of every max_fold / f -th lane group belong to one output column.
                aligned = Signal(name=f"aligned_{group}")
                m.d.comb += aligned.eq(((group << self.tile.fold_log2) & (config.max_fold - 1)) == 0)
                m.d.sync += taps[group].eq(aligned)
            with m.If(self.tile.flags.stochastic):
                m.d.sync += keys.eq(lane_keys)
        with m.Elif(active):
            m.d.sync += [
                active.eq(~last),
                left.eq(left - 1),
                first.eq(0),
                n.eq(n + 1),
                acc_word.eq(acc_word + 1),
                index.eq(index + tile.flags.index_col_stride),
            ]
        key1 = [Signal(32, name=f"key1_{i}") for i in range(self.key1_delay)]
        m.d.sync += [key1[0].eq(tile.flags.key1)]
        m.d.sync += [after.eq(before) for before, after in pairwise(key1)]
        m.d.comb += [
            self.hash_valid.eq(active & tile.flags.stochastic),
            self.hash_keyed.eq(keys),
            self.hash_column.eq(index),
            self.hash_key1.eq(key1[-1]),
        ]

        # Stages 1 and 2: sum the groups of a folded tile; read the accumulate buffer and the scales meanwhile.
        column = [Signal(Column, name=f"column{stage}", reset_less=True) for stage in range(4)]
        valid = Signal(3)
        m.d.sync += valid.eq(Cat(active, valid))
        m.d.comb += [
            *(column[0].flags[name].eq(tile.flags[name]) for name, _ in data.Layout.cast(ResultFlags)),
            column[0].rows.eq(tile.rows),
            column[0].first.eq(first),
            column[0].last.eq(tile.last & last),
            column[0].n.eq(n),
            column[0].out_row.eq(tile.out_row),
            column[0].result_row.eq(tile.result_row),
        ]
        for stage, enable in enumerate(Cat(active, valid)[:3]):
            with m.If(enable):
                m.d.sync += column[stage + 1].eq(column[stage])
        words = [Signal(16, name=f"acc_word{stage}") for stage in (1, 2, 3)]
        scale_word, scaled = Signal(16), Signal()
        with m.If(active):
            m.d.sync += [
                words[0].eq(acc_word),
                scale_word.eq(Mux(tile.flags.scale_mode == ScaleMode.COLUMN, tile.scale_word + (n >> log_rows), tile.scale_word)),
                scaled.eq((tile.flags.scale_mode != ScaleMode.TENSOR) & (tile.flags.out_mode == OutMode.INT8)),
            ]
        with m.If(valid[0]):
            m.d.sync += words[1].eq(words[0])
        with m.If(valid[1]):
            m.d.sync += words[2].eq(words[1])
        m.d.comb += [
            self.acc_read_en.eq(valid[0] & column[1].flags.acc_read),
            self.acc_read_row.eq(words[0]),
            self.scale_en.eq(valid[0] & scaled),
            self.scale_row.eq(scale_word),
        ]
        for lane in range(rows):
            heads = [Mux(taps[g], self.heads[g].word_select(lane, 32), 0) for g in range(config.max_fold)]
            partial = []
            for at in range(0, len(heads), 4):
                register = Signal(32, name=f"partial_{lane}_{at}", reset_less=True)
                with m.If(active):
                    m.d.sync += register.eq(sum(heads[at + 1 : at + 4], start=heads[at]))
                partial.append(register)
            total = Signal(32, name=f"total_{lane}", reset_less=True)
            with m.If(valid[0]):
                m.d.sync += total.eq(sum(partial[1:], start=partial[0]))
            old = Mux(column[2].flags.acc_read, self.acc_read_data.word_select(lane, 32), 0)
            narrow = column[2].flags.out_mode == OutMode.INT8
            vector = column[2].flags.scale_mode != ScaleMode.TENSOR
            entry = Mux(
                column[2].flags.scale_mode == ScaleMode.COLUMN,
                self.scale_data.word_select(column[2].n[:log_rows], 32),
                self.scale_data.word_select(lane, 32),
            )
            with m.If(valid[1]):
                m.d.sync += [
                    self.values.word_select(lane, 32).eq(total + old),
                    self.scales[lane].m.eq(Mux(narrow, Mux(vector, entry[:16], column[2].flags.scale_m), 1)),
                    self.scales[lane].n.eq(Mux(narrow, Mux(vector, entry[16:22], column[2].flags.scale_n), 0)),
                    self.mask[lane].eq(lane < column[2].rows),
                ]

        # Stage 3: the column leaves; the sum goes back to the accumulate buffer.
        m.d.comb += [
            self.valid.eq(valid[2]),
            self.column.eq(column[3]),
            self.acc_write_en.eq(valid[2] & column[3].flags.acc_write),
            self.acc_write_row.eq(words[2]),
            self.acc_write_data.eq(self.values),
            self.active.eq(active | valid.any()),
        ]
        return m
