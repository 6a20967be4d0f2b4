"""The data side of the store unit: output buffer or statistics to bus words."""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from loralith.spec.commands import STAT_BYTES, Opcode, StoreSource
from loralith.spec.config import Config

from .interfaces import OutReadSignature, StatReadSignature
from .queue import FIFO
from .transfer_check import TransferDescriptor
from .write_master import WriteBeat

__all__ = ["StoreData"]


class StoreData(wiring.Component):
    """Reads what one store after the other writes, and puts it into bus words.

    One read per cycle. A bus word takes one read, but for packed rows (one per row), for transposed stores with
    rows < bus_bytes and for statistics with 16 < bus_bytes.

    Parameters: config; out_delay, stat_delay: cycles from a read's ``en`` to its data (stat_delay <= out_delay).

    Members:
        jobs: stores; taken with their last read.
        beats: the bus words of all stores in a row. What lies past the end of a row has no strobe.
        out_read, stat_read: the memories.
        clear: forget everything.
    """

    slots = 9  # one for the word whose read is not counted yet

    def __init__(self, config: Config, out_delay: int, stat_delay: int) -> None:
        # A read leaves from registers: the memories are far from here.
        self._config, self._out_delay, self._stat_delay = config, out_delay + 1, stat_delay + 1
        super().__init__(
            {
                "jobs": In(stream.Signature(TransferDescriptor(Opcode.STORE))),
                "beats": Out(stream.Signature(WriteBeat(config))),
                "out_read": Out(OutReadSignature(config)),
                "stat_read": Out(StatReadSignature),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, job = self._config, self.jobs.payload
        R, W = config.rows, config.bus_bytes
        word_bits = exact_log2(W)
        stats, by_word = job.source == StoreSource.STATS, job.transpose
        m.submodules.queue = queue = FIFO(WriteBeat(config), self.slots)

        # Constants of the transfer, computed while it waits. A piece is the data of one read: 2**piece_log2 bytes.
        piece_log2 = Signal(range(word_bits + 1))
        pieces = Signal(24)  # per DRAM row
        tail = Signal(word_bits)  # bytes of the last word of a row, or of all when packed; 0: all of it
        of_stats = Signal()
        transposed = Signal()
        packed = Signal()
        block_stride = Signal(16)
        running = Signal()
        reading = Signal()
        pieces_left = Signal(24)
        rows_left = Signal(16)
        one_piece = Signal()
        last_piece = Signal()
        last_row = Signal()
        row = Signal(16)
        row_start = Signal(16)
        lane = Signal(range(R))
        bank = Signal(range(W))
        part = Signal(8)
        offset = Signal(word_bits)
        credits = Signal(range(self.slots + 1), init=self.slots)
        has_credits = Signal(init=1)  # registered, so it asks for two: one may be taken that is not counted yet

        # The constants take three cycles, usually hidden behind the previous transfer's reads.
        row_log2 = Signal(range(word_bits + 1))  # of row_bytes, when packed
        m.d.comb += row_log2.eq(0)
        for i in range(word_bits):
            with m.If(job.row_bytes[i]):
                m.d.comb += row_log2.eq(i)
        across = exact_log2(min(W, R))
        plain = Mux(stats, exact_log2(min(W, STAT_BYTES)), Mux(by_word, across, word_bits))
        sized = Signal()
        known = Signal()
        idle_pipe = Signal()
        next_piece = Signal.like(piece_log2)
        next_tail = Signal.like(tail)
        next_bytes = Signal(24)
        next_pieces = Signal(24)
        preparing = ~running & self.jobs.valid & ~self.clear
        m.d.sync += [sized.eq(preparing & ~known), known.eq(preparing & (sized | known))]
        with m.If(preparing):
            m.d.sync += [
                next_bytes.eq(job.row_bytes),
                next_pieces.eq((next_bytes + (Const(1, word_bits + 1) << next_piece) - 1) >> next_piece),
                next_piece.eq(Mux(job.packed, Mux(by_word & (row_log2 > across), across, row_log2), plain)),
                next_tail.eq(Mux(job.packed, (job.rows << row_log2)[:word_bits], job.row_bytes[:word_bits])),
            ]
        with m.If(~running & known & idle_pipe):
            m.d.sync += [
                running.eq(1),
                known.eq(0),
                of_stats.eq(stats),
                transposed.eq(by_word),
                packed.eq(job.packed),
                block_stride.eq(job.block_stride),
                piece_log2.eq(next_piece),
                pieces.eq(next_pieces),
                pieces_left.eq(next_pieces),
                one_piece.eq(next_pieces == 1),
                last_piece.eq(next_pieces == 1),
                tail.eq(next_tail),
                rows_left.eq(job.rows),
                last_row.eq(job.rows == 1),
                row.eq(job.base),
                row_start.eq(job.base),
                lane.eq(0),
                bank.eq(0),
                part.eq(0),
                offset.eq(0),
            ]

        # One read per cycle.
        row_ends = Signal()
        job_ends = Signal()
        word_ends = Signal()
        next_offset = Signal(word_bits)
        parts = Mux(of_stats, max(STAT_BYTES // W, 1), Mux(transposed, max(R // W, 1), 1))  # words per read, wide memories
        m.d.comb += [
            reading.eq(running & has_credits),
            next_offset.eq(offset + (Const(1, word_bits + 1) << piece_log2)),
            row_ends.eq(last_piece),
            job_ends.eq(row_ends & last_row),
            word_ends.eq((next_offset == 0) | job_ends | (row_ends & ~packed)),
            self.jobs.ready.eq(reading & job_ends),
        ]
        m.d.sync += [
            self.out_read.en.eq(reading & ~of_stats),
            self.out_read.row.eq(row),
            self.out_read.lane.eq(lane),
            self.out_read.bank.eq(bank),
            self.stat_read.en.eq(reading & of_stats),
            self.stat_read.slot.eq(row),
        ]
        with m.If(reading):
            m.d.sync += offset.eq(Mux(word_ends, 0, next_offset))
            with m.If(~row_ends):
                m.d.sync += [pieces_left.eq(pieces_left - 1), last_piece.eq(pieces_left == 2), part.eq(Mux(part == parts - 1, 0, part + 1))]
                with m.If(part == parts - 1):
                    m.d.sync += row.eq(row + Mux(transposed, block_stride, 1))
            with m.Else():
                wraps = Mux(transposed, bank == W - 1, lane == R - 1)
                start = row_start + Mux(wraps, Mux(transposed, 1, block_stride), 0)
                m.d.sync += [
                    pieces_left.eq(pieces),
                    last_piece.eq(one_piece),
                    part.eq(0),
                    rows_left.eq(rows_left - 1),
                    last_row.eq(rows_left == 2),
                    row.eq(start),
                    row_start.eq(start),
                    lane.eq(lane + 1),
                    bank.eq(bank + 1),
                ]
            with m.If(job_ends):
                m.d.sync += running.eq(0)

        # What each read is for travels beside it; the job's constants hold until the pipe is empty.
        flight = data.StructLayout({"valid": 1, "word_ends": 1, "row_ends": 1, "offset": word_bits, "part": 3})
        stages = [Signal(flight, name=f"flight{i}") for i in range(self._out_delay + 2)]
        m.d.comb += stages[0].eq(Cat(reading, word_ends, row_ends & (~packed | job_ends), offset, part[:3]))
        for before, after in pairwise(stages):
            m.d.sync += after.eq(before)
        m.d.comb += idle_pipe.eq(~Cat(stage.valid for stage in stages).any())
        source = Signal(2)  # of the reads in the pipe
        with m.If(reading):
            m.d.sync += source.eq(Cat(transposed, of_stats))

        stat_data = self.stat_read.data
        for i in range(self._out_delay - self._stat_delay):
            held = Signal(8 * STAT_BYTES, name=f"stat_data{i}")
            m.d.sync += held.eq(stat_data)
            stat_data = held
        # Pipeline register for the read data and for its control bits.
        read_stage, gather_stage = stages[-2:]
        word = Signal(8 * W)
        with m.If(source[1]):
            m.d.sync += word.eq(self._fit(stat_data, read_stage.part))
        with m.Else():
            m.d.sync += word.eq(
                Mux(source[0], self._fit(self.out_read.word.as_value(), read_stage.part), self.out_read.lane_data.as_value())
            )
        repeats = Signal(word_bits)
        mask = Signal(word_bits)
        here = Signal(W)
        last_strobe = Signal(W)
        m.d.sync += [
            repeats.eq(Cat(piece_log2 <= level for level in range(word_bits))),
            mask.eq(Const(-1, word_bits) << piece_log2),
            here.eq(Cat((Const(i, word_bits) & mask) == read_stage.offset for i in range(W))),
            last_strobe.eq(Mux(tail == 0, -1, (Const(1, W + 1) << tail) - 1)),
        ]
        word = self._repeated(m, word, repeats)

        # Pieces accumulate in ``beat``; the one that completes the bus word bypasses it into the FIFO.
        beat = Signal(8 * W)
        gathered = Signal(8 * W)
        for i in range(W):
            byte = slice(8 * i, 8 * i + 8)
            m.d.comb += gathered[byte].eq(Mux(here[i], word[byte], beat[byte]))
        with m.If(gather_stage.valid):
            m.d.sync += beat.eq(gathered)
        m.d.comb += [
            queue.i.valid.eq(gather_stage.valid & gather_stage.word_ends),
            queue.i.payload.data.eq(gathered),
            queue.i.payload.strobe.eq(Mux(gather_stage.row_ends, last_strobe, -1)),
            queue.clear.eq(self.clear),
        ]
        connect(m, queue.o, flipped(self.beats))
        put, get = stages[1].valid & stages[1].word_ends, self.beats.valid & self.beats.ready
        with m.If(put ^ get):
            m.d.sync += credits.eq(Mux(put, credits - 1, credits + 1))
        m.d.sync += has_credits.eq((credits > 2) | ((credits == 2) & (get | ~put)) | ((credits == 1) & get & ~put))
        with m.If(self.clear):
            m.d.sync += [running.eq(0), credits.eq(self.slots), has_credits.eq(1), *(stage.valid.eq(0) for stage in stages[1:])]
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
