"""FIFOs joined by valid/ready streams: a skid buffer of two registers, and a FIFO in a memory (LUT RAM where the target has it)."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["FIFO", "FIFOPointers", "SkidBuffer"]


class FIFOPointers:
    """Read and write pointer of a FIFO of ``depth`` entries, and its flags, in the module ``m``; ``clear`` empties it.

    Attributes:
        read, write: the entry to read next, and the one to write next.
        not_empty, not_full: registers, since both have a large fan-out. They come from the pointers: each bit of a count of entries
            would need both ``put`` and ``get``, which arrive late in the cycle.
        put, get: for the caller to drive: write an entry, only while ``not_full``; read an entry, only while ``not_empty``.

    Raises:
        ValueError: ``depth`` is less than 1.
    """

    def __init__(self, m: Module, depth: int, clear: Value) -> None:
        _check_depth(depth)
        self.read = Signal(range(max(depth, 2)))
        self.write = Signal(range(max(depth, 2)))
        self.not_empty = Signal()
        self.not_full = Signal(init=1)
        self.put = Signal()
        self.get = Signal()

        def following(pointer: Signal) -> Value:
            return Mux(pointer == depth - 1, 0, pointer + 1)

        with m.If(self.put):
            m.d.sync += self.write.eq(following(self.write))
        with m.If(self.get):
            m.d.sync += self.read.eq(following(self.read))
        m.d.sync += [
            self.not_empty.eq(self.put | Mux(self.get, following(self.read) != self.write, self.not_empty)),
            self.not_full.eq(self.get | Mux(self.put, following(self.write) != self.read, self.not_full)),
        ]
        with m.If(clear):
            m.d.sync += [self.read.eq(0), self.write.eq(0), self.not_empty.eq(0), self.not_full.eq(1)]


class SkidBuffer(wiring.Component):
    """A FIFO of two ``shape`` registers; one entry in and one out per cycle.

    Cuts the combinational paths of a stream in both directions: ``i.ready``, ``o.valid`` and ``o.payload`` are registers.

    Members:
        i, o: the streams.
        clear: drop all entries, and one that is put in that cycle.

    Attributes:
        delay: cycles from ``i`` to ``o``: 1.
    """

    delay = 1

    def __init__(self, shape: ShapeLike) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)), "clear": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spare = Signal.like(self.o.payload)  # takes the entry that arrives while the output is stalled
        not_empty = Signal()
        not_full = Signal(init=1)
        advance = Signal()
        m.d.comb += [self.i.ready.eq(not_full), self.o.valid.eq(not_empty), advance.eq(~not_empty | self.o.ready)]
        with m.If(not_full):  # not ``i.valid``, which is late: without one the spare register is free to hold anything
            m.d.sync += spare.eq(self.i.payload)
        with m.If(advance):
            m.d.sync += [self.o.payload.eq(Mux(not_full, self.i.payload, spare)), not_empty.eq(self.i.valid | ~not_full)]
        m.d.sync += not_full.eq(advance | (not_full & ~self.i.valid))
        with m.If(self.clear):
            m.d.sync += [not_empty.eq(0), not_full.eq(1)]
        return m


class FIFO(wiring.Component):
    """A first-word-fall-through FIFO of ``depth`` entries of ``shape`` in a memory; one entry in and one out per cycle.

    ``i.ready`` and ``o.valid`` are registers; ``o.payload`` is read from the memory and late in its cycle.

    Members:
        i, o: the streams.
        clear: drop all entries, and one that is put in that cycle.

    Attributes:
        delay: cycles from ``i`` to ``o``: 1.

    Raises:
        ValueError: ``depth`` is less than 1.
    """

    delay = 1

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        _check_depth(depth)
        self._shape, self._depth = shape, depth
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)), "clear": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=self._shape, depth=max(self._depth, 2), init=[])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        pointers = FIFOPointers(m, self._depth, self.clear)
        m.d.comb += [
            self.i.ready.eq(pointers.not_full),
            self.o.valid.eq(pointers.not_empty),
            pointers.put.eq(self.i.valid & self.i.ready),
            pointers.get.eq(self.o.valid & self.o.ready),
            write.addr.eq(pointers.write),
            write.data.eq(self.i.payload),
            write.en.eq(pointers.not_full),  # not ``put``, which is late: a free entry may hold anything
            read.addr.eq(pointers.read),
            self.o.payload.eq(read.data),
        ]
        return m


def _check_depth(depth: int) -> None:
    if depth < 1:
        raise ValueError(f"a FIFO has at least one entry, not {depth}")
