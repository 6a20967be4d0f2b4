"""Words of descriptors to the queue that takes their command."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.commands import COMMAND_BYTES, Opcode
from loralith.spec.config import Config

from .block_queue import CommandWord
from .interfaces import INDEX_BITS
from .queue import SkidBuffer
from .read_master import ReadBeat

__all__ = ["DescriptorWord", "Dispatcher", "queue_names"]


def queue_names(config: Config) -> tuple[str, ...]:
    """The queues: one for each opcode that the configuration knows."""
    return tuple(opcode.name.lower() for opcode in Opcode if config.vector_lanes or opcode is not Opcode.VECTOR)


class DescriptorWord(data.StructLayout):
    """A bus word of a descriptor.

    Members:
        beat: the word. index: as much of its command's index as each word takes along. final: it is the last one of its descriptor.
        queues: which of the queues take it, one bit each; none after an error.
        known: the command has a queue. dropped: it has none, and other words follow: this one goes nowhere.
    """

    def __init__(self, config: Config) -> None:
        part = INDEX_BITS // (COMMAND_BYTES // config.bus_bytes)
        super().__init__(
            {"beat": ReadBeat(config), "queues": len(queue_names(config)), "known": 1, "dropped": 1, "final": 1, "index": part}
        )


class Dispatcher(wiring.Component):
    """Sends the words of each descriptor to one of the queues, by the opcode in its first word.

    A read error, and the last word of an unknown command, stay at the output until ``clear``: nothing after them is sent.

    Members:
        i: the words of one descriptor after the other, lowest first.
        load, compute, store, and with vector lanes vector: the words of the commands of each kind.
        start: the next command has index 0.
        word: the word at the output, while ``waiting``. sent: it is passed on or dropped.
        stop: in the cycle after, and until it falls, nothing is sent.
        clear: reset; the next word is the first one of its descriptor.

    Attributes:
        delay: cycles from a word to a queue: 2.
    """

    delay = 1 + SkidBuffer.delay

    def __init__(self, config: Config) -> None:
        self._config = config
        self.queues = queue_names(config)
        super().__init__(
            {
                "i": In(stream.Signature(ReadBeat(config))),
                **{name: Out(stream.Signature(CommandWord(config))) for name in self.queues},
                "start": In(1),
                "word": Out(DescriptorWord(config)),
                "waiting": Out(1),
                "sent": Out(1),
                "stop": In(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words = COMMAND_BYTES // self._config.bus_bytes
        queues = [(Opcode[name.upper()], getattr(self, name)) for name in self.queues]

        # Pipeline register, in which a command's first word is decoded, then a skid buffer, which cuts the path from the queues' ready.
        valid_r = Signal()
        word_r = Signal(DescriptorWord(self._config))
        m.submodules.dispatch_fifo = dispatch_fifo = SkidBuffer(DescriptorWord(self._config))
        take = Signal()
        arrived = Signal(range(words))  # words of the present command that are in
        index = Signal(INDEX_BITS)  # its index
        kinds = Cat(self.i.payload.data.as_value()[:8] == code for code, _ in queues)
        m.d.comb += [
            self.i.ready.eq(~valid_r | dispatch_fifo.i.ready),
            take.eq(self.i.valid & self.i.ready),
            dispatch_fifo.i.valid.eq(valid_r),
            dispatch_fifo.i.payload.eq(word_r),
            dispatch_fifo.i.payload.queues.eq(Mux(word_r.beat.error, 0, word_r.queues)),
            dispatch_fifo.i.payload.dropped.eq(~word_r.known & ~word_r.beat.error & ~word_r.final),
            dispatch_fifo.clear.eq(self.clear),
        ]
        with m.If(take):
            m.d.sync += [
                word_r.beat.eq(self.i.payload),
                word_r.index.eq(index.word_select(arrived, INDEX_BITS // words)),
                word_r.final.eq(arrived == words - 1),
                arrived.eq(arrived + 1),
                valid_r.eq(1),
            ]
            with m.If(arrived == 0):
                m.d.sync += [word_r.queues.eq(kinds), word_r.known.eq(kinds.any())]
            with m.If(arrived == words - 1):
                m.d.sync += index.eq(index + 1)
        with m.Elif(dispatch_fifo.i.ready):
            m.d.sync += valid_r.eq(0)

        # ``waiting`` comes late in its cycle: ``passes`` does not depend on it.
        stop_r = Signal()  # what goes on in the cycle of ``stop`` stays in the queues
        m.d.sync += stop_r.eq(self.stop)
        accepted = Cat(chosen & queue.ready for chosen, (_, queue) in zip(self.word.queues, queues, strict=True)).any()
        passes = ~stop_r & (accepted | self.word.dropped)
        m.d.comb += [
            self.word.eq(dispatch_fifo.o.payload),
            self.waiting.eq(dispatch_fifo.o.valid),
            dispatch_fifo.o.ready.eq(passes),
            self.sent.eq(self.waiting & passes),
        ]
        for chosen, (_, queue) in zip(self.word.queues, queues, strict=True):
            m.d.comb += [
                queue.payload.bits.eq(self.word.beat.data),
                queue.payload.index.eq(self.word.index),
                queue.valid.eq(self.waiting & chosen & ~stop_r),
            ]
        with m.If(self.start):
            m.d.sync += index.eq(0)
        with m.If(self.clear):
            m.d.sync += [valid_r.eq(0), arrived.eq(0)]
        return m
