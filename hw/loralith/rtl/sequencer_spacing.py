"""When the next tile may end: not before the drain can take it, and not before earlier results that its command reads are written."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.config import Config

from .tile import COUNT_BITS, CommandFlags

__all__ = ["TileSpacing"]


class TileSpacing(wiring.Component):
    """Keeps the ends of tiles as far apart as the drain and the results need.

    A command that adds sums which the one before it writes, or that records a maximum as that one does, ends its first tile late enough
    for that one's last column to have left: ``result_spacing`` cycles more than its columns after that one's last step.

    Members:
        flags: of the next command. accept: its first step is decided in this cycle.
        active: a command is in progress.
        tile_ends: the last step of a tile is decided in this cycle.
        final: the last step of a command leaves, a cycle after it was decided.
        ended, cols: a tile's last step was decided two cycles ago, and the tile's columns.
        may_end: a tile's last step may be decided.

    Attributes:
        least_spacing: fewest cycles from one tile's last step to the next one's; the drain relies on it.
        result_spacing: cycles from a column's way into the drain to the first one that finds its sum in the accumulate buffer and its
            maximum recorded, less one. Commands further apart than neighbours are so by ``least_spacing``.
    """

    least_spacing = 5
    result_spacing = 3

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "flags": In(CommandFlags),
                "accept": In(1),
                "active": In(1),
                "tile_ends": In(1),
                "final": In(1),
                "ended": In(1),
                "cols": In(COUNT_BITS),
                "may_end": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The shadow accumulators can take a tile by the time that a step decided now would end it.
        spacing = Signal(range(max(self.config.cols, self.least_spacing)))
        shadow_free = Signal(init=1)
        next_shadow_free = Signal()
        m.d.comb += next_shadow_free.eq((shadow_free & ~self.tile_ends) | (spacing == 1))
        with m.If(spacing != 0):
            m.d.sync += spacing.eq(spacing - 1)
        with m.If(self.ended):
            # The next tile's last step comes this many cycles after this one's: two have passed, two pass before ``may_end`` is seen.
            m.d.sync += spacing.eq(Mux(self.cols > self.least_spacing, self.cols, self.least_spacing) - 3)

        # Read after write: the command before has results in the pipeline that this one's first tile would overtake.
        writes_sums = Signal()
        records = Signal()
        next_follows = Signal()
        hazard = Signal()
        next_hazard = Signal()
        finished = Signal()
        columns_remaining = Signal(range(self.config.cols + 1))  # of the last command's last tile, with some cycles before its first
        draining = self.final | finished | (columns_remaining > 1)
        m.d.comb += next_hazard.eq(Mux(self.accept, next_follows & (self.active | draining), hazard & draining))
        m.d.sync += [
            next_follows.eq((self.flags.acc_read & writes_sums) | (self.flags.stat_enable & records)),
            finished.eq(self.final),
        ]
        with m.If(self.accept):
            m.d.sync += [writes_sums.eq(self.flags.acc_write), records.eq(self.flags.stat_enable)]
        with m.If(finished):
            m.d.sync += columns_remaining.eq(self.cols)
        with m.Elif(columns_remaining != 0):
            m.d.sync += columns_remaining.eq(columns_remaining - 1)

        may_end = Signal(init=1)
        m.d.sync += [
            shadow_free.eq(next_shadow_free),
            hazard.eq(next_hazard),
            may_end.eq(next_shadow_free & ~next_hazard),
        ]
        m.d.comb += self.may_end.eq(may_end)
        return m
