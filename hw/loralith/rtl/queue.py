"""First-in first-out streams: two registers, or a memory, which is LUT RAM where the target has it."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["Queue", "Ring"]


class Ring:
    """Where a ring of ``depth`` entries is written and read next, in the module ``m``; ``clear`` empties it.

    Attributes:
        first, last: the entry to read, and the one to write.
        some, room: an entry is full, one is free. Registers, as both reach far; told by ``first`` and ``last``, as a count of the
            entries would need both ``put`` and ``get``, which are late, in each of its bits.
        put, get: to drive: one is written, only with ``room``; one is read, only with ``some``.
    """

    def __init__(self, m: Module, depth: int, clear: Value) -> None:
        self.first = Signal(range(max(depth, 2)))
        self.last = Signal(range(max(depth, 2)))
        self.some = Signal()
        self.room = Signal(init=1)
        self.put = Signal()
        self.get = Signal()

        def after(pointer: Signal) -> Value:
            return Mux(pointer == depth - 1, 0, pointer + 1)

        with m.If(self.put):
            m.d.sync += self.last.eq(after(self.last))
        with m.If(self.get):
            m.d.sync += self.first.eq(after(self.first))
        m.d.sync += [
            self.some.eq(self.put | Mux(self.get, after(self.first) != self.last, self.some)),
            self.room.eq(self.get | Mux(self.put, after(self.last) != self.first, self.room)),
        ]
        with m.If(clear):
            m.d.sync += [self.first.eq(0), self.last.eq(0), self.some.eq(0), self.room.eq(1)]


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
        some = Signal()
        room = Signal(init=1)  # the spare one is empty
        moves = Signal()
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
        ring = Ring(m, self._depth, self.clear)
        m.d.comb += [
            self.i.ready.eq(ring.room),
            self.o.valid.eq(ring.some),
            ring.put.eq(self.i.valid & self.i.ready),
            ring.get.eq(self.o.valid & self.o.ready),
            write.addr.eq(ring.last),
            write.data.eq(self.i.payload),
            write.en.eq(ring.room),  # whatever is there: a free entry may hold anything, and ``put`` is late
            read.addr.eq(ring.first),
            self.o.payload.eq(read.data),
        ]
