"""The data side of a STORE from the vector unit's memories: words of its lanes, or scalars, to bus words."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.rtl.interfaces import ScalarReadSignature, VectorRead, VectorReadDataSignature
from loralith.rtl.queue import FIFO, SkidBuffer
from loralith.rtl.transfer_check import TransferDescriptor
from loralith.rtl.write_master import WriteBeat
from loralith.spec.commands import Opcode, StoreSource, VectorFormat
from loralith.spec.config import Config
from loralith.spec.vector.numbers import EXPONENT_BITS, FRACTION_BITS, WORD_BITS

from .load_data import element_log2

__all__ = ["BeatPacker", "VectorStoreData", "WordRequests"]


class WordRequests(wiring.Component):
    """Requests the words of one store, row by row, as long as the FIFO that takes them is not full.

    Members:
        store: must hold from ``begin`` until ``done``. words: words of a row.
        begin: start; one cycle. o: addresses of words. not_full: one more may be requested. done: all were.
        clear: reset the block's state.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "store": In(TransferDescriptor(Opcode.STORE)),
                "words": In(24),
                "begin": In(1),
                "o": Out(stream.Signature(16)),
                "not_full": In(1),
                "done": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        store, active = self.store, Signal()
        words, rows, next_row = Signal(24), Signal(16), Signal(16)
        m.d.comb += [self.o.valid.eq(active & self.not_full), self.done.eq(~active)]
        with m.If(self.begin):
            m.d.sync += [
                active.eq(1),
                words.eq(self.words),
                rows.eq(store.rows),
                self.o.payload.eq(store.base),
                next_row.eq(store.base + store.block_stride),
            ]
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += [words.eq(words - 1), self.o.payload.eq(self.o.payload + 1)]
            with m.If(words == 1):
                m.d.sync += [
                    words.eq(self.words),
                    rows.eq(rows - 1),
                    self.o.payload.eq(next_row),
                    next_row.eq(next_row + store.block_stride),
                ]
                with m.If(rows == 1):
                    m.d.sync += active.eq(0)
        with m.If(self.clear):
            m.d.sync += active.eq(0)
        return m


class BeatPacker(wiring.Component):
    """Words to bus words: a word's elements fill several bus words, or those of several words one.

    Members:
        store, words: as of ``WordRequests``. format, broadcast: of the store; of scalars FP32 and 1.
        begin: start with the first word of a store. i: words. o: bus words.
        done: the last bus word was taken, until ``begin``.
        clear: reset the block's state.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__(
            {
                "store": In(TransferDescriptor(Opcode.STORE)),
                "words": In(24),
                "format": In(2),
                "broadcast": In(1),
                "begin": In(1),
                "i": In(stream.Signature(config.vector_lanes * WORD_BITS)),
                "o": Out(stream.Signature(WriteBeat(config))),
                "done": Out(1, init=1),  # pyright: ignore[reportCallIssue]
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        W, lanes_log2, store = self._config.bus_bytes, exact_log2(self._config.vector_lanes), self.store
        log2 = element_log2(self.format) + Mux(self.broadcast, 0, lanes_log2)  # of the bytes that a word gives
        fills_beat = log2 >= exact_log2(W)
        sub, part = Signal(8), Signal(8)
        last_sub, last_part = Signal(8), Signal(8)
        beats, words, rows = Signal.like(store.beats), Signal(24), Signal(16)
        row_ends, step, ends = Signal(), Signal(), Signal()
        held = Signal(8 * W)
        m.submodules.beat_skid = beat_skid = SkidBuffer(data.StructLayout({"beat": WriteBeat(self._config), "last": 1}))
        gathered = self._gathered(m, sub, part, held, fills_beat)
        tail = store.row_bytes[: exact_log2(W)]
        strobe = Mux(row_ends & (tail != 0), (Const(1, W + 1) << tail) - 1, Const(-1, W))
        m.d.comb += [
            beat_skid.clear.eq(self.clear),
            row_ends.eq(Mux(fills_beat, beats == 1, words == 1)),
            ends.eq(fills_beat | (part == last_part) | row_ends),
            step.eq(self.i.valid & ~self.done & beat_skid.i.ready),
            beat_skid.i.valid.eq(self.i.valid & ~self.done & ends),
            beat_skid.i.payload.beat.data.eq(gathered),
            beat_skid.i.payload.beat.strobe.eq(strobe),
            beat_skid.i.payload.last.eq(row_ends & (rows == 1)),
            self.i.ready.eq(step & (~fills_beat | (sub == last_sub) | row_ends)),
            self.o.valid.eq(beat_skid.o.valid),
            self.o.payload.eq(beat_skid.o.payload.beat),
            beat_skid.o.ready.eq(self.o.ready),
        ]
        with m.If(self.begin):
            m.d.sync += [
                self.done.eq(0),
                last_sub.eq(Mux(fills_beat, (1 << (log2 - exact_log2(W))[:3]) - 1, 0)),
                last_part.eq(Mux(fills_beat, 0, (1 << (exact_log2(W) - log2)[:3]) - 1)),
                *(counter.eq(0) for counter in (sub, part)),
                beats.eq(store.beats),
                words.eq(self.words),
                rows.eq(store.rows),
            ]
        with m.Elif(step):
            m.d.sync += [
                held.eq(gathered),
                sub.eq(Mux(self.i.ready, 0, sub + 1)),
                part.eq(Mux(ends, 0, part + 1)),
                words.eq(Mux(self.i.ready, words - 1, words)),
                beats.eq(beats - 1),
            ]
            with m.If(row_ends):
                m.d.sync += [beats.eq(store.beats), words.eq(self.words), rows.eq(rows - 1)]
        with m.If((self.o.valid & self.o.ready & beat_skid.o.payload.last) | self.clear):
            m.d.sync += self.done.eq(1)
        return m

    def _gathered(self, m: Module, sub: Signal, part: Signal, held: Signal, fills_beat: Value) -> Signal:
        """The bus word with the present word's elements in it."""
        W, L = self._config.bus_bytes, self._config.vector_lanes
        words = [self.i.payload.word_select(lane, WORD_BITS) for lane in range(L)]
        gathered = Signal(8 * W)
        m.d.comb += gathered.eq(held)
        with m.Switch(self.format):
            for form, width in ((VectorFormat.FP32, 32), (VectorFormat.BF16, 16), (VectorFormat.INT8, 8)):
                with m.Case(form):
                    elements = [self._element(word, form) for word in words]
                    natural = Cat(elements)
                    with m.If(self.broadcast):
                        with m.Switch(part):
                            for at in range(8 * W // width):
                                with m.Case(at):
                                    m.d.comb += gathered.word_select(at, width).eq(elements[0])
                    with m.Elif(fills_beat):
                        if len(natural) >= 8 * W:
                            m.d.comb += gathered.eq(natural.word_select(sub, 8 * W))
                    with m.Else():
                        if len(natural) < 8 * W:
                            with m.Switch(part):
                                for at in range(8 * W // len(natural)):
                                    with m.Case(at):
                                        m.d.comb += gathered.word_select(at, len(natural)).eq(natural)
        return gathered

    @staticmethod
    def _element(word: Value, form: VectorFormat) -> Value:
        if form is VectorFormat.INT8:
            return word[:8]
        present = word[FRACTION_BITS : FRACTION_BITS + EXPONENT_BITS].any().replicate(WORD_BITS)
        if form is VectorFormat.BF16:
            return word[9:]
        return Cat(Const(0, 7), word & present)


class VectorStoreData(wiring.Component):
    """Reads what one store after the other writes, and puts it into bus words. A store is done before the next one begins.

    Members:
        transfers: stores with a source of the vector unit; taken when their last bus word is. beats: these, of all stores.
        hold: do not begin, as bus words of another source are still to come.
        reads, read_data, scalars: see ``vector_ports``.
        progress: a word is requested (for the watchdog).
        clear: reset the block's state.
    """

    depth = 8
    """Words of the FIFO: those requested and not packed yet."""

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__(
            {
                "transfers": In(stream.Signature(TransferDescriptor(Opcode.STORE))),
                "beats": Out(stream.Signature(WriteBeat(config))),
                "hold": In(1),
                "reads": Out(stream.Signature(VectorRead)),
                "read_data": In(VectorReadDataSignature(config)),
                "scalars": Out(ScalarReadSignature),
                "progress": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        store = self.transfers.payload
        m.submodules.requests = requests = WordRequests()
        m.submodules.packer = packer = BeatPacker(self._config)
        word = self._config.vector_lanes * WORD_BITS
        m.submodules.words = words = FIFO(word, self.depth)
        for block in (requests, packer, words):
            m.d.comb += block.clear.eq(self.clear)
        scalar = store.source == StoreSource.SCALARS
        form, broadcast = Mux(scalar, VectorFormat.FP32, store.format), scalar | store.broadcast
        elements = store.row_bytes >> element_log2(form)
        lanes = self._config.vector_lanes
        row_words, started, scalar_valid, outstanding = Signal(24), Signal(), Signal(), Signal(range(self.depth + 1))
        begin, row_words_valid = Signal(), Signal()
        accepted = Signal()
        m.d.sync += [
            row_words.eq(Mux(broadcast, elements, (elements + lanes - 1) >> exact_log2(lanes))),
            row_words_valid.eq(self.transfers.valid & ~started & ~self.clear),  # ``row_words`` is there a cycle later
        ]
        m.d.comb += [
            begin.eq(row_words_valid & self.transfers.valid & ~started & ~self.hold),
            requests.store.eq(store),
            requests.words.eq(row_words),
            requests.begin.eq(begin),
            requests.not_full.eq(outstanding != self.depth),
            packer.store.eq(store),
            packer.words.eq(row_words),
            packer.format.eq(form),
            packer.broadcast.eq(broadcast),
            packer.begin.eq(begin),
            self.reads.valid.eq(requests.o.valid & ~scalar),
            self.reads.payload.memory.eq(store.source == StoreSource.V1),
            self.reads.payload.address.eq(requests.o.payload),
            self.scalars.address.eq(requests.o.payload),
            requests.o.ready.eq(scalar | self.reads.ready),
            accepted.eq(requests.o.valid & requests.o.ready),
            self.progress.eq(accepted),
            words.i.valid.eq(self.read_data.valid | scalar_valid),
            words.i.payload.eq(Mux(scalar_valid, self.scalars.data, self.read_data.data)),
            packer.i.valid.eq(words.o.valid),
            packer.i.payload.eq(words.o.payload),
            words.o.ready.eq(packer.i.ready),
            self.beats.valid.eq(packer.o.valid),
            self.beats.payload.eq(packer.o.payload),
            packer.o.ready.eq(self.beats.ready),
            self.transfers.ready.eq(started & packer.done),
        ]
        m.d.sync += scalar_valid.eq(accepted & scalar)
        popped = words.o.valid & words.o.ready
        with m.If(accepted ^ popped):
            m.d.sync += outstanding.eq(Mux(accepted, outstanding + 1, outstanding - 1))
        with m.If(begin):
            m.d.sync += started.eq(1)
        with m.Elif(self.transfers.ready):
            m.d.sync += started.eq(0)
        with m.If(self.clear):
            m.d.sync += [started.eq(0), outstanding.eq(0), scalar_valid.eq(0)]
        return m
