"""The tile sequencer: turns a checked COMPUTE command into one step of the array per cycle."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from loralith.spec.config import Config

from .array import AccumulateMode
from .interfaces import SignalSignature, WaitSignature
from .pipeline import valid_bits
from .sequencer_control import Decision, StepControl
from .sequencer_lookahead import PlanLookahead
from .sequencer_spacing import TileSpacing
from .sequencer_tiles import TileAddresses, TileCounter
from .tile import Plan, Step, Tile, field

__all__ = ["Sequencer", "StepRegister"]


class StepRegister(wiring.Component):
    """Pipeline register of the step, between the decision and the operand path.

    Members:
        issue, decision, tile_ends, command_ends: see ``StepControl``.
        valid, step: a step leaves; its rows, columns and memory rows are added by the ``Sequencer``. segment: of that step.
        last, final: it is the last one of its tile, of its command.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "issue": In(1),
                "decision": In(Decision),
                "tile_ends": In(1),
                "command_ends": In(1),
                "valid": Out(1),
                "step": Out(Step),
                "segment": Out(1),
                "last": Out(1),
                "final": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        decision = self.decision
        m.d.sync += [self.valid.eq(self.issue), self.last.eq(self.tile_ends), self.final.eq(self.command_ends)]
        # Whether or not it goes: ``issue`` comes late.
        m.d.sync += [
            self.segment.eq(decision.segment),
            self.step.reads.eq(~decision.shifts),
            self.step.fold_log2.eq(decision.fold_log2),
            self.step.left_position.eq(Mux(decision.first, 0, decision.left_position)),
            self.step.right_position.eq(Mux(decision.first, 0, decision.right_position)),
            self.step.last.eq(decision.ends),
        ]
        depth = Mux(decision.last, Mux(decision.segment, decision.last_depth[1], decision.last_depth[0]), 1 << decision.fold_log2)
        m.d.sync += self.step.depth.eq(Mux(decision.shifts, 0, depth))
        with m.If(~decision.first):
            m.d.sync += self.step.accumulate_mode.eq(AccumulateMode.KEEP)
        with m.Elif(~decision.segment):
            m.d.sync += self.step.accumulate_mode.eq(AccumulateMode.CLEAR)
        with m.Elif(decision.shift == 0):
            m.d.sync += self.step.accumulate_mode.eq(AccumulateMode.KEEP)
        with m.Else():
            m.d.sync += self.step.accumulate_mode.eq(Mux(decision.shift >= 4, AccumulateMode.SHIFT4, AccumulateMode.SHIFT1))
        return m


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

    Attributes:
        start_delay: cycles from a plan at an idle sequencer to its first step. read_delay: from a command's last step to its read signal.
        tile_delay: see ``tile``. least_spacing, result_spacing: see ``TileSpacing``.
    """

    start_delay = 3
    read_delay = 1
    least_spacing = TileSpacing.least_spacing
    result_spacing = TileSpacing.result_spacing
    tile_delay = 5

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
                "segment_due": Out(field("segment_wait")),
                "read_signal": Out(SignalSignature),
                "active": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.lookahead = lookahead = PlanLookahead(self.config)
        m.submodules.control = control = StepControl(self.config)
        m.submodules.spacing = spacing = TileSpacing(self.config)
        m.submodules.leaving = leaving = StepRegister()
        m.submodules.counter = counter = TileCounter(self.config)
        m.submodules.addresses = addresses = TileAddresses(self.config)
        plan = self.plans.payload
        for block in (lookahead, control, counter, addresses):
            m.d.comb += block.plan.eq(plan)
        for block in (control, counter, addresses):
            m.d.comb += block.facts.eq(lookahead.facts)
        for block in (counter, addresses):
            m.d.comb += block.load.eq(lookahead.load)
        # A read signal that waits for its semaphore keeps the next command from its end. Changes but every ``least_spacing`` cycles.
        blocked = Signal()
        m.d.sync += blocked.eq(self.hold | self.read_signal.valid)
        m.d.comb += [
            lookahead.valid.eq(self.plans.valid),
            lookahead.accept.eq(control.accept),
            lookahead.stop.eq(self.stop),
            self.plans.ready.eq(lookahead.load),
            control.offer.eq(lookahead.offer),
            control.may_end.eq(spacing.may_end),
            control.hold.eq(blocked),
            control.size_known.eq(counter.size_known),
            control.is_last_tile.eq(counter.is_last_tile),
            control.stop.eq(self.stop),
            self.segment_due.eq(control.segment_due),
            spacing.flags.eq(plan.flags),
            spacing.accept.eq(control.accept),
            spacing.active.eq(control.active),
            spacing.tile_ends.eq(control.tile_ends),
            spacing.final.eq(leaving.final),
            spacing.ended.eq(counter.ended),
            spacing.cols.eq(counter.cols),
            *(getattr(leaving, name).eq(getattr(control, name)) for name in ("issue", "decision", "tile_ends", "command_ends")),
            counter.last.eq(leaving.last),
            addresses.next_cols.eq(leaving.last & ~counter.last_col_block),
            addresses.next_rows.eq(leaving.last & counter.last_col_block),
        ]
        connect(m, control.segment_wait, flipped(self.segment))

        place = addresses.place
        m.d.comb += [
            self.active.eq(control.active | leaving.valid),
            self.valid.eq(leaving.valid),
            self.step.eq(leaving.step),
            self.step.left_row.eq(Mux(leaving.segment, place.left_row[1], place.left_row[0])),
            self.step.right_row.eq(Mux(leaving.segment, place.right_row[1], place.right_row[0])),
            self.step.rows.eq(counter.rows),
            self.step.cols.eq(counter.cols),
            self.final.eq(leaving.final),
        ]

        # The read signal rises one cycle after the last step, whose operands are read two cycles later (`operands.py`): a load that waits
        # for it requests the bus first, and writes far later than that.
        with m.If(self.read_signal.valid & self.read_signal.ready):
            m.d.sync += self.read_signal.valid.eq(0)
        with m.If(leaving.final):
            m.d.sync += [self.read_signal.valid.eq(1), self.read_signal.mask.eq(addresses.command.read_signal)]

        # What the tile was, in two steps: its size is known a cycle later than its place.
        tile = Signal(Tile)
        with m.If(leaving.last):
            m.d.sync += [
                tile.flags.eq(addresses.command.flags),
                tile.fold_log2.eq(addresses.command.fold_log2),
                tile.first.eq(counter.first),
                tile.last.eq(leaving.final),
                tile.n.eq(counter.n),
                *(tile[name].eq(place[name]) for name in ("out_row", "result_row", "scale_word", "index")),
                tile.acc_word.eq(place.acc_row + counter.n),
            ]
        with m.If(counter.ended):
            m.d.sync += [tile.rows.eq(counter.rows), tile.cols.eq(counter.cols)]
        with m.If(valid_bits(m, counter.ended, self.tile_delay - 2)[-1]):
            m.d.sync += self.tile.eq(tile)
        return m
