"""The reads of a store, one after the other."""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.spec.commands import STAT_BYTES, Opcode, StoreSource
from loralith.spec.config import Config

from .transfer_check import TransferDescriptor

__all__ = ["Piece", "PieceCounter", "PieceSize", "PieceSizer", "ReadAddress", "ReadAddressCounter", "StoreRead", "StoreReads"]

PIECES_BITS = 24


class PieceSize(data.StructLayout):
    """How the bytes of a store come from its memory: in pieces of 2**``log2`` bytes, one per read.

    Members:
        log2: as above, at most a bus word. pieces: in a DRAM row.
        tail: bytes of the last bus word of a row, or of all rows where these are packed; 0: all.
    """

    def __init__(self, config: Config) -> None:
        word_bits = exact_log2(config.bus_bytes)
        super().__init__({"log2": range(word_bits + 1), "pieces": PIECES_BITS, "tail": word_bits})


class Piece(data.StructLayout):
    """Where the data of a read lies in its bus word, and what ends with it.

    Members:
        offset: of its first byte in the bus word. word_ends: it completes the bus word.
        row_ends: the bus word is the last one of its row, or of all rows where these are packed.
        part: number of its bus word in the memory's word, where that is wider.
    """

    def __init__(self, config: Config) -> None:
        W = config.bus_bytes
        parts = range(max(config.rows // W, STAT_BYTES // W, 2))
        super().__init__({"word_ends": 1, "row_ends": 1, "offset": exact_log2(W), "part": parts})


class ReadAddress(data.StructLayout):
    """Memory row or statistics slot of a read; ``lane`` of all banks, or, transposed, ``bank`` with all lanes."""

    def __init__(self, config: Config) -> None:
        super().__init__({"row": 16, "lane": range(config.rows), "bank": range(config.bus_bytes)})


class StoreRead(data.StructLayout):
    """A read of a store: from the statistics or the output buffer, of that by lane or, ``transpose``, by bank."""

    def __init__(self, config: Config) -> None:
        super().__init__({"stats": 1, "transpose": 1, "address": ReadAddress(config), "piece": Piece(config)})


class PieceSizer(wiring.Component):
    """Computes a store's ``PieceSize`` in steps, usually while the store before is read.

    Members:
        store: the store; must hold while ``valid``.
        valid: there is one; low for at least one cycle between two.
        size: its pieces, while ``done``.
        done: two cycles after ``valid`` rises, until it falls.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__({"store": In(TransferDescriptor(Opcode.STORE)), "valid": In(1), "size": Out(PieceSize(config)), "done": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        R, W = self._config.rows, self._config.bus_bytes
        word_bits, store, size = exact_log2(W), self.store, self.size
        row_log2 = Signal(range(word_bits + 1))  # of row_bytes, when packed
        m.d.comb += row_log2.eq(0)
        for i in range(word_bits):
            with m.If(store.row_bytes[i]):
                m.d.comb += row_log2.eq(i)
        across = exact_log2(min(W, R))
        stats = store.source == StoreSource.STATS
        plain = Mux(stats, exact_log2(min(W, STAT_BYTES)), Mux(store.transpose, across, word_bits))
        row_bytes = Signal(PIECES_BITS)
        first = Signal()
        m.d.sync += [first.eq(self.valid & ~self.done), self.done.eq(self.valid & (first | self.done))]
        with m.If(self.valid):
            m.d.sync += [
                row_bytes.eq(store.row_bytes),
                size.log2.eq(Mux(store.packed, Mux(store.transpose & (row_log2 > across), across, row_log2), plain)),
                size.pieces.eq((row_bytes + (Const(1, word_bits + 1) << size.log2) - 1) >> size.log2),
                size.tail.eq(Mux(store.packed, (store.rows << row_log2)[:word_bits], store.row_bytes[:word_bits])),
            ]
        return m


class PieceCounter(wiring.Component):
    """Counts the rows of a store, the pieces of a row and those of a bus word.

    Members:
        store, size: the store and its pieces, in the cycle of ``begin``.
        begin: start with the first piece of ``store`` in the next cycle.
        step: go on to the next piece; not together with ``begin``.
        parts: bus words in a word of the memory, less one.
        piece: the present piece. row_done, store_done: it is the last one of its row, of the store.
        part_done: the next piece is of another memory word, within its row.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        piece = Piece(config)
        super().__init__(
            {
                "store": In(TransferDescriptor(Opcode.STORE)),
                "size": In(PieceSize(config)),
                "begin": In(1),
                "step": In(1),
                "last_part": In(piece["part"].shape),
                "piece": Out(piece),
                "row_done": Out(1),
                "store_done": Out(1),
                "part_done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word_bits = exact_log2(self._config.bus_bytes)
        store, size, piece = self.store, self.size, self.piece
        # Of the store that is read, as ``size`` is of the next one by then.
        log2 = Signal.like(size.log2)
        pieces = Signal.like(size.pieces)
        one_piece = Signal()
        packed = Signal()
        pieces_remaining = Signal(PIECES_BITS)
        rows_remaining = Signal(16)
        last_row = Signal()
        next_offset = Signal(word_bits)
        m.d.comb += [
            next_offset.eq(piece.offset + (Const(1, word_bits + 1) << log2)),
            self.store_done.eq(self.row_done & last_row),
            self.part_done.eq(piece.part == self.last_part),
            piece.word_ends.eq((next_offset == 0) | self.store_done | (self.row_done & ~packed)),
            piece.row_ends.eq(self.row_done & (~packed | self.store_done)),
        ]
        with m.If(self.begin):
            m.d.sync += [
                log2.eq(size.log2),
                pieces.eq(size.pieces),
                one_piece.eq(size.pieces == 1),
                packed.eq(store.packed),
                pieces_remaining.eq(size.pieces),
                rows_remaining.eq(store.rows),
                self.row_done.eq(size.pieces == 1),
                last_row.eq(store.rows == 1),
                piece.offset.eq(0),
                piece.part.eq(0),
            ]
        with m.Elif(self.step):
            m.d.sync += piece.offset.eq(Mux(piece.word_ends, 0, next_offset))
            with m.If(~self.row_done):
                m.d.sync += [
                    pieces_remaining.eq(pieces_remaining - 1),
                    self.row_done.eq(pieces_remaining == 2),
                    piece.part.eq(Mux(self.part_done, 0, piece.part + 1)),
                ]
            with m.Else():
                m.d.sync += [
                    pieces_remaining.eq(pieces),
                    rows_remaining.eq(rows_remaining - 1),
                    self.row_done.eq(one_piece),
                    last_row.eq(rows_remaining == 2),
                    piece.part.eq(0),
                ]
        return m


class ReadAddressCounter(wiring.Component):
    """Follows a ``PieceCounter`` with the addresses of its reads.

    Members:
        store, begin, step, row_done, part_done: as of the counter. transpose: the present store is transposed.
        address: of the present read.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        inputs = ("begin", "step", "row_done", "part_done", "transpose")
        super().__init__(
            {"store": In(TransferDescriptor(Opcode.STORE)), "address": Out(ReadAddress(config))} | {name: In(1) for name in inputs}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        R, W = self._config.rows, self._config.bus_bytes
        store, at = self.store, self.address
        block_stride = Signal(16)
        row_start = Signal(16)  # of this DRAM row
        with m.If(self.begin):
            m.d.sync += [
                block_stride.eq(store.block_stride),
                row_start.eq(store.base),
                at.row.eq(store.base),
                at.lane.eq(0),
                at.bank.eq(0),
            ]
        with m.Elif(self.step & ~self.row_done):
            with m.If(self.part_done):
                m.d.sync += at.row.eq(at.row + Mux(self.transpose, block_stride, 1))
        with m.Elif(self.step):
            wraps = Mux(self.transpose, at.bank == W - 1, at.lane == R - 1)
            start = row_start + Mux(wraps, Mux(self.transpose, 1, block_stride), 0)
            m.d.sync += [row_start.eq(start), at.row.eq(start), at.lane.eq(at.lane + 1), at.bank.eq(at.bank + 1)]
        return m


class StoreReads(wiring.Component):
    """The reads of one store after the other, at most one per cycle.

    Members:
        i: stores; taken with their last read.
        o: their reads.
        hold: begin no store; for while ``log2`` and ``tail`` are needed of the last one.
        log2, tail: of the store whose reads are in ``o``, see ``PieceSize``; they stay until the next one begins.
        clear: reset the block's state.

    Attributes:
        delay: cycles from a store to its first read, at least: 3.
    """

    delay = 3

    def __init__(self, config: Config) -> None:
        self._config = config
        size = PieceSize(config)
        super().__init__(
            {
                "i": In(stream.Signature(TransferDescriptor(Opcode.STORE))),
                "o": Out(stream.Signature(StoreRead(config))),
                "hold": In(1),
                "log2": Out(size["log2"].shape),
                "tail": Out(size["tail"].shape),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        R, W = self._config.rows, self._config.bus_bytes
        store, read = self.i.payload, self.o.payload
        m.submodules.sizer = sizer = PieceSizer(self._config)
        m.submodules.counter = counter = PieceCounter(self._config)
        m.submodules.address = address = ReadAddressCounter(self._config)
        begin = Signal()
        step = Signal()
        m.d.comb += [
            sizer.store.eq(store),
            sizer.valid.eq(self.i.valid & ~self.o.valid & ~self.clear),
            begin.eq(sizer.done & ~self.o.valid & ~self.hold),
            step.eq(self.o.valid & self.o.ready),
            self.i.ready.eq(step & counter.store_done),
            counter.size.eq(sizer.size),
            counter.last_part.eq(Mux(read.stats, max(STAT_BYTES // W, 1), Mux(read.transpose, max(R // W, 1), 1)) - 1),
            address.row_done.eq(counter.row_done),
            address.part_done.eq(counter.part_done),
            address.transpose.eq(read.transpose),
            read.address.eq(address.address),
            read.piece.eq(counter.piece),
        ]
        for block in (counter, address):
            m.d.comb += [block.store.eq(store), block.begin.eq(begin), block.step.eq(step)]
        with m.If(begin):
            m.d.sync += [
                self.o.valid.eq(1),
                self.log2.eq(sizer.size.log2),
                self.tail.eq(sizer.size.tail),
                read.stats.eq(store.source == StoreSource.STATS),
                read.transpose.eq(store.transpose),
            ]
        with m.Elif(step & counter.store_done):
            m.d.sync += self.o.valid.eq(0)
        with m.If(self.clear):
            m.d.sync += self.o.valid.eq(0)
        return m
