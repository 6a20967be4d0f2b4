"""The drain's parts: a tile column by column, the hash keys of its rows, and the sum over a fold."""

from itertools import pairwise

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .tile import Tile, field

__all__ = ["ColumnCounter", "FoldSum", "LaneKeys"]


class ColumnCounter(wiring.Component):
    """Iterates over the columns of the current tile, one per cycle.

    Members:
        capture, tile: a new tile; its first column is output from the next cycle on.
        current: the tile. active: a column is output.
        first, last: column of its command, of the tile. n, acc_word, index: see ``Tile``, of the column.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "capture": In(1),
                "tile": In(Tile),
                "current": Out(Tile),
                "active": Out(1),
                "first": Out(1),
                "last": Out(1),
                "n": Out(field("n_cols")),
                "acc_word": Out(field("acc_base")),
                "index": Out(field("index_base")),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        remaining = Signal.like(self.tile.cols)
        m.d.comb += self.last.eq(remaining == 1)
        with m.If(self.capture):
            m.d.sync += [
                self.current.eq(self.tile),
                self.active.eq(1),
                remaining.eq(self.tile.cols),
                self.first.eq(self.tile.first),
                self.n.eq(self.tile.n),
                self.acc_word.eq(self.tile.acc_word),
                self.index.eq(self.tile.index),
            ]
        with m.Elif(self.active):
            m.d.sync += [
                self.active.eq(~self.last),
                remaining.eq(remaining - 1),
                self.first.eq(0),
                self.n.eq(self.n + 1),
                self.acc_word.eq(self.acc_word + 1),
                self.index.eq(self.index + self.current.flags.index_col_stride),
            ]
        return m


class LaneKeys(wiring.Component):
    """key0 + lane * index_row_stride of each lane, modulo 2**32, ``delay`` cycles later; at most 64 lanes.

    Members:
        key0, stride: of the tile. keys: 32 bits per lane, packed.
    """

    delay = 2

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__({"key0": In(field("key0")), "stride": In(field("index_row_stride")), "keys": Out(32 * lanes)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        low_count = min(self.lanes, 8)
        low = [Signal(32, name=f"offset_low_{i}", reset_less=True) for i in range(low_count)]
        high = [Signal(32, name=f"offset_high_{i}", reset_less=True) for i in range(self.lanes // low_count)]
        for i, offset in enumerate(low):
            m.d.sync += offset.eq(sum((self.stride << b for b in range(3) if i >> b & 1), start=0))
        for i, offset in enumerate(high):
            m.d.sync += offset.eq(self.key0 + sum((self.stride << (3 + b) for b in range(3) if i >> b & 1), start=0))
        for lane in range(self.lanes):
            m.d.sync += self.keys.word_select(lane, 32).eq(low[lane % low_count] + high[lane // low_count])
        return m


class FoldSum(wiring.Component):
    """The sum of one lane's groups, a tree over ``stages`` registers.

    Members:
        sums: of the groups, modulo 2**32. enables: bit s: stage s takes a column.
        skips: for each stage, of the column that it takes, the groups that are not to be added.
        sum: ``stages`` cycles later.
    """

    stages = 3

    def __init__(self, groups: int) -> None:
        self.groups = groups
        super().__init__(
            {
                "sums": In(data.ArrayLayout(32, groups)),
                "enables": In(self.stages),
                "skips": In(data.ArrayLayout(groups, self.stages)),
                "sum": Out(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = ceil_log2(self.groups)
        arities = [1 << (width + stage) // self.stages for stage in reversed(range(self.stages))]
        nodes: list[Value] = [Mux(self.skips[0][i], 0, head) if i % arities[0] else head for i, head in enumerate(self.sums)]
        span = 1
        for stage, (arity, following) in enumerate(pairwise([*arities, 1])):
            span *= arity
            sums: list[Value] = []
            for i, at in enumerate(range(0, len(nodes), arity)):
                register = Signal(32, name=f"sum{stage}_{i}", reset_less=True)
                with m.If(self.enables[stage]):
                    m.d.sync += register.eq(sum(nodes[at + 1 : at + arity], start=nodes[at]))
                # What a smaller fold leaves out is zero from here on, so that the next stage need not choose; so it is without a column.
                if i % following:
                    with m.If(self.skips[stage][i % following * span]):
                        m.d.sync += register.eq(0)
                sums.append(register)
            nodes = sums
        m.d.comb += self.sum.eq(nodes[0])
        return m
