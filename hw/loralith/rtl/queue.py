"""First-in first-out streams: two registers, or a memory, which is LUT RAM where the target has it."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["Queue"]


class Queue(wiring.Component):
    """``depth`` entries of ``shape``. First word falls through; one entry in and one out per cycle.

    ``i.ready`` and ``o.valid`` depend on registers alone. A queue of two is made of registers, so that it cuts a long path: what comes
    out is a register, and what comes in needs no enable.

    Members:
        i, o: the streams.
        clear: forget all entries; what comes in during that cycle is lost.

    Attributes:
        delay: cycles from ``i`` to ``o``: 1.
    """

    delay = 1

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        self._shape, self._depth = shape, max(depth, 1)
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)), "clear": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self._depth == 2:
            self._registers(m)
        else:
            self._memory(m)
        return m

    def _registers(self, m: Module) -> None:
        """The first entry, and a spare one that takes what comes while the first one stays."""
        spare = Signal.like(self.o.payload)
        some, room, moves = Signal(), Signal(init=1), Signal()  # room: the spare one is empty
        m.d.comb += [self.i.ready.eq(room), self.o.valid.eq(some), moves.eq(~some | self.o.ready)]
        with m.If(room):
            m.d.sync += spare.eq(self.i.payload)
        with m.If(moves):
            m.d.sync += [self.o.payload.eq(Mux(room, self.i.payload, spare)), some.eq(self.i.valid | ~room)]
        m.d.sync += room.eq(moves | (room & ~self.i.valid))
        with m.If(self.clear):
            m.d.sync += [some.eq(0), room.eq(1)]

    def _memory(self, m: Module) -> None:
        m.submodules.memory = memory = Memory(shape=self._shape, depth=max(self._depth, 2), init=[])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        level = Signal(range(self._depth + 1))
        some, room = Signal(), Signal(init=1)  # level != 0, level != depth: registers, as both reach far
        first, last = Signal(range(max(self._depth, 2))), Signal(range(max(self._depth, 2)))
        put, get = Signal(), Signal()

        def after(pointer: Signal) -> Value:
            return Mux(pointer == self._depth - 1, 0, pointer + 1)

        m.d.comb += [
            self.i.ready.eq(room),
            self.o.valid.eq(some),
            put.eq(self.i.valid & self.i.ready),
            get.eq(self.o.valid & self.o.ready),
            write.addr.eq(last),
            write.data.eq(self.i.payload),
            write.en.eq(room),  # whatever is there: a free entry may hold anything, and ``put`` is late
            read.addr.eq(first),
            self.o.payload.eq(read.data),
        ]
        with m.If(put):
            m.d.sync += last.eq(after(last))
        with m.If(get):
            m.d.sync += first.eq(after(first))
        with m.If(put ^ get):
            m.d.sync += level.eq(Mux(put, level + 1, level - 1))
        m.d.sync += [
            some.eq(put | (level > 1) | ((level == 1) & ~get)),
            room.eq(get | (level < self._depth - 1) | ((level == self._depth - 1) & ~put)),
        ]
        with m.If(self.clear):
            m.d.sync += [level.eq(0), first.eq(0), last.eq(0), some.eq(0), room.eq(1)]
