"""The drain: shadow accumulators to one column of R sums per cycle, with fold sums and the accumulate buffer."""

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.commands import OutMode, ScaleMode
from loralith.spec.config import Config

from .ppu import IndexHash, LaneScale, PostProcessor
from .tile import Column, ResultFlags, Tile

__all__ = ["Drain"]


class Drain(wiring.Component):
    """Takes a tile at ``capture`` and gives its columns, one per cycle, ``delay`` cycles after the capture for the first.

    Members:
        capture, tile: the array copies its accumulators in this cycle; ``tile`` says what they are.
        heads, shift: the array's shadow accumulators, and whether they move in the next cycle.
        acc_*: the accumulate buffer's ports; scale_*: the scale memory's read port.
        valid, column, values, scales, mask: a column of R sums, to the post-processing unit.
        hash_valid, hash_keyed, hash_column, hash_key1: to the index hash, ``hash_lead`` cycles before ``valid``; key1 at
            its own, later time.
        active: columns are on their way.
    """

    fold_stages = 3
    delay = fold_stages + 2
    hash_lead = IndexHash.delay - PostProcessor.hash_delay
    key1_delay = IndexHash.key1_delay

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
        left = Signal(8)
        first = Signal()
        n = Signal(16)
        acc_word = Signal(16)
        index = Signal(32)
        lane_keys = self._lane_keys(m)
        keys = Signal(32 * rows)
        skips = [Signal(config.max_fold, name=f"skips{stage}") for stage in range(self.fold_stages)]
        last = Signal()
        m.d.comb += [last.eq(left == 1), self.shift.eq(self.capture | (active & ~last))]
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
                within = Signal(name=f"within_{group}")
                m.d.comb += within.eq(((group << self.tile.fold_log2) & (config.max_fold - 1)) != 0)
                m.d.sync += skips[0][group].eq(within)
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

        # Stages 1 to 3: sum the groups of a folded tile; read the accumulate buffer and the scales meanwhile.
        assert self.hash_lead == self.fold_stages + 1
        column = [Signal(Column, name=f"column{stage}", reset_less=True) for stage in range(5)]
        valid = Signal(4)
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
        for enable, (before, after) in zip(Cat(active, valid), pairwise(column), strict=False):
            with m.If(enable):
                m.d.sync += after.eq(before)
        words = [Signal(16, name=f"acc_word{stage}") for stage in range(1, 5)]
        scale_word = Signal(16)
        scaled = Signal()
        with m.If(active):
            m.d.sync += [
                words[0].eq(acc_word),
                scale_word.eq(Mux(tile.flags.scale_mode == ScaleMode.COLUMN, tile.scale_word + (n >> log_rows), tile.scale_word)),
                scaled.eq((tile.flags.scale_mode != ScaleMode.TENSOR) & (tile.flags.out_mode == OutMode.INT8)),
            ]
        for enable, (before, after) in zip(valid, pairwise(words), strict=False):
            with m.If(enable):
                m.d.sync += after.eq(before)
        m.d.comb += [
            self.acc_read_en.eq(valid[0] & column[1].flags.acc_read),
            self.acc_read_row.eq(words[0]),
            self.scale_en.eq(valid[0] & scaled),
            self.scale_row.eq(scale_word),
        ]
        for enable, (before, after) in zip(Cat(active, valid), pairwise(skips), strict=False):
            with m.If(enable):
                m.d.sync += after.eq(before)
        # The memories' words rest in registers before anything is made of them: plain ones, so that they are the memories' own.
        vector = Signal()
        by_column = Signal()
        added = Signal()
        plain = Signal(LaneScale)
        narrow = column[2].flags.out_mode == OutMode.INT8
        with m.If(valid[1]):
            m.d.sync += [
                added.eq(column[2].flags.acc_read),
                vector.eq(narrow & (column[2].flags.scale_mode != ScaleMode.TENSOR)),
                by_column.eq(column[2].flags.scale_mode == ScaleMode.COLUMN),
                plain.m.eq(Mux(narrow, column[2].flags.scale_m, 1)),
                plain.n.eq(Mux(narrow, column[2].flags.scale_n, 0)),
            ]
        entries = [Signal(LaneScale, name=f"entry_{lane}", reset_less=True) for lane in range(rows)]
        common = Signal(LaneScale)
        entry_bits = len(common.as_value())
        m.d.comb += common.eq(Cat(entry.as_value() for entry in entries).word_select(column[3].n[:log_rows], entry_bits))
        for lane in range(rows):
            total = self._fold_sum(m, lane, Cat(active, valid), skips)
            old = Signal(32, name=f"old_{lane}", reset_less=True)
            m.d.sync += [
                old.eq(self.acc_read_data.word_select(lane, 32)),
                entries[lane].eq(self.scale_data.word_select(lane, 32)[:entry_bits]),
            ]
            with m.If(valid[2]):
                m.d.sync += [
                    self.values.word_select(lane, 32).eq(total + Mux(added, old, 0)),
                    self.scales[lane].eq(Mux(vector, Mux(by_column, common, entries[lane]), plain)),
                    self.mask[lane].eq(lane < column[3].rows),
                ]

        # Stage 4: the column leaves; the sum goes back to the accumulate buffer.
        m.d.comb += [
            self.valid.eq(valid[3]),
            self.column.eq(column[4]),
            self.acc_write_en.eq(valid[3] & column[4].flags.acc_write),
            self.acc_write_row.eq(words[3]),
            self.acc_write_data.eq(self.values),
            self.active.eq(active | valid.any()),
        ]
        return m

    def _fold_sum(self, m: Module, lane: int, enables: Value, skips: list[Signal]) -> Value:
        """The sum of the lane groups but those that ``skips`` names, ``fold_stages`` registers later: a tree over as many stages."""
        nodes: list[Value] = [heads.word_select(lane, 32) for heads in self.heads]
        width = ceil_log2(len(nodes))
        arities = [1 << (width + stage) // self.fold_stages for stage in reversed(range(self.fold_stages))]
        nodes = [Mux(skips[0][i % arities[0]], 0, node) if i % arities[0] else node for i, node in enumerate(nodes)]
        span = 1
        for stage, (arity, following) in enumerate(pairwise([*arities, 1])):
            span *= arity
            sums: list[Value] = []
            for i, at in enumerate(range(0, len(nodes), arity)):
                register = Signal(32, name=f"sum{stage}_{i}_{lane}", reset_less=True)
                with m.If(enables[stage]):
                    m.d.sync += register.eq(sum(nodes[at + 1 : at + arity], start=nodes[at]))
                # What a smaller fold leaves out is zero from here on, so that the next stage need not choose; so it is without a column.
                if i % following:
                    with m.If(skips[stage][i % following * span]):
                        m.d.sync += register.eq(0)
                sums.append(register)
            nodes = sums
        return nodes[0]
