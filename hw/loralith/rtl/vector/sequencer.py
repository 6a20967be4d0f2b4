"""Runs a VECTOR command: instruction after instruction, each over its inner loop, for every outer iteration."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from loralith.rtl.interfaces import record_layout
from loralith.spec.status import Check, Code
from loralith.spec.vector.numbers import EXPONENT_BITS, ONE, WORD_BITS
from loralith.spec.vector.program import INSTRUCTION, LANE_REGISTERS, SCALARS, Operand, Reduce, Source, Target

from .command import ADDRESS_BITS, COUNT_BITS, INSTRUCTION_BITS, VectorCommand
from .hazards import VectorHazards
from .lane import CONSTANTS, LaneTiming
from .lane_group import LaneGroup
from .set_up import FetchRequest, VectorSetUp

__all__ = ["VectorSequencer"]


class VectorSequencer(wiring.Component):
    """The control of the vector unit.

    Parameter: left_target, whether an instruction may write to the left scratchpad.

    Members:
        command: taken with its last write; a command that faults is taken too.
        stop: end the command early: elements in the pipeline are finished, no more are issued.
        done: a pulse at the end of a command. fault, fault_code, fault_detail, fault_instruction: with it, why the command was aborted, and
            by which instruction.
        progress: the command advances in this cycle (for the watchdog); low while it waits for integers.
        range_fault: an element of instruction range_number is out of range; faults come in the order of words.
        reduce_fault: from ``ReductionReader``. out_of_bounds, bounds_detail: see ``VectorAddresses``.
        program_address, program_data, scalar_address, scalar_data, fetch: see ``VectorSetUp``.
        next_instruction, start, addresses, strides: the instruction that starts next; with ``start`` its addresses of X, Y and target for
            the iteration's first word, and their strides from word to word.
        instruction, number: the one whose elements enter, from the cycle after ``start``. scale: exponent field of its scalar s2.
        constant, constant_load, constant_lane, constant_register, x_constant_load: see ``LaneGroup``.
        begin: a command begins. clear, first, iteration, partial: see ``LaneGroup``.
        integers_valid: an INT32 word is available. issue: an element enters, and takes that word.
        reduce_start, reduce_last: see ``ReductionReader``. busy: a command runs.
    """

    def __init__(self, left_target: bool = False) -> None:
        self._left_target = left_target
        layout = record_layout(INSTRUCTION)
        super().__init__(
            {
                "command": In(stream.Signature(VectorCommand)),
                "busy": Out(1),
                "done": Out(1),
                "stop": In(1),
                "progress": Out(1),
                "fault": Out(1),
                "fault_code": Out(8),
                "fault_detail": Out(8),
                "fault_instruction": Out(INSTRUCTION_BITS),
                "range_fault": In(1),
                "range_number": In(INSTRUCTION_BITS),
                "reduce_fault": In(1),
                "out_of_bounds": In(1),
                "bounds_detail": In(8),
                "program_address": Out(INSTRUCTION_BITS + 1),
                "program_data": In(32),
                "scalar_address": Out(range(SCALARS)),
                "scalar_data": In(WORD_BITS),
                "fetch": Out(stream.Signature(FetchRequest)),
                "next_instruction": Out(layout),
                "start": Out(1),
                "addresses": Out(ADDRESS_BITS).array(3),
                "strides": Out(ADDRESS_BITS).array(3),
                "instruction": Out(layout),
                "number": Out(INSTRUCTION_BITS),
                "scale": Out(EXPONENT_BITS),
                "constant": Out(WORD_BITS),
                "constant_load": Out(len(CONSTANTS)),
                "constant_lane": Out(1),
                "constant_register": Out(range(LANE_REGISTERS)),
                "x_constant_load": Out(1),
                "begin": Out(1),
                "clear": Out(1),
                "first": Out(1),
                "iteration": Out(1),
                "partial": Out(1),
                "integers_valid": In(1),
                "issue": Out(1),
                "reduce_start": Out(1),
                "reduce_last": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        command, instruction = self.command.payload, self.instruction
        m.submodules.set_up = set_up = VectorSetUp(self._left_target)
        running, remaining, last = Signal(), Signal(COUNT_BITS), Signal()
        failed, reading, reduces = Signal(), Signal(), Signal()
        halt, can_start, last_issued = Signal(), Signal(), Signal()
        pipeline_empty = self._pipeline_empty(m)
        m.d.comb += [halt.eq(failed | self.stop), last_issued.eq(self.issue & (remaining == 1))]
        with m.FSM() as control:
            with m.State("IDLE"):
                m.d.sync += [failed.eq(0), running.eq(0), reading.eq(0)]
                m.d.comb += self.begin.eq(self.command.valid)
                with m.If(self.command.valid):
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += self.start.eq(can_start & ~set_up.illegal)
                with m.If(self.start):
                    m.d.sync += [running.eq(1), remaining.eq(Mux(set_up.instruction.once, 1, command.inner)), last.eq(set_up.last)]
                    m.d.sync += reduces.eq(self._reduces(set_up.instruction, set_up.last_iteration))
                with m.If(can_start & set_up.illegal):
                    self._fail(m, failed, Code.BAD_FIELD, Check.PROGRAM, set_up.number)
                with m.If(self.issue):
                    m.d.sync += remaining.eq(remaining - 1)
                with m.If(last_issued):
                    m.d.sync += running.eq(0)
                    with m.If(reduces):
                        m.next = "REDUCE"
                    with m.Elif(last):
                        m.next = "DRAIN"
                with m.If(running & self.out_of_bounds):
                    self._fail(m, failed, Code.SCRATCHPAD_BOUNDS, self.bounds_detail, self.number)
                with m.If(halt | (running & self.out_of_bounds) | (can_start & set_up.illegal)):
                    m.d.sync += running.eq(0)
                    m.next = "DRAIN"
            with m.State("REDUCE"):
                m.d.comb += self.reduce_start.eq(pipeline_empty & ~reading & ~halt)
                with m.If(self.reduce_start):
                    m.d.sync += reading.eq(1)
                with m.If(self.reduce_last):
                    m.d.sync += [reading.eq(0), reduces.eq(0)]
                with m.If(self.reduce_last | (halt & ~reading)):
                    m.next = "RUN"
                    with m.If(last | halt):
                        m.next = "DRAIN"
            with m.State("DRAIN"):
                with m.If(pipeline_empty):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += [self.command.ready.eq(1), self.done.eq(1), self.fault.eq(failed)]
                m.next = "IDLE"
        takes_integer = instruction.x_source == Source.OUT32
        m.d.comb += [
            self.busy.eq(~control.ongoing("IDLE")),
            self.issue.eq(running & (~takes_integer | self.integers_valid) & ~self.out_of_bounds),
            self.progress.eq(self.busy & ~(running & ~self.issue)),
        ]
        stall = self._stall(m, set_up, running)
        m.d.comb += can_start.eq(set_up.valid & ~running & ~stall & ~halt)
        m.d.comb += set_up.cancel.eq(halt & self.busy)
        reduction_pending = (running | control.ongoing("REDUCE")) & reduces & instruction.reduce_to
        m.d.comb += set_up.scalar_pending.eq(self._scalar_pending | (running & (instruction.target == Target.SCALAR)) | reduction_pending)
        self._range_faults(m, failed)
        self._begin_instruction(m, set_up, remaining)
        self._constants(m, set_up)
        return m

    def _fail(self, m: Module, failed: Signal, code: Code, detail: Check | Value, number: Value) -> None:
        m.d.sync += [failed.eq(1), self.fault_code.eq(code), self.fault_detail.eq(detail), self.fault_instruction.eq(number)]

    def _reduces(self, instruction, last_iteration: Value) -> Value:
        """Whether a reduction follows the elements."""
        return (instruction.reduce != Reduce.NONE) & (~instruction.over_outer | last_iteration)

    def _pipeline_empty(self, m: Module) -> Value:
        """No element is in the pipeline, and the last one's faults are known."""
        in_flight = Signal(range(LaneGroup.delay + 1))
        with m.If(self.issue):
            m.d.sync += in_flight.eq(LaneGroup.delay)
        with m.Elif(in_flight.any()):
            m.d.sync += in_flight.eq(in_flight - 1)
        return ~in_flight.any()

    def _stall(self, m: Module, set_up: VectorSetUp, running: Signal) -> Value:
        """Whether the next instruction must not start: the previous one's constants are in use, or an operand is not written yet."""
        gap = Signal(range(LaneTiming.gap))
        with m.If(self.issue):
            m.d.sync += gap.eq(LaneTiming.gap - 2)
        with m.Elif(gap.any()):
            m.d.sync += gap.eq(gap - 1)
        m.submodules.hazards = hazards = VectorHazards()
        m.d.comb += [
            hazards.next_instruction.eq(set_up.instruction),
            hazards.starts_iteration.eq(set_up.starts_iteration),
            hazards.target_advances.eq(set_up.strides[2].any()),
            hazards.running.eq(self.instruction),
            hazards.issue.eq(self.issue),
            hazards.stalled.eq(running & ~self.issue),
            hazards.start.eq(self.start),
        ]
        self._scalar_pending = hazards.scalar_pending
        return gap.any() | hazards.stall

    def _range_faults(self, m: Module, failed: Signal) -> None:
        """The first one is reported. It overrides a bounds fault, which is of a later word."""
        range_faulted = Signal()
        with m.If(self.begin):
            m.d.sync += range_faulted.eq(0)
        with m.If((self.range_fault | self.reduce_fault) & self.busy & ~range_faulted):
            self._fail(m, failed, Code.VECTOR_RANGE, Check.NONE, Mux(self.range_fault, self.range_number, self.number))
            m.d.sync += range_faulted.eq(1)

    def _begin_instruction(self, m: Module, set_up: VectorSetUp, remaining: Signal) -> None:
        """At ``start`` the decoded instruction moves to the registers of the running one."""
        connect(m, set_up.fetch, flipped(self.fetch))
        last_iteration, first_issued = Signal(), Signal()
        m.d.comb += [
            set_up.command.eq(self.command.payload),
            set_up.begin.eq(self.begin),
            set_up.start.eq(self.start),
            self.next_instruction.eq(set_up.instruction),
            self.program_address.eq(set_up.program_address),
            set_up.program_data.eq(self.program_data),
            self.scalar_address.eq(set_up.scalar_address),
            set_up.scalar_data.eq(self.scalar_data),
        ]
        for at in range(3):
            m.d.comb += [self.addresses[at].eq(set_up.addresses[at]), self.strides[at].eq(set_up.strides[at])]
        clear = (set_up.instruction.reduce != Reduce.NONE) & (~set_up.instruction.over_outer | set_up.first_iteration)
        m.d.sync += self.clear.eq(self.start & clear)
        with m.If(self.start):
            m.d.sync += [
                self.instruction.eq(set_up.instruction),
                self.number.eq(set_up.number),
                self.scale.eq(set_up.scale),
                self.iteration.eq(set_up.starts_iteration & ~set_up.first_iteration),
                last_iteration.eq(set_up.last_iteration),
                first_issued.eq(0),
            ]
        with m.Elif(self.issue):
            m.d.sync += first_issued.eq(1)
        in_last = Mux(self.command.payload.partial_inner, (remaining == 1) & ~self.instruction.once, last_iteration)
        m.d.comb += [self.partial.eq(in_last), self.first.eq(~first_issued)]

    def _constants(self, m: Module, set_up: VectorSetUp) -> None:
        """X's constant in the cycle after ``start``, then those of the operands, one a cycle."""
        instruction = self.instruction
        loads = Signal(1 + len(CONSTANTS))
        m.d.sync += loads.eq(Cat(self.start, loads))
        m.d.comb += [self.x_constant_load.eq(loads[0]), self.constant_load.eq(loads[1:])]
        m.d.comb += self.constant.eq(Mux(instruction.x_source == Source.SCALAR, set_up.scalars[0], 0))
        for at, name in enumerate(CONSTANTS):
            operand, neutral = instruction[name], ONE if at % 2 == 0 else 0
            with m.If(loads[1 + at]):
                m.d.comb += [
                    self.constant.eq(Mux(operand == Operand.SCALAR, set_up.scalars[at // 2], neutral)),
                    self.constant_lane.eq(operand[-1]),
                    self.constant_register.eq(operand[: len(self.constant_register)]),
                ]
