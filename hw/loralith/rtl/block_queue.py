"""FIFOs in block RAM, for deep or wide queues that may have a cycle more of latency."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, ShapeLike, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.commands import COMMAND_BYTES
from loralith.spec.config import Config

from .interfaces import INDEX_BITS, CommandEntry
from .memories import block_memory
from .queue import FIFOPointers

__all__ = ["BlockFIFO", "CommandQueue", "CommandWord"]


class BlockFIFO(wiring.Component):
    """``depth`` entries of ``shape`` in block RAM, and one more at its output; one entry in and one out per cycle.

    ``i.ready`` and ``o.valid`` depend on registers alone. ``o.payload`` is the memory's output: late in its cycle.

    Members:
        i, o: the streams.
        clear: drop all entries, and an item that is offered in that cycle.

    Attributes:
        delay: cycles from ``i`` to ``o``: 2.
    """

    delay = 2

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        self._shape, self._depth = shape, depth
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)), "clear": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = self._depth
        m.submodules.memory = memory = block_memory(len(Value.cast(self.i.payload)), depth)
        write, read = memory.write_port(), memory.read_port(transparent_for=())
        pointers = FIFOPointers(m, depth, self.clear)
        moves = Signal()
        m.d.comb += [
            self.i.ready.eq(pointers.not_full),
            pointers.put.eq(self.i.valid & pointers.not_full),
            moves.eq(~self.o.valid | self.o.ready),
            pointers.get.eq(pointers.not_empty & moves),
            write.addr.eq(pointers.write),
            write.data.eq(self.i.payload),
            write.en.eq(pointers.put),
            read.addr.eq(pointers.read),
            read.en.eq(moves),
            Value.cast(self.o.payload).eq(read.data),
        ]
        with m.If(moves):
            m.d.sync += self.o.valid.eq(pointers.not_empty)
        with m.If(self.clear):
            m.d.sync += self.o.valid.eq(0)
        return m


class CommandWord(data.StructLayout):
    """One bus word of a descriptor, and as much of its command's index as each of its words takes along."""

    def __init__(self, config: Config) -> None:
        words = COMMAND_BYTES // config.bus_bytes
        super().__init__({"bits": 8 * config.bus_bytes, "index": INDEX_BITS // words})


class CommandQueue(wiring.Component):
    """``depth`` commands, word by word in block RAM, and the first one in a register.

    A LUT RAM as wide as a descriptor would take a tenth of a small FPGA, and as much routing.

    Members:
        i: the words of one command after the other, lowest first.
        o: commands; the next one is there ``words`` + 2 cycles after one is taken, at the soonest.
        clear: drop all entries, and an item that is offered in that cycle.

    Attributes:
        delay: cycles from a command's last word to the command: 4.
    """

    delay = BlockFIFO.delay + 2

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__({"i": In(stream.Signature(CommandWord(config))), "o": Out(stream.Signature(CommandEntry)), "clear": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words = COMMAND_BYTES // self._config.bus_bytes
        m.submodules.words = queue = BlockFIFO(CommandWord(self._config), self._config.queue_depth * words)
        wiring.connect(m, wiring.flipped(self.i), queue.i)
        # Pipeline register, so that the clock enable of the command's 1,024 bits is a register too.
        count = Signal(range(words))
        full = Signal()
        last = Signal()
        take = Signal()
        valid_r = Signal()
        word_r = Signal(CommandWord(self._config))
        m.d.comb += [queue.clear.eq(self.clear), queue.o.ready.eq(~full), take.eq(queue.o.valid & ~full)]
        m.d.sync += valid_r.eq(take)
        with m.If(take):
            m.d.sync += [word_r.eq(queue.o.payload), count.eq(count + 1), last.eq(count == words - 1), full.eq(count == words - 1)]
        with m.If(valid_r):
            for field, part in ((self.o.payload.bits, word_r.bits), (self.o.payload.index, word_r.index)):
                m.d.sync += field.eq(Cat(field, part)[len(part) :])
            m.d.sync += self.o.valid.eq(last)
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [self.o.valid.eq(0), full.eq(0)]
        with m.If(self.clear):
            m.d.sync += [count.eq(0), full.eq(0), valid_r.eq(0), self.o.valid.eq(0)]
        return m
