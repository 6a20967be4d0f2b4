"""The drain: shadow accumulators to one column of R sums per cycle, with fold sums and the accumulate buffer."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.commands import OutMode, ScaleMode
from loralith.spec.config import Config

from .drain_columns import ColumnCounter, FoldSum, LaneKeys
from .pipeline import delayed, valid_bits
from .ppu import IndexHash, LaneScale, PostProcessor
from .tile import Column, ResultFlags, Tile, field

__all__ = ["Drain"]


class Drain(wiring.Component):
    """Takes a tile at ``capture`` and gives its columns, one per cycle, ``delay`` cycles after the capture for the first.

    Members:
        capture, tile: the array copies its accumulators in this cycle; ``tile`` says what they are, and has done so for ``LaneKeys.delay``
            cycles.
        array_out, shift: the array's shadow accumulators, and whether they move in the next cycle.
        acc_*: the accumulate buffer's ports; scale_*: the scale memory's read port.
        valid, column, values, scales, mask: a column of R sums, to the post-processing unit.
        hash_valid, hash_keyed, hash_column, hash_key1: to the index hash, ``hash_lead`` cycles before ``valid``; key1 at
            its own, later time.
        active: columns are on their way.
    """

    delay = FoldSum.stages + 2
    hash_lead = IndexHash.delay - PostProcessor.hash_delay
    key1_delay = IndexHash.key1_delay

    def __init__(self, config: Config) -> None:
        self.config = config
        width = 32 * config.rows
        super().__init__(
            {
                "capture": In(1),
                "tile": In(Tile),
                "array_out": In(data.ArrayLayout(width, config.max_fold)),
                "shift": Out(1),
                "acc_read_en": Out(1),
                "acc_read_row": Out(field("acc_base")),
                "acc_read_data": In(width),
                "acc_write_en": Out(1),
                "acc_write_row": Out(field("acc_base")),
                "acc_write_data": Out(width),
                "scale_en": Out(1),
                "scale_row": Out(field("scale_base")),
                "scale_data": In(width),
                "valid": Out(1),
                "column": Out(Column),
                "values": Out(width),
                "scales": Out(data.ArrayLayout(LaneScale, config.rows)),
                "mask": Out(config.rows),
                "hash_valid": Out(1),
                "hash_keyed": Out(width),
                "hash_column": Out(field("index_base")),
                "hash_key1": Out(field("key1")),
                "active": Out(1),
            }
        )

    def _hash(self, m: Module, counter: ColumnCounter) -> None:
        """Index and keys of the present column, to the hash."""
        assert self.hash_lead == FoldSum.stages + 1
        m.submodules.lane_keys = lane_keys = LaneKeys(self.config.rows)
        keys = Signal.like(lane_keys.keys)
        m.d.comb += [lane_keys.key0.eq(self.tile.flags.key0), lane_keys.stride.eq(self.tile.flags.index_row_stride)]
        with m.If(self.capture & self.tile.flags.stochastic):
            m.d.sync += keys.eq(lane_keys.keys)
        m.d.comb += [
            self.hash_valid.eq(counter.active & counter.current.flags.stochastic),
            self.hash_keyed.eq(keys),
            self.hash_column.eq(counter.index),
            self.hash_key1.eq(delayed(m, counter.current.flags.key1, self.key1_delay, name="key1_")[-1]),
        ]

    def _skips(self, m: Module, valid: Value) -> list[Signal]:
        """For each stage of the fold's sum, the lane groups that belong to another column: with fold f all but every max_fold / f -th."""
        max_fold = self.config.max_fold
        skips = Signal(max_fold, name="skips0")
        for group in range(max_fold):
            within = Signal(name=f"within_{group}")
            m.d.comb += within.eq(((group << self.tile.fold_log2) & (max_fold - 1)) != 0)
            with m.If(self.capture):
                m.d.sync += skips[group].eq(within)
        return delayed(m, skips, FoldSum.stages - 1, name="skips", enables=valid)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows, log_rows = self.config.rows, ceil_log2(self.config.rows)

        # Stage 0: the tile's columns, one per cycle.
        m.submodules.counter = counter = ColumnCounter()
        tile = counter.current
        valid = valid_bits(m, counter.active, 4)
        m.d.comb += [
            counter.capture.eq(self.capture),
            counter.tile.eq(self.tile),
            self.shift.eq(self.capture | (counter.active & ~counter.last)),
        ]
        self._hash(m, counter)
        skips = self._skips(m, valid)

        # Stages 1 to 3: sum the groups of a folded tile; read the accumulate buffer and the scales meanwhile.
        present = Signal(Column)
        m.d.comb += [
            *(present.flags[name].eq(tile.flags[name]) for name, _ in ResultFlags),
            present.rows.eq(tile.rows),
            present.first.eq(counter.first),
            present.last.eq(tile.last & counter.last),
            present.n.eq(counter.n),
            present.out_row.eq(tile.out_row),
            present.result_row.eq(tile.result_row),
        ]
        columns = delayed(m, present, 4, name="column", enables=valid, reset_less=True)
        acc_words = delayed(m, counter.acc_word, 4, name="acc_word", enables=valid)
        by_row = counter.n >> log_rows
        scaled = Signal()
        with m.If(counter.active):
            m.d.sync += [
                self.scale_row.eq(Mux(tile.flags.scale_mode == ScaleMode.COLUMN, tile.scale_word + by_row, tile.scale_word)),
                scaled.eq((tile.flags.scale_mode != ScaleMode.TENSOR) & (tile.flags.out_mode == OutMode.INT8)),
            ]
        m.d.comb += [
            self.acc_read_en.eq(valid[1] & columns[1].flags.acc_read),
            self.acc_read_row.eq(acc_words[1]),
            self.scale_en.eq(valid[1] & scaled),
        ]
        vector = Signal()
        by_column = Signal()
        added = Signal()
        tensor = Signal(LaneScale)
        flags = columns[2].flags
        int8 = flags.out_mode == OutMode.INT8
        with m.If(valid[2]):
            m.d.sync += [
                added.eq(flags.acc_read),
                vector.eq(int8 & (flags.scale_mode != ScaleMode.TENSOR)),
                by_column.eq(flags.scale_mode == ScaleMode.COLUMN),
                tensor.m.eq(Mux(int8, flags.scale_m, 1)),
                tensor.n.eq(Mux(int8, flags.scale_n, 0)),
            ]
        # Register the memories' words without enable or reset so that they pack into the memories' output registers.
        entries = [Signal(LaneScale, name=f"entry_{lane}", reset_less=True) for lane in range(rows)]
        common = Signal(LaneScale)
        entry_bits = len(common.as_value())
        m.d.comb += common.eq(Cat(entry.as_value() for entry in entries).word_select(columns[3].n[:log_rows], entry_bits))
        for lane in range(rows):
            m.submodules[f"sum{lane}"] = total = FoldSum(self.config.max_fold)
            m.d.comb += [
                total.enables.eq(valid),
                *(port.eq(head.word_select(lane, 32)) for port, head in zip(total.sums, self.array_out, strict=True)),
                *(port.eq(skip) for port, skip in zip(total.skips, skips, strict=True)),
            ]
            old = Signal(32, name=f"old_{lane}", reset_less=True)
            m.d.sync += [
                old.eq(self.acc_read_data.word_select(lane, 32)),
                entries[lane].eq(self.scale_data.word_select(lane, 32)[:entry_bits]),
            ]
            with m.If(valid[3]):
                m.d.sync += [
                    self.values.word_select(lane, 32).eq(total.sum + Mux(added, old, 0)),
                    self.scales[lane].eq(Mux(vector, Mux(by_column, common, entries[lane]), tensor)),
                    self.mask[lane].eq(lane < columns[3].rows),
                ]

        # Stage 4: the column leaves; the sum goes back to the accumulate buffer.
        m.d.comb += [
            self.valid.eq(valid[4]),
            self.column.eq(columns[4]),
            self.acc_write_en.eq(valid[4] & columns[4].flags.acc_write),
            self.acc_write_row.eq(acc_words[4]),
            self.acc_write_data.eq(self.values),
            self.active.eq(valid.any()),
        ]
        return m
