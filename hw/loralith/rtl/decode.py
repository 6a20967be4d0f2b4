"""Checks a COMPUTE command before it runs, takes its tokens, and issues it to the sequencer."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from loralith.spec.commands import COMPUTE
from loralith.spec.config import Config
from loralith.spec.status import Check, Code

from .decode_fields import FieldCheck
from .decode_regions import RegionCheck
from .decode_shift import ShiftSearch, SlotScoreboard
from .interfaces import INDEX_BITS, CommandEntry, FaultSignature, StatReadSignature, WaitSignature, record_layout
from .results import Results
from .tile import CommandFlags, Plan, field

__all__ = ["ComputeDecoder"]


class ComputeDecoder(wiring.Component):
    """One command at a time: check (docs/machine.md, Checks), wait for tokens, set a device_shift's shift, offer the plan.

    The next command is checked while the sequencer runs the present one; a check takes about as many cycles as the
    longest extent (some twenty).

    Attributes:
        check_delay: cycles from a command without an error taken from its queue to its first ``wait``.
        offer_delay: from its tokens taken to its plan, where the device sets no shift.
        max_unrecorded: commands that may be issued and not yet recorded: those that `Results` can queue, and two in the sequencer.

    Members:
        commands: the compute queue.
        plans: checked commands.
        wait: tokens of the command.
        segment_due: semaphores of which the command before will still take tokens: this one takes none of them before that.
        exponent: the statistics slot of a command with ``device_shift``, read after its tokens and after all records of earlier commands.
        recorded: pulse: a command's record is in its slot from the next cycle but one on.
        fault: the first bad command; nothing more is taken.
        stop: take no command and no token.
        active: a command is taken and not yet issued.
    """

    check_delay = 1 + RegionCheck.delay + 1
    offer_delay = 1
    max_unrecorded = Results.queue_depth + 2

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "commands": In(stream.Signature(CommandEntry)),
                "plans": Out(stream.Signature(Plan)),
                "wait": Out(WaitSignature),
                "segment_due": In(field("segment_wait")),
                "exponent": Out(StatReadSignature),
                "recorded": In(1),
                "fault": Out(FaultSignature),
                "stop": In(1),
                "active": Out(1),
            }
        )

    def _plan(self, m: Module, command: data.View, regions: RegionCheck, search: ShiftSearch) -> None:
        """What is offered: the command's fields, the steps of its segments, and the shift that the device has set."""
        plan = self.plans.payload
        m.d.comb += [plan[name].eq(command[name]) for name, _ in Plan if name not in ("flags", "steps0", "steps1", "shift")]
        m.d.comb += [plan.flags[name].eq(command[name]) for name, _ in CommandFlags if name != "scale_n"]
        m.d.comb += [
            plan.steps0.eq(regions.steps[0]),
            plan.steps1.eq(regions.steps[1]),
            plan.shift.eq(Mux(command.device_shift & command.chained, search.shift, command.shift)),
            plan.flags.scale_n.eq(Mux(command.device_shift & ~command.chained, search.t, command.scale_n)),
        ]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        command = Signal(record_layout(COMPUTE))
        index = Signal(INDEX_BITS)
        m.submodules.fields = fields = FieldCheck(self.config)
        m.submodules.regions = regions = RegionCheck(self.config)
        m.submodules.search = search = ShiftSearch()
        m.submodules.slots = slots = SlotScoreboard(self.config, self.max_unrecorded)
        self._plan(m, command, regions, search)
        connect(m, search.exponent, flipped(self.exponent))
        waiting = Signal()  # in state WAIT: registered, since the semaphores are far away
        token_conflict = Signal()  # while a command is here it only falls: its predecessor was issued earlier
        m.d.comb += [
            fields.command.eq(command),
            regions.command.eq(command),
            search.command.eq(command),
            search.pending.eq(slots.pending),
            slots.issued.eq(self.plans.valid & self.plans.ready & command.stat_enable),
            slots.slot.eq(command.stat_slot),
            slots.recorded.eq(self.recorded),
            slots.lookup_slot.eq(command.exponent_slot),
            self.wait.mask.eq(command.wait),
            self.wait.valid.eq(waiting),
            self.fault.command.eq(index),
            self.active.eq(1),
        ]
        m.d.sync += token_conflict.eq((command.wait & self.segment_due).any())

        def fail(code: Code, detail: Check | Signal) -> None:
            m.d.sync += [self.fault.valid.eq(1), self.fault.code.eq(code), self.fault.detail.eq(detail), waiting.eq(0)]
            m.next = "FAULT"

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.active.eq(0), self.commands.ready.eq(~self.stop)]
                # Enabled whatever is there, so that so many registers need no clock enable of their own.
                m.d.sync += [command.eq(self.commands.payload.bits), index.eq(self.commands.payload.index)]
                with m.If(self.commands.valid & ~self.stop):
                    m.next = "SIZES"
            with m.State("SIZES"):
                m.d.comb += [fields.stage0.eq(1), regions.stage0.eq(1)]
                m.next = "LENGTHS"
            with m.State("LENGTHS"):
                m.d.comb += [fields.stage1.eq(1), regions.stage1.eq(1)]
                m.next = "FIELDS"
            with m.State("FIELDS"):
                m.d.comb += regions.stage2.eq(1)
                with m.If(~fields.reserved_ok):
                    fail(Code.BAD_FIELD, Check.RESERVED)
                with m.Elif(~fields.values_ok):
                    fail(Code.BAD_FIELD, Check.ENUM)
                with m.Elif(~fields.sizes_ok):
                    fail(Code.BAD_FIELD, Check.SIZE)
                with m.Else():
                    m.next = "EXTENTS"
            with m.State("EXTENTS"):
                # Extents start in the cycle before and drop done in this one, so that old results are not taken.
                with m.If(regions.done):
                    m.d.sync += waiting.eq(~token_conflict)
                    m.next = "WAIT"
                    with m.If(~regions.ok):
                        fail(Code.SCRATCHPAD_BOUNDS, regions.detail)
            with m.State("WAIT"):
                m.d.sync += waiting.eq(~token_conflict)
                with m.If(self.wait.ready | self.stop):
                    m.d.sync += waiting.eq(0)
                with m.If(self.wait.ready & ~self.stop):
                    m.next = "OFFER"
                    with m.If(command.device_shift):
                        m.d.comb += search.start.eq(1)
                        m.next = "SHIFT"
            with m.State("SHIFT"):
                with m.If(search.done):
                    m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += self.plans.valid.eq(1)
                with m.If(self.plans.ready):
                    m.next = "IDLE"
            with m.State("FAULT"):
                pass
        return m
