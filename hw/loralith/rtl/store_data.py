"""The data side of the store unit: output buffer or statistics to bus words."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from loralith.spec.commands import STAT_BYTES, Opcode
from loralith.spec.config import Config

from .interfaces import OutReadSignature, StatReadSignature
from .pipeline import delayed
from .queue import FIFO
from .store_reads import Piece, PieceSize, StoreReads
from .transfer_check import TransferDescriptor
from .write_master import WriteBeat

__all__ = ["FIFOCredits", "StoreData", "WordGatherer"]


class FIFOCredits(wiring.Component):
    """Counts the entries of a FIFO that are neither full nor promised to a word which is on its way to it.

    Parameter: depth, the entries of the FIFO.

    Members:
        put: a word is on its way, one cycle after its start. get: one left the FIFO.
        all: nothing is in the FIFO or on its way to it, but for a word started in the last cycle.
        available: a word may be started. It is a register, and so needs two credits: one word may have been started which is not
            counted yet.
        clear: the FIFO is empty, and nothing is on its way.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        super().__init__({"put": In(1), "get": In(1), "all": Out(1), "available": Out(1, init=1), "clear": In(1)})  # pyright: ignore[reportCallIssue]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        credits = Signal(range(self._depth + 1), init=self._depth)
        with m.If(self.put ^ self.get):
            m.d.sync += credits.eq(Mux(self.put, credits - 1, credits + 1))
        m.d.comb += self.all.eq(credits == self._depth)
        m.d.sync += self.available.eq((credits > 2) | ((credits == 2) & (self.get | ~self.put)) | ((credits == 1) & self.get & ~self.put))
        with m.If(self.clear):
            m.d.sync += [credits.eq(self._depth), self.available.eq(1)]
        return m


class WordGatherer(wiring.Component):
    """Gathers the data of reads, of 2**``log2`` bytes each, into bus words.

    Members:
        valid: a read's data is here, with its ``piece``. stats, transpose: which data.
        stat_data, word, lane_data: see the memories' read ports.
        log2, tail: see ``PieceSize``; they hold while ``valid``, and from the cycle before.
        beat_valid, beat: a bus word, ``delay`` cycles after its last piece. Past the end of a row it has no strobe.
        busy: a piece was taken in the last cycle.
        clear: reset the block's state.

    Attributes:
        delay: 1.
    """

    delay = 1

    def __init__(self, config: Config) -> None:
        self._config = config
        size = PieceSize(config)
        super().__init__(
            {
                "valid": In(1),
                "piece": In(Piece(config)),
                "stats": In(1),
                "transpose": In(1),
                "stat_data": In(8 * STAT_BYTES),
                "word": In(data.ArrayLayout(8, config.rows)),
                "lane_data": In(data.ArrayLayout(8, config.bus_bytes)),
                "log2": In(size["log2"].shape),
                "tail": In(size["tail"].shape),
                "beat_valid": Out(1),
                "beat": Out(WriteBeat(config)),
                "busy": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        W = self._config.bus_bytes
        word_bits = exact_log2(W)
        # Pipeline register for the read data and for its control bits.
        piece = Signal.like(self.piece)
        read_data = Signal(8 * W)
        repeats = Signal(word_bits)
        mask = Signal(word_bits)
        byte_mask = Signal(W)  # the bytes of the bus word that the piece holds
        last_strobe = Signal(W)
        m.d.sync += [
            self.busy.eq(self.valid & ~self.clear),
            piece.eq(self.piece),
            repeats.eq(Cat(self.log2 <= level for level in range(word_bits))),
            mask.eq(Const(-1, word_bits) << self.log2),
            byte_mask.eq(Cat((Const(i, word_bits) & mask) == self.piece.offset for i in range(W))),
            last_strobe.eq(Mux(self.tail == 0, -1, (Const(1, W + 1) << self.tail) - 1)),
        ]
        with m.If(self.stats):
            m.d.sync += read_data.eq(self._fit(self.stat_data, self.piece.part))
        with m.Else():
            m.d.sync += read_data.eq(Mux(self.transpose, self._fit(self.word.as_value(), self.piece.part), self.lane_data.as_value()))
        repeated = self._repeated(m, read_data, repeats)

        # Pieces accumulate in ``partial_beat``; the one that completes the bus word bypasses it.
        partial_beat = Signal(8 * W)
        gathered = Cat(Mux(byte_mask[i], repeated.word_select(i, 8), partial_beat.word_select(i, 8)) for i in range(W))
        with m.If(self.busy):
            m.d.sync += partial_beat.eq(gathered)
        m.d.comb += [
            self.beat_valid.eq(self.busy & piece.word_ends),
            self.beat.data.eq(gathered),
            self.beat.strobe.eq(Mux(piece.row_ends, last_strobe, -1)),
        ]
        return m

    def _fit(self, word: Value, part: Value) -> Value:
        """Bus word ``part`` of a wide memory word, or a narrow one over and over."""
        width = 8 * self._config.bus_bytes
        if len(word) > width:
            return word.word_select(part[: exact_log2(len(word) // width)], width)
        return Cat(word for _ in range(width // len(word)))

    def _repeated(self, m: Module, word: Signal, repeats: Signal) -> Signal:
        """The first 2**i bytes over and over, for the lowest i that ``repeats`` names."""
        for level in reversed(range(exact_log2(self._config.bus_bytes))):
            half, source = 8 << level, word
            word = Signal(len(source), name=f"repeated{level}")
            m.d.comb += word.eq(source)
            with m.If(repeats[level]):
                m.d.comb += word.eq(source[:half].replicate(len(source) // half))
        return word


class StoreData(wiring.Component):
    """Reads what one store after the other writes, and puts it into bus words.

    One read per cycle. A bus word takes one read, but for packed rows (one per row), for transposed stores with
    rows < bus_bytes and for statistics with 16 < bus_bytes.

    Parameters: config; out_delay, stat_delay: cycles from a read's ``en`` to its data (stat_delay <= out_delay).

    Members:
        transfers: stores; taken with their last read.
        beats: the bus words of all stores in a row. What lies past the end of a row has no strobe.
        out_read, stat_read: the memories.
        idle: all bus words of the stores that were taken are out.
        clear: reset the block's state.
    """

    slots = 9  # one for the word whose read is not counted yet

    def __init__(self, config: Config, out_delay: int, stat_delay: int) -> None:
        # A read leaves from registers: the memories are far from here.
        self._config, self._out_delay, self._stat_delay = config, out_delay + 1, stat_delay + 1
        super().__init__(
            {
                "transfers": In(stream.Signature(TransferDescriptor(Opcode.STORE))),
                "beats": Out(stream.Signature(WriteBeat(config))),
                "out_read": Out(OutReadSignature(config)),
                "stat_read": Out(StatReadSignature),
                "idle": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.reads = reads = StoreReads(config)
        m.submodules.gatherer = gatherer = WordGatherer(config)
        m.submodules.queue = queue = FIFO(WriteBeat(config), self.slots)
        m.submodules.credits = credits = FIFOCredits(self.slots)
        connect(m, flipped(self.transfers), reads.i)
        connect(m, queue.o, flipped(self.beats))
        for block in (reads, gatherer, queue, credits):
            m.d.comb += block.clear.eq(self.clear)

        read, step = reads.o.payload, Signal()
        m.d.comb += [reads.o.ready.eq(credits.available), step.eq(reads.o.valid & reads.o.ready)]
        m.d.sync += [
            self.out_read.en.eq(step & ~read.stats),
            self.out_read.row.eq(read.address.row),
            self.out_read.lane.eq(read.address.lane),
            self.out_read.bank.eq(read.address.bank),
            self.stat_read.en.eq(step & read.stats),
            self.stat_read.slot.eq(read.address.row),
        ]
        stats = Signal()  # of the reads in the pipeline, which are all of one store
        transpose = Signal()
        with m.If(step):
            m.d.sync += [stats.eq(read.stats), transpose.eq(read.transpose)]

        # What each read is for travels beside it.
        request = Signal(data.StructLayout({"valid": 1, "piece": Piece(config)}))
        m.d.comb += [request.valid.eq(step), request.piece.eq(read.piece)]
        stages = delayed(m, request, self._out_delay, name="request")
        with m.If(self.clear):
            m.d.sync += [stage.valid.eq(0) for stage in stages[1:]]
        m.d.comb += [
            reads.hold.eq(Cat(stage.valid for stage in stages).any() | gatherer.busy),
            self.idle.eq(credits.all & ~reads.hold & ~reads.o.valid),
            gatherer.valid.eq(stages[-1].valid),
            gatherer.piece.eq(stages[-1].piece),
            gatherer.stats.eq(stats),
            gatherer.transpose.eq(transpose),
            gatherer.stat_data.eq(delayed(m, self.stat_read.data, self._out_delay - self._stat_delay, name="stat_data")[-1]),
            gatherer.word.eq(self.out_read.word),
            gatherer.lane_data.eq(self.out_read.lane_data),
            gatherer.log2.eq(reads.log2),
            gatherer.tail.eq(reads.tail),
            queue.i.valid.eq(gatherer.beat_valid),
            queue.i.payload.eq(gatherer.beat),
            credits.put.eq(stages[1].valid & stages[1].piece.word_ends),
            credits.get.eq(self.beats.valid & self.beats.ready),
        ]
        return m
