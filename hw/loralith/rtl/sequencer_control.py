"""Which step of the array is next, and whether it may go."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.config import Config

from .interfaces import WaitSignature
from .sequencer_lookahead import PlanFacts
from .tile import FOLD_BITS, Plan, field

__all__ = ["Decision", "StepControl"]

Decision = data.StructLayout(
    {
        "segment": 1,
        "first": 1,
        "last": 1,
        "ends": 1,
        "shifts": 1,
        "shift": field("shift"),
        "fold_log2": field("fold_log2"),
        "last_depth": data.ArrayLayout(FOLD_BITS, 2),
        "left_position": field("k0"),
        "right_position": field("k0"),
    }
)
"""The step that is next.

Members:
    segment: of the reduction, 0 or 1. first, last: step of it. ends: it ends the tile.
    shifts: it only shifts the accumulators. shift: how far they are still to be shifted, this step included.
    fold_log2: of its command. last_depth: k of the last step of each segment.
    left_position, right_position: seq position of the first element read; meaningless on a first step, which reads from 0 on.
"""


class StepControl(wiring.Component):
    """Walks segments and k of one tile after the other, a step per cycle.

    Members:
        plan, facts: of the next command; it is accepted while ``offer``.
        may_end: a tile may end. hold: no command may end. Neither keeps a step from going that ends no tile.
        size_known, is_last_tile: whether the tile that comes is its command's last one becomes known in this cycle.
        stop: no step goes from the next cycle on.
        segment_wait: tokens that a second segment waits for. segment_due: those that the present command will still take so.
        active: a command is in progress.
        issue, decision: a step goes in this cycle, and which. ``decision`` is a register, and there also where no step goes.
        tile_ends, command_ends: it ends its tile, its command.
        accept: the next command's first step is next.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "plan": In(Plan),
                "facts": In(PlanFacts),
                "offer": In(1),
                "may_end": In(1),
                "hold": In(1),
                "size_known": In(1),
                "is_last_tile": In(1),
                "stop": In(1),
                "segment_wait": Out(WaitSignature),
                "segment_due": Out(field("segment_wait")),
                "active": Out(1),
                "issue": Out(1),
                "decision": Out(Decision),
                "tile_ends": Out(1),
                "command_ends": Out(1),
                "accept": Out(1),
            }
        )

    @staticmethod
    def _shifts(amount: Value) -> Value:
        """The shift takes steps of its own: all but the last stage, which the segment's first product takes along."""
        return (amount != 0) & (amount != 1) & (amount != 4)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        plan, facts, now = self.plan, self.facts, self.decision
        # A decision's inputs and outputs are all registered.
        waiting = Signal()
        chained = Signal()
        shift = Signal.like(plan.shift)
        steps = Signal.like(facts.steps)
        one_step = Signal.like(facts.one_step)
        fold = Signal(FOLD_BITS)
        steps_remaining = Signal.like(plan.steps0)  # in the segment, the present one included
        first_tile = Signal()
        last_tile = Signal()
        wait_mask = Signal.like(plan.segment_wait)
        m.d.comb += [
            fold.eq(1 << now.fold_log2),
            self.issue.eq(self.active & ~waiting & (~now.ends | (self.may_end & ~(last_tile & self.hold)))),
            self.tile_ends.eq(self.issue & now.ends),
            self.command_ends.eq(self.issue & now.ends & last_tile),
            # Without ``issue``, which many wait for: a command is accepted when none is active or the active one's last step goes.
            self.accept.eq(self.offer & (~self.active | (~waiting & now.ends & self.may_end & last_tile & ~self.hold))),
            self.segment_wait.valid.eq(waiting),
            self.segment_wait.mask.eq(wait_mask),
        ]
        with m.If(self.segment_wait.valid & self.segment_wait.ready):
            m.d.sync += [waiting.eq(0), self.segment_due.eq(0)]

        def begin(number: int, count: Value, only: Value, chains: Value, by: Value) -> None:
            """The first step of segment ``number`` is next."""
            stages = self._shifts(by) if number else 0
            m.d.sync += [
                now.segment.eq(number),
                now.first.eq(1),
                steps_remaining.eq(count),
                now.last.eq(only),
                now.shift.eq(by),
                now.shifts.eq(stages),
                now.ends.eq(only & ~stages if number else only & ~chains),
            ]

        # A step that ends no tile needs no ``issue``, which comes late: such a one always goes.
        moves = self.active & ~waiting
        with m.If(moves & now.shifts):
            remaining = Signal.like(shift)
            m.d.comb += remaining.eq(now.shift - Mux(now.shift >= 4, 4, 1))
            m.d.sync += [now.shift.eq(remaining), now.shifts.eq(self._shifts(remaining)), now.ends.eq(now.last & ~self._shifts(remaining))]
        with m.Elif(moves & ~now.last):
            m.d.sync += [
                now.first.eq(0),
                steps_remaining.eq(steps_remaining - 1),
                now.last.eq(steps_remaining == 2),
                now.ends.eq((steps_remaining == 2) & (now.segment | ~chained)),
                now.left_position.eq(Mux(now.first, 0, now.left_position) + fold),
                now.right_position.eq(Mux(now.first, 0, now.right_position) + 1),
            ]
        with m.Elif(self.issue):
            with m.If(chained & ~now.segment):
                begin(1, steps[1], one_step[1], chained, shift)
                m.d.sync += waiting.eq(first_tile & (wait_mask != 0))
            with m.Else():
                begin(0, steps[0], one_step[0], chained, shift)
                m.d.sync += first_tile.eq(0)
        with m.If(self.size_known & ~self.accept):
            m.d.sync += last_tile.eq(self.is_last_tile)
        with m.If(self.command_ends):
            m.d.sync += self.active.eq(0)
        with m.If(self.accept):
            begin(0, facts.steps[0], facts.one_step[0], plan.chained, plan.shift)
            m.d.sync += [
                self.active.eq(1),
                steps.eq(facts.steps),
                one_step.eq(facts.one_step),
                now.last_depth.eq(facts.last_depth),
                now.fold_log2.eq(plan.fold_log2[: ceil_log2(self.config.max_fold).bit_length()]),
                chained.eq(plan.chained),
                shift.eq(plan.shift),
                wait_mask.eq(plan.segment_wait),
                self.segment_due.eq(plan.segment_wait),
                first_tile.eq(1),
                last_tile.eq(facts.one_row_block & facts.one_col_block),
            ]
        # The signals that every step waits for do not depend on ``stop`` itself.
        with m.If(self.stop):
            m.d.sync += [self.active.eq(0), waiting.eq(0)]
        return m
