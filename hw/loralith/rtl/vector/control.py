"""A VECTOR command from its queue to its tokens."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.enum import Enum
from amaranth.lib.wiring import In, Out, connect, flipped

from loralith.rtl.completion import Completion
from loralith.rtl.interfaces import (
    CommandEntry,
    FaultSignature,
    KeyWriteSignature,
    SignalSignature,
    UnitControl,
    WaitSignature,
    record_layout,
)
from loralith.spec.commands import VECTOR, VECTOR_REGIONS
from loralith.spec.config import Config
from loralith.spec.status import Check, Code
from loralith.spec.vector.program import PROGRAM_INSTRUCTIONS

from .command import INSTRUCTION_BITS, VectorCommand

__all__ = ["VectorControl"]


class State(Enum, shape=3):
    IDLE = 0
    OR_BITS = 1
    CHECK = 2
    WAIT = 3
    RUN = 4
    DONE = 5
    HALTED = 6


class VectorControl(wiring.Component):
    """Checks a command (docs/machine.md, Checks), takes its tokens, lets the vector unit run it, gives its tokens.

    A command stays in the queue's register until it has run: a copy would be 500 flip-flops, and the next one is there 128 / W + 2 cycles
    later.

    Members:
        commands: the queue. control, fault, wait, signal: see interfaces. ``busy`` stays after ``stop`` until the unit has ended.
        key_write: LOAD's, into the loaded key, which no reset clears.
        command: to the vector unit, with the key that its hash takes; valid until ``done``.
        stop: to the unit, end the command early. progress: the unit advances.
        done, unit_fault, unit_code, unit_detail, unit_instruction: how the command ended, see ``VectorSequencer``.
        active: the unit runs a command (for the cycle counters).
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__(
            {
                "commands": In(stream.Signature(CommandEntry)),
                "control": In(UnitControl),
                "fault": Out(FaultSignature),
                "wait": Out(WaitSignature),
                "signal": Out(SignalSignature),
                "key_write": In(KeyWriteSignature),
                "command": Out(stream.Signature(VectorCommand)),
                "stop": Out(1),
                "progress": In(1),
                "done": In(1),
                "unit_fault": In(1),
                "unit_code": In(8),
                "unit_detail": In(8),
                "unit_instruction": In(INSTRUCTION_BITS),
                "active": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        control, state = self.control, Signal(State)
        command = Signal(record_layout(VECTOR))
        m.submodules.completion = completion = Completion()
        connect(m, completion.signal, flipped(self.signal))
        stop = Signal()  # routed far
        m.d.sync += stop.eq(control.stop)
        m.d.comb += [
            command.eq(self.commands.payload.bits),
            completion.clear.eq(control.clear),
            completion.i.payload.eq(command.signal),
            completion.i.valid.eq(state == State.DONE),
            self.commands.ready.eq((state == State.DONE) & completion.i.ready),
            self.wait.mask.eq(command.wait),
            self.wait.valid.eq((state == State.WAIT) & ~stop),
            self.fault.command.eq(self.commands.payload.index),
            self.command.valid.eq(state == State.RUN),
            self.stop.eq(stop),
            self.active.eq(state == State.RUN),
            control.complete.eq(completion.complete),
            control.busy.eq(self.active | ((self.commands.valid | completion.pending) & ~control.stop)),
        ]
        m.d.sync += control.progress.eq(self.progress | (self.wait.valid & self.wait.ready) | (self.commands.valid & self.commands.ready))
        checks = self._checks(m, command)
        self._command(m, command)
        with m.Switch(state):
            with m.Case(State.IDLE):
                with m.If(self.commands.valid & ~stop):
                    m.d.sync += state.eq(State.OR_BITS)
            with m.Case(State.OR_BITS):
                m.d.sync += state.eq(State.CHECK)
            with m.Case(State.CHECK):
                m.d.sync += state.eq(State.WAIT)
                for bad, code, detail in reversed(checks):
                    with m.If(bad):
                        self._fail(m, state, code, detail, 0)
            with m.Case(State.WAIT):
                with m.If(self.wait.valid & self.wait.ready):
                    m.d.sync += state.eq(State.RUN)
            with m.Case(State.RUN):
                with m.If(self.done):
                    m.d.sync += state.eq(State.DONE)
                    with m.If(stop):
                        m.d.sync += state.eq(State.HALTED)
                    with m.Elif(self.unit_fault):
                        self._fail(m, state, self.unit_code, self.unit_detail, self.unit_instruction)
            with m.Case(State.DONE):
                with m.If(completion.i.ready):
                    m.d.sync += state.eq(State.IDLE)
        with m.If(control.clear):
            m.d.sync += [state.eq(State.IDLE), self.fault.valid.eq(0)]
        return m

    def _fail(self, m: Module, state, code, detail, instruction) -> None:
        fault = self.fault
        m.d.sync += [state.eq(State.HALTED), fault.valid.eq(1), fault.code.eq(code), fault.detail.eq(detail), fault.address.eq(instruction)]

    def _checks(self, m: Module, command) -> tuple[tuple[Signal, Code, Check], ...]:
        """What is wrong with the command, in the order of the checks; two cycles after it is there."""
        raw = command.as_value()
        reserved = [raw[bit] for bit in range(len(raw)) if VECTOR.reserved_mask >> bit & 1]
        parts = Signal(-(-len(reserved) // 16))
        reserved_set, size, program = Signal(), Signal(), Signal()
        program_end = Signal(INSTRUCTION_BITS + 2)
        m.d.sync += [
            parts.eq(Cat(Cat(reserved[at : at + 16]).any() for at in range(0, len(reserved), 16))),
            reserved_set.eq(parts.any()),
            size.eq(
                (command.count == 0)
                | (command.outer == 0)
                | (command.inner == 0)
                | (command.lanes == 0)
                | (command.lanes > self._config.vector_lanes)
            ),
            program_end.eq(command.first + command.count),
        ]
        m.d.comb += program.eq(program_end > PROGRAM_INSTRUCTIONS)
        return (
            (reserved_set, Code.BAD_FIELD, Check.RESERVED),
            (size, Code.BAD_FIELD, Check.SIZE),
            (program, Code.SCRATCHPAD_BOUNDS, Check.PROGRAM),
        )

    def _command(self, m: Module, command) -> None:
        """The command as the unit takes it: lanes as a mask, the loaded key mixed in."""
        payload = self.command.payload
        keys = [Signal(32, name=f"loaded{which}", reset_less=True) for which in range(2)]
        for which, key in enumerate(keys):
            with m.If(self.key_write.en & (self.key_write.which == which)):
                m.d.sync += key.eq(self.key_write.data)
            mixed = Signal(32, name=f"mixed{which}", reset_less=True)  # while the command waits for its tokens or is checked
            m.d.sync += mixed.eq(key ^ command[f"key{which}"])
            m.d.comb += payload[f"key{which}"].eq(mixed)
        mask = Signal(self._config.vector_lanes, reset_less=True)
        m.d.sync += mask.eq(Cat(command.lanes > lane for lane in range(self._config.vector_lanes)))
        m.d.comb += payload.lanes.eq(mask)
        for name in ("first", "count", "partial_inner", "outer", "inner", "index_base", "index_outer", "index_inner"):
            m.d.comb += payload[name].eq(command[name])
        for region in range(VECTOR_REGIONS):
            for name, field in (("base", "base"), ("outer_stride", "outer"), ("inner_stride", "inner")):
                m.d.comb += payload.regions[region][name].eq(command[f"region{region}_{field}"])
