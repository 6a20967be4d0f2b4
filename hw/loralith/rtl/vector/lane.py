"""One lane: convert, multiply, add, function, multiply, add, pack."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, flipped

from loralith.spec.vector.numbers import SUM_BITS, WORD_BITS
from loralith.spec.vector.program import LANE_REGISTERS

from .add import Add
from .delay_line import RING_WORDS, DelayLine
from .from_integer import FromInteger
from .function_table import TableSignature
from .function_unit import FunctionUnit
from .lane_settings import LaneSettings, OperandSelect, XSelect, YSelect
from .multiply import Multiply
from .pack import RANDOM_BITS, Pack
from .reduction import RANK_BITS, ReductionAccumulator
from .word import Word

__all__ = ["CONSTANTS", "Lane", "LaneTiming"]

CONSTANTS = ("a", "b", "c", "d")
"""Operands that may be constants of an instruction."""


class LaneTiming:
    """Cycles from an element's INT32 to its other events."""

    vectors = FromInteger.delay
    """Its words of V0 and V1 are read."""
    a = vectors + 1
    b = a + Multiply.delay
    f = b + Add.delay
    c = f + FunctionUnit.delay
    d = c + Multiply.delay
    pack = d + Add.delay
    """The chain's result: the maximum takes it."""
    random = pack + Pack.random_delay
    result = pack + Pack.delay
    """What is stored; the sum takes its term."""
    faults = (b, f, c, d, pack, result)
    """A stage's faults are at its end."""
    settings = {
        **dict.fromkeys(("x", "y"), vectors),
        **dict.fromkeys(("a", "b", "c", "d", "a_negate"), a),
        "b_negate": b,
        "function": f - 1,
        "d_negate": d,
        **dict.fromkeys(("packing", "scale"), pack - 1),
        **dict.fromkeys(("comparing", "signed"), pack),
        "summing": result - 1,
    }
    """Each member of `LaneSettings` is sampled."""
    gap = 4
    """From an instruction's last element to the first one of the next, at least: as long as constants of four operands take."""


class Lane(wiring.Component):
    """A lane with its registers, sum and maximum.

    Members:
        enable, place: see ``StageRegisters`` and ``DelayLine``.
        settings: each member as it is for the element that is ``LaneTiming.settings`` cycles inside. x_constant: X of source SCALAR,
            sampled with ``settings.x``.
        integer: of an element; v0, v1, random: the same element's, at the cycles of ``LaneTiming``.
        constant_load: operand i of CONSTANTS takes ``constant``, or with ``constant_lane`` lane register ``constant_register``, for all
            elements that are at most LaneTiming.a - 1 cycles inside.
        register_write: lane register ``register_number`` takes ``register_word``.
        live: bit i: the element that is LaneTiming.faults[i] cycles inside is one of the tensor.
        clear_sum, clear_maximum: see ``Gather``.
        word, saturated: at LaneTiming.result; sum, maximum: a cycle after the last element's.
        fault: bit i: a live element left the range of numbers, one cycle after LaneTiming.faults[i].
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "enable": In(1),
                "pointer": In(range(RING_WORDS)),
                "settings": In(LaneSettings),
                "x_constant": In(Word),
                "integer": In(32),
                "v0": In(Word),
                "v1": In(Word),
                "random": In(RANDOM_BITS),
                "constant_load": In(len(CONSTANTS)),
                "constant": In(WORD_BITS),
                "constant_lane": In(1),
                "constant_register": In(range(LANE_REGISTERS)),
                "register_write": In(1),
                "register_number": In(range(LANE_REGISTERS)),
                "register_word": In(WORD_BITS),
                "live": In(len(LaneTiming.faults)),
                "clear_sum": In(1),
                "clear_maximum": In(1),
                "table": Out(TableSignature),
                "word": Out(WORD_BITS),
                "saturated": Out(1),
                "sum": Out(SUM_BITS),
                "maximum": Out(RANK_BITS),
                "fault": Out(len(LaneTiming.faults)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        x, y = self._streams(m)
        operands = self._operands(m, x, y)
        stages = {
            "xa": Multiply(),
            "add_b": Add(),
            "function": FunctionUnit(),
            "xc": Multiply(),
            "add_d": Add(),
            "pack": Pack(),
        }
        settings = self.settings
        value: Value = x
        for name, stage in stages.items():
            m.submodules[name] = stage
            m.d.comb += [stage.enable.eq(self.enable), stage.x.eq(value)]
            value = stage.word
        xa, add_b, function, xc, add_d, pack = stages.values()
        wiring.connect(m, function.table, flipped(self.table))
        for stage, operand, negate in (
            (xa, "a", settings.a_negate),
            (add_b, "b", settings.b_negate),
            (xc, "c", 0),
            (add_d, "d", settings.d_negate),
        ):
            m.d.comb += [stage.y.eq(operands[operand]), stage.negate.eq(negate)]
        m.d.comb += [
            function.function.eq(settings.function),
            pack.format.eq(settings.packing),
            pack.summing.eq(settings.summing),
            pack.scale.eq(settings.scale),
            pack.random.eq(self.random),
            self.word.eq(pack.word),
            self.saturated.eq(pack.saturated & self.live[-1]),
        ]
        m.d.sync += self.fault.eq(Cat(stage.fault for stage in stages.values()) & self.live)
        adding = Signal()
        m.d.sync += adding.eq(settings.summing)
        m.submodules.accumulator = accumulator = ReductionAccumulator()
        m.d.comb += [
            accumulator.clear_sum.eq(self.clear_sum),
            accumulator.clear_maximum.eq(self.clear_maximum),
            accumulator.summing.eq(adding & self.live[-1]),
            accumulator.term.eq(pack.term),
            accumulator.comparing.eq(settings.comparing & self.live[-2]),
            accumulator.word.eq(add_d.word),
            accumulator.signed.eq(settings.signed),
            self.sum.eq(accumulator.sum),
            self.maximum.eq(accumulator.maximum),
        ]
        return m

    def _streams(self, m: Module) -> tuple[Signal, Signal]:
        """X and Y at LaneTiming.a."""
        m.submodules.convert = convert = FromInteger()
        m.d.comb += [convert.enable.eq(self.enable), convert.integer.eq(self.integer)]
        x, y = Signal(WORD_BITS, reset_less=True), Signal(WORD_BITS, reset_less=True)
        with m.If(self.enable):
            with m.Switch(self.settings.x):
                for select, source in (
                    (XSelect.V0, self.v0),
                    (XSelect.V1, self.v1),
                    (XSelect.INTEGER, convert.word),
                    (XSelect.CONSTANT, self.x_constant),
                ):
                    with m.Case(select):
                        m.d.sync += x.eq(source)
            zero = self.settings.y == YSelect.ZERO
            m.d.sync += y.eq(Mux(zero, 0, Mux(self.settings.y == YSelect.V1, self.v1.as_value(), self.v0.as_value())))
        return x, y

    def _operands(self, m: Module, x: Signal, y: Signal) -> dict[str, Value]:
        """The second operand of each stage, when its first one is there."""
        m.submodules.registers = memory = Memory(shape=WORD_BITS, depth=LANE_REGISTERS, init=[])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(self.register_write),
            write.addr.eq(self.register_number),
            write.data.eq(self.register_word),
            read.addr.eq(self.constant_register),
        ]
        found: dict[str, Value] = {}
        for at, name in enumerate(CONSTANTS):
            constant = Signal(WORD_BITS, name=f"constant_{name}", reset_less=True)
            with m.If(self.constant_load[at]):
                m.d.sync += constant.eq(Mux(self.constant_lane, read.data, self.constant))
            select, chosen = self.settings[name], Signal(WORD_BITS, name=f"chosen_{name}")
            m.d.comb += chosen.eq(Mux(select == OperandSelect.X, x, Mux(select == OperandSelect.Y, y, constant)))
            m.submodules[f"delay_{name}"] = line = DelayLine(WORD_BITS, getattr(LaneTiming, name) - LaneTiming.a)
            m.d.comb += [line.enable.eq(self.enable), line.pointer.eq(self.pointer), line.i.eq(chosen)]
            found[name] = line.o
        return found
