"""Fetch and decode of an instruction, its scalars and its addresses, while the previous one's elements are in the pipeline."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.enum import Enum
from amaranth.lib.wiring import In, Out

from loralith.rtl.interfaces import record_layout
from loralith.spec.vector.numbers import EXPONENT_BITS, FRACTION_BITS, WORD_BITS
from loralith.spec.vector.program import INSTRUCTION, REGIONS, SCALARS, Function, Reduce, Source, Target

from .command import ADDRESS_BITS, COUNT_BITS, INSTRUCTION_BITS, VectorCommand

__all__ = ["INSTRUCTION_WORDS", "FetchRequest", "VectorSetUp"]

INSTRUCTION_WORDS = 2
"""32-bit words of an instruction."""
REGIONS_AHEAD = 2
"""Regions whose addresses are updated before the first step; the others are updated during the first steps."""
SCALAR_STEP = INSTRUCTION_WORDS + 1
"""First step in which both instruction words are there. From here on addresses and scalars are read, one per cycle."""
LAST_STEP = SCALAR_STEP + 3

FetchRequest = data.StructLayout({"address": ADDRESS_BITS, "stride": ADDRESS_BITS, "count": COUNT_BITS})
"""A read of ``count`` words, the first one at ``address``, then every ``stride``."""


class State(Enum, shape=2):
    IDLE = 0
    REGIONS = 1
    STEPS = 2
    READY = 3


class VectorSetUp(wiring.Component):
    """Fetches and decodes a command's instructions in program order, each one as soon as the previous one has started.

    Parameter: left_target, whether an instruction may write to the left scratchpad.

    Members:
        begin: start with ``command``, which is stable until all instructions have started. cancel: start no more of them.
        valid: the next instruction and all outputs below are ready; ``delay`` cycles after ``start``, or ``delay_iteration`` for the first
            instruction of an outer iteration. start: it starts; only with ``valid``.
        instruction, number: its fields, and its index in the program memory. illegal: a field has an undefined value.
        starts_iteration: it is the first instruction of an outer iteration. last: it is the last one of the command. first_iteration,
            last_iteration: the outer iteration is the first or the last one.
        addresses: of X, Y and target for the iteration's first word; strides: from word to word.
        scale: exponent field of scalar s2.
        scalars: s0 and s1; held until three and five cycles after ``start``.
        scalar_pending: a write to a scalar is in flight, so that no scalar may be read.
        fetch: the output buffer's integers that the instruction reads.
        program_address, program_data: read port of the program memory, 32 bits, latency 1. scalar_address, scalar_data: likewise of the
            scalars.

    Attributes:
        delay, delay_iteration: see ``valid``. scalar_delay, fetch_delay: from ``start`` to the next instruction's first read of a scalar,
            and to its ``fetch``.
    """

    delay = LAST_STEP + 2
    delay_iteration = delay + REGIONS_AHEAD
    scalar_delay = SCALAR_STEP + 1
    fetch_delay = SCALAR_STEP + 2

    def __init__(self, left_target: bool = False) -> None:
        self._left_target = left_target
        super().__init__(
            {
                "command": In(VectorCommand),
                "begin": In(1),
                "cancel": In(1),
                "valid": Out(1),
                "start": In(1),
                "instruction": Out(record_layout(INSTRUCTION)),
                "number": Out(INSTRUCTION_BITS),
                "illegal": Out(1),
                "starts_iteration": Out(1),
                "last": Out(1),
                "first_iteration": Out(1),
                "last_iteration": Out(1),
                "addresses": Out(ADDRESS_BITS).array(3),
                "strides": Out(ADDRESS_BITS).array(3),
                "scale": Out(EXPONENT_BITS),
                "scalars": Out(WORD_BITS).array(2),
                "scalar_pending": In(1),
                "fetch": Out(stream.Signature(FetchRequest)),
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
        remaining, outer = Signal(INSTRUCTION_BITS + 1), Signal(COUNT_BITS)
        scalar_stall, last_of_iteration = Signal(), Signal()
        m.d.comb += [scalar_stall.eq((step == SCALAR_STEP) & self.scalar_pending), last_of_iteration.eq(remaining == 1)]
        with m.Switch(state):
            with m.Case(State.IDLE):
                m.d.sync += [number.eq(command.first), remaining.eq(command.count), outer.eq(command.outer), self.first_iteration.eq(1)]
                m.d.sync += [step.eq(0), self.starts_iteration.eq(1)]
                with m.If(self.begin):
                    m.d.sync += state.eq(State.REGIONS)
            with m.Case(State.REGIONS):
                m.d.sync += step.eq(step + 1)
                with m.If(step == REGIONS_AHEAD - 1):
                    m.d.sync += [step.eq(0), state.eq(State.STEPS)]
            with m.Case(State.STEPS):
                with m.If(~scalar_stall):
                    m.d.sync += step.eq(step + 1)
                with m.If(step == LAST_STEP):
                    m.d.sync += state.eq(State.READY)
            with m.Case(State.READY):
                with m.If(self.start):
                    m.d.sync += [
                        number.eq(number + 1),
                        remaining.eq(remaining - 1),
                        step.eq(0),
                        self.starts_iteration.eq(0),
                        state.eq(State.STEPS),
                    ]
                with m.If(self.start & last_of_iteration):
                    m.d.sync += [number.eq(command.first), remaining.eq(command.count), outer.eq(outer - 1), self.first_iteration.eq(0)]
                    m.d.sync += [self.starts_iteration.eq(1), state.eq(Mux(self.last_iteration, State.IDLE, State.REGIONS))]
        with m.If(self.cancel):
            m.d.sync += state.eq(State.IDLE)
        m.d.comb += [
            self.valid.eq((state == State.READY) & ~self.fetch.valid),
            self.last_iteration.eq(outer == 1),
            self.last.eq(last_of_iteration & self.last_iteration),
        ]
        active = Signal()
        m.d.comb += active.eq(state == State.STEPS)
        self._read(m, active, step)
        self._regions(m, state == State.REGIONS, active, step)
        self._fetch(m, active & (step == SCALAR_STEP) & ~scalar_stall)
        m.d.sync += self.illegal.eq(self._illegal())
        return m

    def _illegal(self) -> Value:
        """Whether a field has an undefined value; see docs/machine.md, Checks."""
        code = self.instruction
        same_source = (code.y_source == code.x_source) & (code.y_source != Source.NONE)
        return (
            ((code.x_source > Source.SCALAR) | (code.x_source == Source.ROW_MAX))
            | ((code.y_source > Source.V1) | same_source)
            | (code.function > Function.SCALE)
            | (code.reduce > Reduce.TOP_ALL)
            | ((code.target > Target.SCALAR) | ((code.target == Target.LEFT) & (not self._left_target)))
        )

    def _read(self, m: Module, active: Value, step: Signal) -> None:
        """Read both words of the instruction, then its scalars."""
        instruction, bits = self.instruction, self.instruction.as_value()
        m.d.comb += self.program_address.eq(Cat(step[0], self.number))
        for half in range(INSTRUCTION_WORDS):
            with m.If(active & (step == half + 1)):
                m.d.sync += bits.word_select(half, 32).eq(self.program_data)
        m.d.comb += self.scalar_address.eq(
            Mux(step == SCALAR_STEP, instruction.s0, Mux(step == SCALAR_STEP + 1, instruction.s1, instruction.s2))
        )
        for at in range(2):
            with m.If(active & (step == SCALAR_STEP + 1 + at)):
                m.d.sync += self.scalars[at].eq(self.scalar_data)
        with m.If(active & (step == LAST_STEP)):
            m.d.sync += self.scale.eq(self.scalar_data[FRACTION_BITS : FRACTION_BITS + EXPONENT_BITS])

    def _regions(self, m: Module, ahead: Value, active: Value, step: Signal) -> None:
        """Advance each region's address once per outer iteration; read those of X, Y and target, one per step."""
        instruction, regions = self.instruction, self.command.regions
        current = Array(Signal(ADDRESS_BITS, name=f"current{i}") for i in range(REGIONS))
        region, written, update = Signal(range(REGIONS)), Signal(range(REGIONS)), Signal()
        fields, address = regions[region], current[region]
        # Pipeline register in front of the adder. No address is read in the two cycles after its update.
        add_valid, augend, addend = Signal(), Signal(ADDRESS_BITS, reset_less=True), Signal(ADDRESS_BITS, reset_less=True)
        m.d.comb += update.eq(ahead | (active & self.starts_iteration & (step < REGIONS - REGIONS_AHEAD)))
        m.d.sync += add_valid.eq(update)
        with m.If(update):
            m.d.comb += region.eq(Mux(ahead, step, step + REGIONS_AHEAD))
            m.d.sync += [
                written.eq(region),
                augend.eq(Mux(self.first_iteration, 0, address)),
                addend.eq(Mux(self.first_iteration, fields.base, fields.outer_stride)),
            ]
        with m.If(add_valid):
            m.d.sync += current[written].eq(augend + addend)
        for at, select in enumerate((instruction.x_region, instruction.y_region, instruction.target_region)):
            with m.If(active & (step == SCALAR_STEP + at)):
                m.d.comb += region.eq(select)
                m.d.sync += [self.addresses[at].eq(address), self.strides[at].eq(fields.inner_stride)]

    def _fetch(self, m: Module, begin: Value) -> None:
        """Request the integers in the cycle after X's address is read."""
        request, instruction = self.fetch.payload, self.instruction
        with m.If(begin & (instruction.x_source == Source.OUT32)):
            m.d.sync += self.fetch.valid.eq(1)
        with m.Elif(self.fetch.ready | self.cancel):
            m.d.sync += self.fetch.valid.eq(0)
        m.d.comb += [
            request.address.eq(self.addresses[0]),
            request.stride.eq(self.strides[0]),
            request.count.eq(Mux(instruction.once, 1, self.command.inner)),
        ]
