"""Two INT4 per byte on the bus to one INT8 per byte on chip."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.config import Config

from .read_master import ReadBeat

__all__ = ["Unpack"]


class Unpack(wiring.Component):
    """Passes bus words as they are, or, while ``packed``, each one as two beats: its lower half's nibbles as INT8, then its upper half's.

    Byte j of a packed word has INT4 2j in its low nibble and 2j + 1 in its high one, two's complement. An error goes with both beats.

    Members:
        i: bus words.
        o: beats, in the cycle of their word.
        packed: what the words are; changes between rows only.
        row_ends: the beat in ``o`` is the last one of its row. What is left of its word is dropped.
        stays: the beat in ``o`` leaves the upper half of its word to come.
        clear: the next beat is the first one of its word.

    Attributes:
        delay: cycles from a word to its first beat: 0.
    """

    delay = 0

    def __init__(self, config: Config) -> None:
        self._config = config
        beat = stream.Signature(ReadBeat(config))
        super().__init__({"i": In(beat), "o": Out(beat), "packed": In(1), "row_ends": In(1), "stays": Out(1), "clear": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word = self.i.payload.data.as_value()
        middle = len(word) // 2
        upper = Signal()
        half = Mux(upper, word[middle:], word[:middle])
        m.d.comb += [
            self.stays.eq(self.packed & ~upper & ~self.row_ends),
            self.o.valid.eq(self.i.valid),
            self.o.payload.data.eq(Mux(self.packed, self._extended(half), word)),
            self.o.payload.error.eq(self.i.payload.error),
            self.i.ready.eq(self.o.ready & ~self.stays),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += upper.eq(self.stays)
        with m.If(self.clear):
            m.d.sync += upper.eq(0)
        return m

    @staticmethod
    def _extended(nibbles: Value) -> Value:
        """Each nibble as a byte, its sign kept."""
        parts = [nibbles[i : i + 4] for i in range(0, len(nibbles), 4)]
        return Cat(Cat(part, part[3].replicate(4)) for part in parts)
