"""All lanes, and what they share: function tables, random bits and the mask of valid lanes."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.rtl.ppu import IndexHash
from loralith.spec.vector.numbers import SUM_BITS, WORD_BITS
from loralith.spec.vector.program import HASH_LANES, LANE_REGISTERS

from .delay_line import DelayLine, delay_pointer
from .function_table import FunctionTable
from .lane import CONSTANTS, Lane, LaneTiming
from .lane_settings import LaneSettings
from .reduction import RANK_BITS
from .word import Word

__all__ = ["LaneGroup"]


class LaneGroup(wiring.Component):
    """``lanes`` lanes, one word of elements a cycle.

    Words of several instructions may be inside: between two of them lie ``LaneTiming.gap`` cycles or more.

    Parameters: lanes: an even number.

    Members:
        enable, integers, v0, v1, constant, constant_load, constant_lane, constant_register: see ``Lane``.
        settings: of the word that enters; they travel with it.
        x_constant_load: X of source SCALAR takes ``constant``, for all words that are at most LaneTiming.vectors - 1 cycles inside.
        clear: lanes forget the sum or maximum that ``settings`` use.
        valid: a word enters. partial: only the lanes of ``mask`` are of the tensor. first: it is the first one of an instruction.
            iteration: and of an outer iteration other than the first one.
        index_load: takes ``index``, that of the first instruction's first word, while no word is inside. key0, key1, index_inner,
            index_outer: of the hash of stochastic rounding, and what is added to the index with each word, and with each iteration to the
            one that its instructions begin with.
        valid_o: ``words``, ``saturated`` and ``live_o``, the lanes of the tensor, are there, ``delay`` cycles after ``valid``.
        register_write: lanes whose register ``register_number`` takes its result, or without ``register_result`` ``register_word``.
        sums, maxima: see ``ReductionAccumulator``. fault: an element of the tensor is out of range, a cycle after its ``valid_o``.

    Raises: ValueError: ``lanes`` is odd or less than 2.
    """

    delay = LaneTiming.result

    def __init__(self, lanes: int) -> None:
        if lanes < 2 or lanes % 2:
            raise ValueError(f"a table serves two lanes: lanes must be an even number, not {lanes}")
        self.lanes = lanes
        super().__init__(
            {
                "enable": In(1),
                "settings": In(LaneSettings),
                "valid": In(1),
                "partial": In(1),
                "mask": In(lanes),
                "integers": In(32).array(lanes),
                "v0": In(Word).array(lanes),
                "v1": In(Word).array(lanes),
                "first": In(1),
                "iteration": In(1),
                "constant": In(WORD_BITS),
                "constant_load": In(len(CONSTANTS)),
                "x_constant_load": In(1),
                "constant_lane": In(1),
                "constant_register": In(range(LANE_REGISTERS)),
                "register_write": In(lanes),
                "register_number": In(range(LANE_REGISTERS)),
                "register_result": In(1),
                "register_word": In(WORD_BITS),
                "clear": In(1),
                "key0": In(32),
                "key1": In(32),
                "index_load": In(1),
                "index": In(32),
                "index_inner": In(32),
                "index_outer": In(32),
                "valid_o": Out(1),
                "live_o": Out(lanes),
                "words": Out(WORD_BITS).array(lanes),
                "saturated": Out(lanes),
                "sums": Out(SUM_BITS).array(lanes),
                "maxima": Out(RANK_BITS).array(lanes),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid, partial = Signal(self.delay), Signal(self.delay)
        m.d.sync += valid.eq(Cat(self.valid, valid))
        with m.If(self.enable):
            m.d.sync += partial.eq(Cat(self.partial, partial))
        x_constant = Signal(Word)
        with m.If(self.x_constant_load):
            m.d.sync += x_constant.eq(self.constant)
        pointer = delay_pointer(m, self.enable)
        hashes = self._hashes(m, valid, pointer)
        settings = self._settings(m, Cat(self.valid, valid))
        lanes = []
        for i in range(self.lanes):
            m.submodules[f"lane{i}"] = lane = Lane()
            lanes.append(lane)
            for name in ("enable", "constant", "constant_load", "constant_lane", "constant_register", "register_number"):
                m.d.comb += getattr(lane, name).eq(getattr(self, name))
            m.d.comb += [
                lane.pointer.eq(pointer),
                lane.settings.eq(settings),
                lane.clear_sum.eq(self.clear & self.settings.summing),
                lane.clear_maximum.eq(self.clear & self.settings.comparing),
                lane.x_constant.eq(x_constant),
                lane.integer.eq(self.integers[i]),
                lane.v0.eq(self.v0[i]),
                lane.v1.eq(self.v1[i]),
                lane.random.eq(hashes.word_select(i, 8)),
                lane.register_write.eq(self.register_write[i]),
                lane.register_word.eq(Mux(self.register_result, lane.word, self.register_word)),
                lane.live.eq(Cat(valid[at - 1] & (self.mask[i] | ~partial[at - 1]) for at in LaneTiming.faults)),
                self.words[i].eq(lane.word),
                self.saturated[i].eq(lane.saturated),
                self.sums[i].eq(lane.sum),
                self.maxima[i].eq(lane.maximum),
            ]
        for i in range(0, self.lanes, 2):
            m.submodules[f"table{i // 2}"] = table = FunctionTable()
            for at in range(2):
                wiring.connect(m, lanes[i + at].table, table.readers[at])
        m.d.comb += self.live_o.eq(self.mask | (~partial[-1]).replicate(self.lanes))
        m.d.comb += [self.valid_o.eq(valid[-1]), self.fault.eq(self._fault(m, lanes))]
        return m

    def _settings(self, m: Module, entered: Value) -> Signal:
        """Each member of ``settings`` at its cycle of ``LaneTiming.settings``; ``entered``: bit i: a word is i cycles inside.

        A register follows the one ``LaneTiming.gap`` cycles or less before it when a word passes: no word of another instruction has passed
        that one yet.
        """
        delayed = Signal(LaneSettings)
        for name, cycle in LaneTiming.settings.items():
            value = Value.cast(self.settings[name])
            for stop in reversed(range(cycle, 0, -LaneTiming.gap)):
                register = Signal(len(value), name=f"{name}_{stop}", reset_less=True)
                with m.If(entered[stop - 1]):
                    m.d.sync += register.eq(value)
                value = register
            m.d.comb += getattr(delayed, name).eq(value)
        return delayed

    def _fault(self, m: Module, lanes: list[Lane]) -> Value:
        """Faults of all stages, each when its word is out: an earlier word's are seen before a later one's."""
        stages = {at + 1: Cat(lane.fault[stage] for lane in lanes).any() for stage, at in enumerate(LaneTiming.faults)}
        fault: Value = Const(0, 1)
        for cycle in range(min(stages), self.delay + 2):
            fault = fault | stages.get(cycle, 0)
            if cycle <= self.delay:
                register = Signal(name=f"fault{cycle}")
                m.d.sync += register.eq(fault)
                fault = register
        return fault

    def _hashes(self, m: Module, valid: Signal, pointer: Signal) -> Signal:
        """A byte for each lane, at LaneTiming.random."""
        groups = -(-self.lanes // HASH_LANES)
        m.submodules.hash = unit = IndexHash(groups)
        start = LaneTiming.random - unit.delay
        index, outer, next_outer = (Signal(32, name=name, reset_less=True) for name in ("index", "outer", "next_outer"))
        m.submodules.iteration_line = iteration_line = DelayLine(2, start - 2)
        entry = Cat(self.first, self.first & self.iteration) & self.valid.replicate(2)
        m.d.comb += [iteration_line.enable.eq(self.enable), iteration_line.pointer.eq(pointer), iteration_line.i.eq(entry)]
        first = Signal()
        m.d.sync += [first.eq(iteration_line.o[0]), next_outer.eq(outer + self.index_outer)]
        with m.If(self.index_load | iteration_line.o[1]):
            m.d.sync += outer.eq(Mux(self.index_load, self.index, next_outer))
        with m.If(first):
            m.d.sync += index.eq(outer)
        with m.Elif(valid[start - 1]):
            m.d.sync += index.eq(index + self.index_inner)
        # A constant of the command, so that it takes no adder's time.
        keyed = Signal(32 * groups, reset_less=True)
        m.d.sync += keyed.eq(Cat((self.key0 + group)[:32] for group in range(groups)))
        m.d.comb += [unit.valid.eq(valid[start - 1]), unit.keyed.eq(keyed), unit.column.eq(index), unit.key1.eq(self.key1)]
        return unit.hashes
