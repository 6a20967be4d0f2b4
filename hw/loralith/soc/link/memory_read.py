"""Bytes from memory, read in bursts into a buffer."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.rtl.axi import CACHE, Axi4ReadSignature, Burst
from loralith.spec.link import MAX_PAYLOAD, Status

from .cobs import FrameByte
from .messages import OperationControl, bus_status

__all__ = ["MemoryReader"]

BURST_WORDS = 16
"""Longest burst. Bursts end at multiples of it, and so cross no 4 KiB boundary."""
BUFFER_WORDS = 128
assert BUFFER_WORDS > MAX_PAYLOAD // 8 + BURST_WORDS  # a read is in the buffer as a whole before its response begins


class MemoryReader(wiring.Component):
    """Reads ``length`` bytes. A burst is requested once the buffer has space for all of it, so that the bus never stalls.

    Parameter: data_bytes of the bus.

    Members:
        axi: channels AR and R.
        control: ``done`` comes when the last word is in the buffer, or with the end of a burst that has an error; ``value`` is then the
            address of the word that failed. ``abandon`` clears the buffer as well.
        address, length: at ``start``.
        o: the bytes.
    """

    def __init__(self, data_bytes: int) -> None:
        self._data_bytes = data_bytes
        super().__init__(
            {
                "axi": Out(Axi4ReadSignature(data_bytes)),
                "control": In(OperationControl),
                "address": In(32),
                "length": In(16),
                "o": Out(stream.Signature(FrameByte)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi, control, size = self.axi, self.control, exact_log2(self._data_bytes)
        address = Signal(32)  # of the next beat
        words = Signal(17)
        beats = Signal(range(BURST_WORDS + 1))
        beats_to_boundary = BURST_WORDS - address[size : size + exact_log2(BURST_WORDS)]
        # Pipeline register behind the memory controller, which may be placed far away.
        beat_r, data_r, response_r, last_r = Signal(), Signal(8 * self._data_bytes), Signal(2), Signal()
        m.d.sync += [beat_r.eq(axi.rvalid & axi.rready), data_r.eq(axi.rdata), response_r.eq(axi.rresp), last_r.eq(axi.rlast)]
        push = beat_r & (words != 0) & ~control.abandon
        write, read = self._buffer(m, push, data_r)
        free = (read - write - 1)[: len(write)]
        m.d.comb += control.progress.eq(push)
        m.d.comb += [axi.arsize.eq(size), axi.arburst.eq(Burst.INCR), axi.arcache.eq(CACHE), axi.arlen.eq(beats - 1)]
        m.d.sync += control.done.eq(0)

        with m.FSM():
            with m.State("idle"):
                m.d.comb += control.ready.eq(1)
                with m.If(control.start):
                    m.d.sync += [
                        address.eq(Cat(Const(0, size), self.address[size:])),
                        words.eq((self.address[:size] + self.length + self._data_bytes - 1) >> size),
                        control.status.eq(Status.OK),
                        control.value.eq(0),
                    ]
                    m.next = "size"
            with m.State("size"):
                m.d.sync += [beats.eq(Mux(words < beats_to_boundary, words, beats_to_boundary)), axi.araddr.eq(address)]
                with m.If(free >= BURST_WORDS):
                    m.d.sync += axi.arvalid.eq(1)
                    m.next = "burst"
                with m.If(control.abandon):
                    m.d.sync += axi.arvalid.eq(0)
                    m.next = "idle"
            with m.State("burst"):
                m.d.comb += axi.rready.eq(1)
                with m.If(axi.arready):
                    m.d.sync += axi.arvalid.eq(0)
                with m.If(control.abandon):
                    m.d.sync += words.eq(0)
                with m.If(beat_r):
                    m.d.sync += address.eq(address + self._data_bytes)
                    with m.If(response_r[1] & (control.status == Status.OK)):
                        m.d.sync += [control.status.eq(bus_status(response_r)), control.value.eq(address)]
                    with m.If(last_r):
                        m.d.sync += words.eq(words - beats)
                        m.next = "size"
                        with m.If((words == beats) | response_r[1] | (control.status != Status.OK)):
                            m.d.sync += control.done.eq(~control.abandon)
                            m.next = "idle"
                        with m.If((words == 0) | control.abandon):
                            m.d.sync += control.done.eq(0)
                            m.next = "idle"
        return m

    def _buffer(self, m: Module, push: Value, data_r: Value) -> tuple[Signal, Signal]:
        """The buffer, which takes ``data_r`` with ``push``, and its output register; returns the write and the read pointer."""
        control, size = self.control, exact_log2(self._data_bytes)
        width = 8 * self._data_bytes
        m.submodules.memory = memory = Memory(shape=width, depth=BUFFER_WORDS, init=[], attrs={"ram_style": "block", "no_rw_check": "1"})
        store, fetch = memory.write_port(), memory.read_port(transparent_for=())
        write, read = Signal(range(BUFFER_WORDS)), Signal(range(BUFFER_WORDS))
        lane = Signal(size)
        remaining = Signal(16)
        word_valid = Signal()  # the memory's output register holds the word
        last = remaining == 1
        pop = word_valid & (~self.o.valid | self.o.ready)
        ends = pop & (lane.all() | last)
        m.d.comb += [
            store.addr.eq(write),
            store.data.eq(data_r),
            store.en.eq(push),
            fetch.addr.eq(read),
            fetch.en.eq((read != write) & (ends | ~word_valid)),
        ]
        # Output register: a block RAM takes half a period, and a CRC or the encoder follows.
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [self.o.valid.eq(word_valid), self.o.payload.byte.eq(fetch.data.word_select(lane, 8)), self.o.payload.last.eq(last)]
        with m.If(push):
            m.d.sync += write.eq(write + 1)
        with m.If(pop):
            m.d.sync += [lane.eq(lane + 1), remaining.eq(remaining - 1)]
        with m.If(fetch.en):
            m.d.sync += [read.eq(read + 1), word_valid.eq(1)]
        with m.Elif(ends):
            m.d.sync += word_valid.eq(0)
        with m.If(control.start):
            m.d.sync += [lane.eq(self.address[:size]), remaining.eq(self.length)]
        with m.If(control.start | control.abandon):
            m.d.sync += [read.eq(write), word_valid.eq(0), self.o.valid.eq(0)]
        return write, read
