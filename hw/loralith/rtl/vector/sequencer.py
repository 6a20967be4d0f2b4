"""Runs a VECTOR command: instruction after instruction, each over its inner loop, for every outer iteration."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from loralith.rtl.interfaces import record_layout
from loralith.spec.status import Check, Code
from loralith.spec.vector.numbers import EXPONENT_BITS, FRACTION_BITS, ONE, WORD_BITS
from loralith.spec.vector.program import INSTRUCTION, LANE_REGISTERS, REGIONS, SCALARS, Function, Operand, Reduce, Source, Target

from .command import ADDRESS_BITS, COUNT_BITS, INSTRUCTION_BITS, VectorCommand
from .lane import CONSTANTS, LANE_WORDS
from .lane_group import LaneGroup

__all__ = ["VectorSequencer"]

WORDS = 2
"""Of 32 bits, in an instruction."""
CHECK_STEP = WORDS + 1
"""Of an instruction's set-up: all of it is there."""


class VectorSequencer(wiring.Component):
    """The control of the vector unit.

    Parameter: left, whether results may go to the left scratchpad.

    Members:
        command: taken with its last write; a command that faults is taken too.
        stop: end the command soon: what runs is finished, nothing else begins.
        done: a pulse with that. fault, fault_code, fault_detail, fault_instruction: with it, why the command ended before its time, and the
            instruction.
        moves: something goes on in this cycle; low while it waits for integers.
        range_fault: from the lanes and the reader of reductions. beyond, beyond_detail: see ``VectorAddresses``.
        program_address, program_data: the program memory, a word of 32 bits a cycle later. scalar_address, scalar_data: a scalar likewise.
        instruction: the running one. scale: exponent field of its scalar s2.
        constant_write, constant_number, constant_value: value for all lanes' word ``constant_number``.
        constant_load, constant_register: see ``LaneGroup``. x_constant_load: X takes ``constant_value``.
        fetch: two cycles after X's address and stride are there, or more: integers may be read from now on.
        start: before the first element: lanes forget (``clear``) and the hash takes ``index``. begin: a command begins.
        integers_valid: an INT32 word is there. issue: an element enters, which takes it; partial: see ``LaneGroup``.
        addresses: of X, Y and target for the iteration's first word; strides: from word to word.
        reduce_start, reduce_last: see ``ReductionReader``. busy: a command runs.
    """

    def __init__(self, left: bool = False) -> None:
        self._left = left
        layout = record_layout(INSTRUCTION)
        super().__init__(
            {
                "command": In(stream.Signature(VectorCommand)),
                "busy": Out(1),
                "done": Out(1),
                "stop": In(1),
                "moves": Out(1),
                "fault": Out(1),
                "fault_code": Out(8),
                "fault_detail": Out(8),
                "fault_instruction": Out(INSTRUCTION_BITS),
                "range_fault": In(1),
                "beyond": In(1),
                "beyond_detail": In(8),
                "program_address": Out(INSTRUCTION_BITS + 1),
                "program_data": In(32),
                "scalar_address": Out(range(SCALARS)),
                "scalar_data": In(WORD_BITS),
                "instruction": Out(layout),
                "scale": Out(EXPONENT_BITS),
                "constant_write": Out(1),
                "constant_number": Out(range(LANE_WORDS)),
                "constant_value": Out(WORD_BITS),
                "constant_load": Out(len(CONSTANTS)),
                "constant_register": Out(range(LANE_WORDS)),
                "x_constant_load": Out(1),
                "fetch": Out(1),
                "start": Out(1),
                "begin": Out(1),
                "clear": Out(1),
                "index": Out(32),
                "integers_valid": In(1),
                "issue": Out(1),
                "partial": Out(1),
                "addresses": Out(ADDRESS_BITS).array(3),
                "strides": Out(ADDRESS_BITS).array(3),
                "reduce_start": Out(1),
                "reduce_last": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        command, instruction = self.command.payload, self.instruction
        number, left, remaining = Signal(INSTRUCTION_BITS), Signal(INSTRUCTION_BITS + 1), Signal(COUNT_BITS)
        outer, first_outer, failed = Signal(COUNT_BITS), Signal(), Signal()
        step, wait = Signal(4), Signal(range(LaneGroup.delay + 2))
        last_outer = outer == 1
        reduces = (instruction.reduce != Reduce.NONE) & (~instruction.over_outer | last_outer)
        takes_integer = instruction.x_source == Source.OUT32
        issue, halts = Signal(), Signal()
        m.d.comb += halts.eq(failed | self.stop)
        with m.FSM() as control:
            with m.State("IDLE"):
                m.d.sync += [step.eq(0), outer.eq(command.outer), first_outer.eq(1), failed.eq(0), self.index.eq(command.index_base)]
                m.d.sync += [number.eq(command.first), left.eq(command.count)]
                m.d.comb += self.begin.eq(self.command.valid)
                with m.If(self.command.valid):
                    m.next = "REGIONS"
            with m.State("REGIONS"):  # the regions' addresses of this outer iteration
                m.d.sync += step.eq(step + 1)
                with m.If(step == REGIONS - 1):
                    m.d.sync += step.eq(0)
                    m.next = "SET UP"
            with m.State("SET UP"):
                m.d.sync += step.eq(step + 1)
                m.d.sync += remaining.eq(Mux(instruction.once, 1, command.inner))
                with m.If(self.start):
                    m.next = "RUN"
                with m.If((step == CHECK_STEP) & self._meaningless()):
                    self._fail(m, failed, Code.BAD_FIELD, Check.PROGRAM, number)
                    m.next = "DONE"
            with m.State("RUN"):
                m.d.comb += issue.eq((~takes_integer | self.integers_valid) & ~self.beyond)
                m.d.sync += wait.eq(LaneGroup.delay + 1)
                with m.If(issue):
                    m.d.sync += remaining.eq(remaining - 1)
                with m.If(self.beyond):
                    self._fail(m, failed, Code.SCRATCHPAD_BOUNDS, self.beyond_detail, number)
                with m.If(halts | self.beyond | (issue & (remaining == 1))):
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 0):
                    m.d.comb += self.reduce_start.eq(reduces & ~halts)
                    m.next = "NEXT"
                    with m.If(self.reduce_start):
                        m.next = "REDUCE"
            with m.State("REDUCE"):
                with m.If(self.reduce_last):
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += [step.eq(0), number.eq(number + 1), left.eq(left - 1)]
                m.next = "SET UP"
                with m.If(halts):
                    m.next = "DONE"
                with m.Elif(left == 1):
                    m.d.sync += [number.eq(command.first), left.eq(command.count), outer.eq(outer - 1), first_outer.eq(0)]
                    m.d.sync += self.index.eq(self.index + command.index_outer)
                    m.next = "REGIONS"
                    with m.If(last_outer):
                        m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += [self.command.ready.eq(1), self.done.eq(1), self.fault.eq(failed)]
                m.next = "IDLE"
        # Also where a later element was beyond its memory: what leaves the range after that came before it.
        with m.If(self.range_fault & self.busy):
            self._fail(m, failed, Code.VECTOR_RANGE, Check.NONE, number)
        in_last = Mux(command.partial_inner, (remaining == 1) & ~instruction.once, last_outer)
        m.d.comb += [self.busy.eq(~control.ongoing("IDLE")), self.issue.eq(issue), self.partial.eq(in_last)]
        m.d.comb += self.moves.eq(self.busy & (issue | ~control.ongoing("RUN")))
        m.d.comb += self.fetch.eq(control.ongoing("SET UP") & (step == CHECK_STEP + 2))
        m.d.comb += self.clear.eq(self.start & (instruction.reduce != Reduce.NONE) & (~instruction.over_outer | first_outer))
        self._set_up(m, control.ongoing("SET UP"), step, number)
        self._regions(m, control.ongoing("REGIONS"), control.ongoing("SET UP"), step, first_outer)
        return m

    def _fail(self, m: Module, failed: Signal, code: Code, detail: Check | Signal, number: Signal) -> None:
        m.d.sync += [failed.eq(1), self.fault_code.eq(code), self.fault_detail.eq(detail), self.fault_instruction.eq(number)]

    def _meaningless(self) -> Value:
        """Whether the instruction has a field without a meaning; see docs/machine.md, Checks."""
        code = self.instruction
        same = (code.y_source == code.x_source) & (code.y_source != Source.NONE)
        return (
            ((code.x_source > Source.SCALAR) | (code.x_source == Source.ROW_MAX))
            | ((code.y_source > Source.V1) | same)
            | (code.function > Function.SCALE)
            | (code.reduce > Reduce.TOP_ALL)
            | ((code.target > Target.SCALAR) | ((code.target == Target.LEFT) & (not self._left)))
        )

    def _set_up(self, m: Module, active, step: Signal, number: Signal) -> None:
        """Steps: both words of the instruction; its scalars; each operand's constant, written one step and loaded the next; X's."""
        instruction, bits = self.instruction, self.instruction.as_value()
        scalars, fetched = [Signal(WORD_BITS, name=f"scalar{i}") for i in range(2)], WORDS + 1
        m.d.comb += self.program_address.eq(Cat(step[0], number))
        with m.If(active & (step == 1)):
            m.d.sync += bits[:32].eq(self.program_data)
        with m.If(active & (step == WORDS)):
            m.d.sync += bits[32:].eq(self.program_data)
        m.d.comb += self.scalar_address.eq(Mux(step == fetched, instruction.s0, Mux(step == fetched + 1, instruction.s1, instruction.s2)))
        for at, scalar in enumerate(scalars):
            with m.If(active & (step == fetched + 1 + at)):
                m.d.sync += scalar.eq(self.scalar_data)
        with m.If(active & (step == fetched + 3)):
            m.d.sync += self.scale.eq(self.scalar_data[FRACTION_BITS : FRACTION_BITS + EXPONENT_BITS])
        first = fetched + 3
        for at, name in enumerate(CONSTANTS):
            operand, neutral = instruction[name], ONE if at % 2 == 0 else 0
            with m.If(step == first + at):
                m.d.comb += [
                    self.constant_write.eq(active),
                    self.constant_number.eq(LANE_REGISTERS + at),
                    self.constant_value.eq(Mux(operand == Operand.SCALAR, scalars[at // 2], neutral)),
                ]
            with m.If(step == first + at + 1):
                m.d.comb += [
                    self.constant_load[at].eq(active),
                    self.constant_register.eq(Mux(operand[-1], operand[:-1], LANE_REGISTERS + at)),
                ]
        last = first + len(CONSTANTS)
        with m.If(step == last):
            m.d.comb += [
                self.x_constant_load.eq(active),
                self.constant_value.eq(Mux(instruction.x_source == Source.SCALAR, scalars[0], 0)),
            ]
        m.d.comb += self.start.eq(active & (step == last + 1))

    def _regions(self, m: Module, update, active, step: Signal, first: Signal) -> None:
        """Each region's address, from iteration to iteration; at set-up those of X, Y and target, one a step."""
        instruction, regions = self.instruction, self.command.payload.regions
        running = Array(Signal(ADDRESS_BITS, name=f"running{i}") for i in range(REGIONS))
        region, updated = Signal(range(REGIONS)), Signal(range(REGIONS))
        chosen, address = regions[region], running[region]
        # The addition takes a cycle of its own; nobody reads the sum in the next two.
        adding, old, addend = Signal(), Signal(ADDRESS_BITS, reset_less=True), Signal(ADDRESS_BITS, reset_less=True)
        m.d.sync += adding.eq(update)
        with m.If(update):
            m.d.comb += region.eq(step)
            m.d.sync += [updated.eq(region), old.eq(Mux(first, 0, address)), addend.eq(Mux(first, chosen.base, chosen.outer_stride))]
        with m.If(adding):
            m.d.sync += running[updated].eq(old + addend)
        for at, select in enumerate((instruction.x_region, instruction.y_region, instruction.target_region)):
            with m.If(active & (step == WORDS + 1 + at)):
                m.d.comb += region.eq(select)
                m.d.sync += [self.addresses[at].eq(address), self.strides[at].eq(chosen.inner_stride)]
