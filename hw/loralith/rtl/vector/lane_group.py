"""All lanes, with what they share: tables, hash, and which elements are of the tensor."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.rtl.ppu import IndexHash
from loralith.spec.vector.numbers import SUM_BITS, WORD_BITS
from loralith.spec.vector.program import HASH_LANES

from .delay_line import counter
from .function_table import FunctionTable
from .lane import CONSTANTS, LANE_WORDS, Lane, LaneTiming
from .lane_settings import LaneSettings
from .reduction import RANK_BITS
from .word import Word

__all__ = ["LaneGroup"]


class LaneGroup(wiring.Component):
    """``lanes`` lanes, one word of elements a cycle. For constants of an instruction see ``Lane``.

    Parameters: lanes: an even number.

    Members:
        enable, settings, integers, v0, v1, constant_load, constant_register, clear: see ``Lane``.
        x_constant_load: X of source SCALAR takes ``register_word``.
        valid: a word enters. partial: only the lanes of ``mask`` are of the tensor.
        key0, key1, index_inner, index_load, index: of the hash of stochastic rounding: the first word's index, and what is added with each.
        valid_o: ``words``, ``saturated`` and ``live_o``, the lanes of the tensor, are there, ``delay`` cycles after ``valid``.
        register_write: lanes whose word ``register_number`` takes its result, or without ``register_result`` ``register_word``.
        sums, maxima: see ``Gather``. fault: an element of the tensor left the range of numbers.

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
                "constant_load": In(len(CONSTANTS)),
                "x_constant_load": In(1),
                "constant_register": In(range(LANE_WORDS)),
                "register_write": In(lanes),
                "register_number": In(range(LANE_WORDS)),
                "register_result": In(1),
                "register_word": In(WORD_BITS),
                "clear": In(1),
                "key0": In(32),
                "key1": In(32),
                "index_load": In(1),
                "index": In(32),
                "index_inner": In(32),
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
            m.d.sync += x_constant.eq(self.register_word)
        hashes = self._hashes(m, valid)
        place = counter(m, self.enable)
        lanes = []
        for i in range(self.lanes):
            m.submodules[f"lane{i}"] = lane = Lane()
            lanes.append(lane)
            for name in ("enable", "settings", "constant_load", "constant_register", "register_number", "clear"):
                m.d.comb += getattr(lane, name).eq(getattr(self, name))
            m.d.comb += [
                lane.place.eq(place),
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
        m.d.comb += [self.valid_o.eq(valid[-1]), self.fault.eq(Cat(lane.fault for lane in lanes).any())]
        return m

    def _hashes(self, m: Module, valid: Signal) -> Signal:
        """A byte for each lane, at LaneTiming.random."""
        groups = -(-self.lanes // HASH_LANES)
        m.submodules.hash = unit = IndexHash(groups)
        start = LaneTiming.random - unit.delay
        index = Signal(32, reset_less=True)
        with m.If(self.index_load):
            m.d.sync += index.eq(self.index)
        with m.Elif(valid[start - 1]):
            m.d.sync += index.eq(index + self.index_inner)
        # A constant of the command, so that it takes no adder's time.
        keyed = Signal(32 * groups, reset_less=True)
        m.d.sync += keyed.eq(Cat((self.key0 + group)[:32] for group in range(groups)))
        m.d.comb += [unit.valid.eq(valid[start - 1]), unit.keyed.eq(keyed), unit.column.eq(index), unit.key1.eq(self.key1)]
        return unit.hashes
