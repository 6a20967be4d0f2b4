"""One lane: convert, multiply, add, function, multiply, add, pack."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, flipped

from loralith.spec.vector.numbers import SUM_BITS, WORD_BITS
from loralith.spec.vector.program import LANE_REGISTERS

from .add import Add
from .delay_line import RING, DelayLine
from .from_integer import FromInteger
from .function_table import TableSignature
from .function_unit import FunctionUnit
from .lane_settings import LaneSettings, OperandSelect, XSelect, YSelect
from .multiply import Multiply
from .pack import RANDOM_BITS, Pack
from .reduction import RANK_BITS, Gather
from .word import Word

__all__ = ["CONSTANTS", "LANE_WORDS", "Lane", "LaneTiming"]

CONSTANTS = ("a", "b", "c", "d")
"""Operands that may be constants of an instruction."""
LANE_WORDS = 2 * LANE_REGISTERS
"""Words of a lane's LUT RAM: the lane registers, then room for what the instruction's constants are loaded from."""


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


class Lane(wiring.Component):
    """A lane with its registers, sum and maximum. Constants of an instruction, ``settings`` among them, rest while an element is inside.

    Members:
        enable, place: see ``StageRegisters`` and ``DelayLine``.
        settings: see ``LaneSettings``. x_constant: X of source SCALAR.
        integer: of an element; v0, v1, random: the same element's, at the cycles of ``LaneTiming``.
        constant_load: operand i of CONSTANTS takes word ``constant_register`` of the lane.
        register_write: word ``register_number`` of the lane takes ``register_word``; the first LANE_REGISTERS are its registers.
        live: bit i: the element that is LaneTiming.faults[i] cycles inside is one of the tensor.
        clear: of the one that ``settings`` use, sum or maximum.
        word, saturated: at LaneTiming.result; sum, maximum: a cycle after the last element's.
        fault: a live element left the range of numbers; one cycle after its stage.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "enable": In(1),
                "place": In(range(RING)),
                "settings": In(LaneSettings),
                "x_constant": In(Word),
                "integer": In(32),
                "v0": In(Word),
                "v1": In(Word),
                "random": In(RANDOM_BITS),
                "constant_load": In(len(CONSTANTS)),
                "constant_register": In(range(LANE_WORDS)),
                "register_write": In(1),
                "register_number": In(range(LANE_WORDS)),
                "register_word": In(WORD_BITS),
                "live": In(len(LaneTiming.faults)),
                "clear": In(1),
                "table": Out(TableSignature),
                "word": Out(WORD_BITS),
                "saturated": Out(1),
                "sum": Out(SUM_BITS),
                "maximum": Out(RANK_BITS),
                "fault": Out(1),
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
        m.d.sync += self.fault.eq((Cat(stage.fault for stage in stages.values()) & self.live).any())
        m.submodules.gather = gather = Gather()
        m.d.comb += [
            gather.clear_sum.eq(self.clear & settings.summing),
            gather.clear_maximum.eq(self.clear & settings.comparing),
            gather.summing.eq(settings.summing & self.live[-1]),
            gather.term.eq(pack.term),
            gather.comparing.eq(settings.comparing & self.live[-2]),
            gather.word.eq(add_d.word),
            gather.signed.eq(settings.signed),
            self.sum.eq(gather.sum),
            self.maximum.eq(gather.maximum),
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
        m.submodules.registers = memory = Memory(shape=WORD_BITS, depth=LANE_WORDS, init=[])
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
                m.d.sync += constant.eq(read.data)
            select, chosen = self.settings[name], Signal(WORD_BITS, name=f"chosen_{name}")
            m.d.comb += chosen.eq(Mux(select == OperandSelect.X, x, Mux(select == OperandSelect.Y, y, constant)))
            m.submodules[f"delay_{name}"] = line = DelayLine(WORD_BITS, getattr(LaneTiming, name) - LaneTiming.a)
            m.d.comb += [line.enable.eq(self.enable), line.place.eq(self.place), line.i.eq(chosen)]
            found[name] = line.o
        return found
