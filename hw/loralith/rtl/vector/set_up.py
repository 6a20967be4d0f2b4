"""Sets an instruction up: its fields, scalars and addresses, while the elements of the one before it are on their way."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.enum import Enum
from amaranth.lib.wiring import In, Out

from loralith.rtl.interfaces import record_layout
from loralith.spec.vector.numbers import EXPONENT_BITS, FRACTION_BITS, WORD_BITS
from loralith.spec.vector.program import INSTRUCTION, REGIONS, SCALARS, Function, Reduce, Source, Target

from .command import ADDRESS_BITS, COUNT_BITS, INSTRUCTION_BITS, VectorCommand

__all__ = ["WORDS", "FetchJob", "VectorSetUp"]

WORDS = 2
"""32-bit words of an instruction."""
REGIONS_AHEAD = 2
"""Cycles before the first step in which regions are updated; the others are during the first steps."""
SCALAR_STEP = WORDS + 1
"""First step with the whole instruction fetched; addresses and scalars are read, one a cycle."""
LAST_STEP = SCALAR_STEP + 3

FetchJob = data.StructLayout({"address": ADDRESS_BITS, "stride": ADDRESS_BITS, "count": COUNT_BITS})
"""``count`` words, from ``address`` on, which counts on by ``stride``."""


class State(Enum, shape=2):
    IDLE = 0
    REGIONS = 1
    STEPS = 2
    READY = 3


class VectorSetUp(wiring.Component):
    """Sets up all instructions of a command in the order in which they run, each as soon as the one before it has started.

    Parameter: left, whether results may go to the left scratchpad.

    Members:
        begin: start with ``command``, which rests until all instructions have started. cancel: start no more of them.
        valid: an instruction is ready, with all that follows, from ``delay`` cycles after ``start`` on, or ``delay_iteration`` for the
            first one of an outer iteration. start: it starts; only with ``valid``.
        instruction, number: it, and which one it is. meaningless: it has a field without a meaning.
        opens: it is the first one of an outer iteration. last: of the command. first_outer, last_outer: of that outer iteration.
        addresses: of X, Y and target for the iteration's first word; strides: from word to word.
        scale: exponent field of scalar s2.
        scalars: s0 and s1; until three cycles after ``start``, and five.
        scalars_late: a result is on its way to a scalar: read none.
        fetch: integers of the output buffer that the instruction reads.
        program_address, program_data: the program memory, a word of 32 bits a cycle later. scalar_address, scalar_data: a scalar likewise.

    Attributes:
        delay, delay_iteration: see ``valid``. scalar_delay, fetch_delay: from ``start`` to the next instruction's first read of a scalar,
            and to its ``fetch``.
    """

    delay = LAST_STEP + 2
    delay_iteration = delay + REGIONS_AHEAD
    scalar_delay = SCALAR_STEP + 1
    fetch_delay = SCALAR_STEP + 2

    def __init__(self, left: bool = False) -> None:
        self._left = left
        super().__init__(
            {
                "command": In(VectorCommand),
                "begin": In(1),
                "cancel": In(1),
                "valid": Out(1),
                "start": In(1),
                "instruction": Out(record_layout(INSTRUCTION)),
                "number": Out(INSTRUCTION_BITS),
                "meaningless": Out(1),
                "opens": Out(1),
                "last": Out(1),
                "first_outer": Out(1),
                "last_outer": Out(1),
                "addresses": Out(ADDRESS_BITS).array(3),
                "strides": Out(ADDRESS_BITS).array(3),
                "scale": Out(EXPONENT_BITS),
                "scalars": Out(WORD_BITS).array(2),
                "scalars_late": In(1),
                "fetch": Out(stream.Signature(FetchJob)),
                "program_address": Out(INSTRUCTION_BITS + 1),
                "program_data": In(32),
                "scalar_address": Out(range(SCALARS)),
                "scalar_data": In(WORD_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        command, number = self.command, self.number
        state, step = Signal(State), Signal(range(LAST_STEP + 1))
        left, outer = Signal(INSTRUCTION_BITS + 1), Signal(COUNT_BITS)
        waits, ends = Signal(), Signal()
        m.d.comb += [waits.eq((step == SCALAR_STEP) & self.scalars_late), ends.eq(left == 1)]
        with m.Switch(state):
            with m.Case(State.IDLE):
                m.d.sync += [number.eq(command.first), left.eq(command.count), outer.eq(command.outer), self.first_outer.eq(1)]
                m.d.sync += [step.eq(0), self.opens.eq(1)]
                with m.If(self.begin):
                    m.d.sync += state.eq(State.REGIONS)
            with m.Case(State.REGIONS):
                m.d.sync += step.eq(step + 1)
                with m.If(step == REGIONS_AHEAD - 1):
                    m.d.sync += [step.eq(0), state.eq(State.STEPS)]
            with m.Case(State.STEPS):
                with m.If(~waits):
                    m.d.sync += step.eq(step + 1)
                with m.If(step == LAST_STEP):
                    m.d.sync += state.eq(State.READY)
            with m.Case(State.READY):
                with m.If(self.start):
                    m.d.sync += [number.eq(number + 1), left.eq(left - 1), step.eq(0), self.opens.eq(0), state.eq(State.STEPS)]
                with m.If(self.start & ends):
                    m.d.sync += [number.eq(command.first), left.eq(command.count), outer.eq(outer - 1), self.first_outer.eq(0)]
                    m.d.sync += [self.opens.eq(1), state.eq(Mux(self.last_outer, State.IDLE, State.REGIONS))]
        with m.If(self.cancel):
            m.d.sync += state.eq(State.IDLE)
        m.d.comb += [
            self.valid.eq((state == State.READY) & ~self.fetch.valid),
            self.last_outer.eq(outer == 1),
            self.last.eq(ends & self.last_outer),
        ]
        active = Signal()
        m.d.comb += active.eq(state == State.STEPS)
        self._read(m, active, step)
        self._regions(m, state == State.REGIONS, active, step)
        self._fetch(m, active & (step == SCALAR_STEP) & ~waits)
        m.d.sync += self.meaningless.eq(self._meaningless())
        return m

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

    def _read(self, m: Module, active: Value, step: Signal) -> None:
        """Both words of the instruction, then its scalars."""
        instruction, bits = self.instruction, self.instruction.as_value()
        m.d.comb += self.program_address.eq(Cat(step[0], self.number))
        for half in range(WORDS):
            with m.If(active & (step == half + 1)):
                m.d.sync += bits.word_select(half, 32).eq(self.program_data)
        names = (instruction.s0, instruction.s1, instruction.s2)
        m.d.comb += self.scalar_address.eq(Mux(step == SCALAR_STEP, names[0], Mux(step == SCALAR_STEP + 1, names[1], names[2])))
        for at in range(2):
            with m.If(active & (step == SCALAR_STEP + 1 + at)):
                m.d.sync += self.scalars[at].eq(self.scalar_data)
        with m.If(active & (step == LAST_STEP)):
            m.d.sync += self.scale.eq(self.scalar_data[FRACTION_BITS : FRACTION_BITS + EXPONENT_BITS])

    def _regions(self, m: Module, ahead: Value, active: Value, step: Signal) -> None:
        """Each region's address, from iteration to iteration; of an instruction those of X, Y and target, one a step."""
        instruction, regions = self.instruction, self.command.regions
        running = Array(Signal(ADDRESS_BITS, name=f"running{i}") for i in range(REGIONS))
        region, updated, update = Signal(range(REGIONS)), Signal(range(REGIONS)), Signal()
        chosen, address = regions[region], running[region]
        # The addition takes a cycle of its own; nobody reads the sum in the next two.
        adding, old, addend = Signal(), Signal(ADDRESS_BITS, reset_less=True), Signal(ADDRESS_BITS, reset_less=True)
        m.d.comb += update.eq(ahead | (active & self.opens & (step < REGIONS - REGIONS_AHEAD)))
        m.d.sync += adding.eq(update)
        with m.If(update):
            m.d.comb += region.eq(Mux(ahead, step, step + REGIONS_AHEAD))
            m.d.sync += [
                updated.eq(region),
                old.eq(Mux(self.first_outer, 0, address)),
                addend.eq(Mux(self.first_outer, chosen.base, chosen.outer_stride)),
            ]
        with m.If(adding):
            m.d.sync += running[updated].eq(old + addend)
        for at, select in enumerate((instruction.x_region, instruction.y_region, instruction.target_region)):
            with m.If(active & (step == SCALAR_STEP + at)):
                m.d.comb += region.eq(select)
                m.d.sync += [self.addresses[at].eq(address), self.strides[at].eq(chosen.inner_stride)]

    def _fetch(self, m: Module, begin: Value) -> None:
        """Integers are asked for once X's address is there."""
        job, instruction = self.fetch.payload, self.instruction
        with m.If(begin & (instruction.x_source == Source.OUT32)):
            m.d.sync += self.fetch.valid.eq(1)
        with m.Elif(self.fetch.ready | self.cancel):
            m.d.sync += self.fetch.valid.eq(0)
        m.d.comb += [
            job.address.eq(self.addresses[0]),
            job.stride.eq(self.strides[0]),
            job.count.eq(Mux(instruction.once, 1, self.command.inner)),
        ]
