"""Where the writes of a load go, one after the other."""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.spec.commands import LoadTarget, Opcode
from loralith.spec.config import Config

from .transfer_check import TransferDescriptor

__all__ = ["BeatCount", "BeatCounter", "WriteAddress", "WriteAddressCounter", "WriteKind", "WritePosition", "WritePositions"]


class WriteKind(data.Struct):
    """What is the same for all writes of a load: its target, and whether its rows are transposed, and packed on the bus."""

    right: 1
    scale: 1
    both: 1
    transpose: 1
    packed: 1


class BeatCount(data.StructLayout):
    """The number of a write in its load.

    Members:
        padding: it is of a row of zeros. row_ends: its beat is the last one of its row.
        part: its beat's number in a memory word that is wider than the bus.
        sub: its number among the writes of one beat, where a memory word is narrower than the bus.
        part_ends, beat_ends, load_ends: it is the last one of its memory word, of its beat, of its load.
    """

    def __init__(self, config: Config) -> None:
        R, C, W = config.rows, config.cols, config.bus_bytes
        parts, subs = range(max(C // W, 4 * R // W, 2)), range(max(W // min(R, C), 2))
        super().__init__({"padding": 1, "row_ends": 1, "part": parts, "sub": subs, "part_ends": 1, "beat_ends": 1, "load_ends": 1})


class WriteAddress(data.StructLayout):
    """Memory row, bank (natural) and lane (transposed) of a write; ``right_row``: the row of the right half of a load into both."""

    def __init__(self, config: Config) -> None:
        super().__init__({"row": 16, "right_row": 16, "bank": range(config.bus_bytes), "lane": range(max(config.rows, config.cols))})


class WritePosition(data.StructLayout):
    """A write of a load; ``byte_mask``: which bytes of its beat are elements, the others being zeros."""

    def __init__(self, config: Config) -> None:
        super().__init__({"kind": WriteKind, "count": BeatCount(config), "to": WriteAddress(config), "byte_mask": config.bus_bytes})


class BeatCounter(wiring.Component):
    """Counts the rows of a load, the beats of a row, and the writes of a beat.

    Members:
        load: the load; must hold from ``begin`` until the last ``step``.
        begin: start with the first write of ``load`` in the next cycle.
        step: go on to the next write; not together with ``begin``.
        count: the present write.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__({"load": In(TransferDescriptor(Opcode.LOAD)), "begin": In(1), "step": In(1), "count": Out(BeatCount(config))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        R, C, W = self._config.rows, self._config.cols, self._config.bus_bytes
        load, count = self.load, self.count
        last_part = Signal.like(count.part)
        last_sub = Signal.like(count.sub)
        tail_sub = Signal.like(count.sub)  # the same of a row's last beat
        no_pad = Signal()
        one_pad = Signal()
        one_beat = Signal()
        rows_remaining = Signal(17)
        beats_remaining = Signal.like(load.beats)
        last_row = Signal()
        last_beat = Signal()  # of the load
        m.d.comb += [
            count.part_ends.eq(count.part == last_part),
            count.beat_ends.eq(count.sub == Mux(count.row_ends, tail_sub, last_sub) if min(R, C) < W else Const(1)),
            count.load_ends.eq(count.beat_ends & last_beat),
        ]

        scale, right, both = (load.target == t for t in (LoadTarget.SCALE, LoadTarget.RIGHT, LoadTarget.BOTH))
        parts = Mux(scale, max(4 * R // W, 1), Mux(right | both, max(C // W, 1), max(R // W, 1)))
        subs = Mux(load.transpose | scale, 1, Mux(right, max(W // C, 1), max(W // R, 1)))
        last_byte = (load.row_bytes[: exact_log2(W)] - 1)[: exact_log2(W)]
        with m.If(self.begin):  # before ``step``, which is late and so drives the clock enables alone
            m.d.sync += [
                last_part.eq(parts - 1),
                last_sub.eq(subs - 1),
                tail_sub.eq(Mux(subs == 1, 0, Mux(right, last_byte >> exact_log2(C), last_byte >> exact_log2(R)))),
                no_pad.eq(load.pad_rows == 0),
                one_pad.eq(load.pad_rows == 1),
                one_beat.eq(load.beats == 1),
                rows_remaining.eq(load.rows),
                beats_remaining.eq(load.beats),
                last_row.eq(load.rows == 1),
                last_beat.eq((load.beats == 1) & (load.rows == 1) & (load.pad_rows == 0)),
                count.padding.eq(0),
                count.row_ends.eq(load.beats == 1),
                count.part.eq(0),
                count.sub.eq(0),
            ]
        with m.Elif(self.step & ~count.beat_ends):
            m.d.sync += count.sub.eq(count.sub + 1)
        with m.Elif(self.step & ~count.row_ends):
            m.d.sync += [
                beats_remaining.eq(beats_remaining - 1),
                last_beat.eq((beats_remaining == 2) & last_row & (count.padding | no_pad)),
                count.row_ends.eq(beats_remaining == 2),
                count.part.eq(Mux(count.part_ends, 0, count.part + 1)),
                count.sub.eq(0),
            ]
        with m.Elif(self.step):
            m.d.sync += [
                rows_remaining.eq(rows_remaining - 1),
                beats_remaining.eq(load.beats),
                last_row.eq(rows_remaining == 2),
                last_beat.eq(one_beat & (rows_remaining == 2) & (count.padding | no_pad)),
                count.row_ends.eq(one_beat),
                count.part.eq(0),
                count.sub.eq(0),
            ]
            with m.If(last_row & ~count.padding):
                m.d.sync += [count.padding.eq(1), rows_remaining.eq(load.pad_rows), last_row.eq(one_pad), last_beat.eq(one_beat & one_pad)]
        return m


class WriteAddressCounter(wiring.Component):
    """Follows a ``BeatCounter`` with the addresses of its writes.

    Members:
        load, begin, step: as of the counter. kind, count: of the present write.
        address: of the present write.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__(
            {
                "load": In(TransferDescriptor(Opcode.LOAD)),
                "begin": In(1),
                "step": In(1),
                "kind": In(WriteKind),
                "count": In(BeatCount(config)),
                "address": Out(WriteAddress(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        R, C, W = self._config.rows, self._config.cols, self._config.bus_bytes
        load, kind, count, to = self.load, self.kind, self.count, self.address
        # Registers for the load's fields: the FIFO that holds it is placed far from here.
        block_stride = Signal(16)
        right_stride = Signal(16)
        group_stride = Signal(16)  # from one group of DRAM rows to the next
        row_start = Signal(16)  # of this DRAM row
        right_start = Signal(16)
        at_last_lane = Signal()
        at_last_bank = Signal()
        with m.If(self.begin):
            m.d.sync += [
                block_stride.eq(load.block_stride),
                right_stride.eq(load.right_stride),
                group_stride.eq(Mux(load.transpose, load.block_stride, 1)),
                row_start.eq(load.base),
                right_start.eq(load.right_base),
                at_last_lane.eq(0),
                at_last_bank.eq(0),
                to.row.eq(load.base),
                to.right_row.eq(load.right_base),
                to.bank.eq(0),
                to.lane.eq(0),
            ]
        with m.Elif(self.step & ~count.beat_ends):
            m.d.sync += to.row.eq(to.row + block_stride)
        with m.Elif(self.step & ~count.row_ends):
            with m.If(kind.transpose):
                m.d.sync += to.row.eq(to.row + 1)
            with m.Elif(count.part_ends):
                m.d.sync += to.row.eq(to.row + Mux(kind.scale, 1, block_stride))
            with m.If(count.part_ends):
                m.d.sync += to.right_row.eq(to.right_row + right_stride)
        with m.Elif(self.step):
            start = row_start + Mux(Mux(kind.transpose, at_last_lane, at_last_bank), group_stride, 0)
            next_right = right_start + at_last_bank
            m.d.sync += [
                row_start.eq(start),
                right_start.eq(next_right),
                at_last_lane.eq(to.lane == Mux(kind.right, C - 2, R - 2)),
                at_last_bank.eq(to.bank == W - 2),
                to.row.eq(start),
                to.right_row.eq(next_right),
                to.bank.eq(to.bank + 1),
                to.lane.eq(Mux(at_last_lane, 0, to.lane + 1)),
            ]
        return m


class WritePositions(wiring.Component):
    """The writes of one load after the other, in the order of their beats. One cycle passes between loads.

    Members:
        i: loads; taken with their last write.
        o: their writes; withdrawn by ``stop``.
        begin: one-cycle pulse: the next write will be the first one of the load that ``i`` offers.
        stop: end the present load and begin no other.
        clear: reset the block's state.

    Attributes:
        delay: cycles from a load to its first write: 1.
    """

    delay = 1

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(TransferDescriptor(Opcode.LOAD))),
                "o": Out(stream.Signature(WritePosition(config))),
                "begin": Out(1),
                "stop": In(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        W = self._config.bus_bytes
        load, write = self.i.payload, self.o.payload
        m.submodules.counter = counter = BeatCounter(self._config)
        m.submodules.address = address = WriteAddressCounter(self._config)
        kind = Signal(WriteKind)
        end_mask = Signal(W)  # of a row's last beat
        step = Signal()
        m.d.comb += [
            self.begin.eq(self.i.valid & ~self.o.valid & ~self.stop),
            step.eq(self.o.valid & self.o.ready),
            self.i.ready.eq(step & write.count.load_ends),
            counter.load.eq(load),
            address.load.eq(load),
            address.kind.eq(kind),
            address.count.eq(counter.count),
            write.kind.eq(kind),
            write.count.eq(counter.count),
            write.to.eq(address.address),
            write.byte_mask.eq(Mux(write.count.padding, 0, Mux(write.count.row_ends, end_mask, -1))),
        ]
        for block in (counter, address):
            m.d.comb += [block.begin.eq(self.begin), block.step.eq(step)]
        tail = load.row_bytes[: exact_log2(W)]
        with m.If(self.begin):
            m.d.sync += [
                self.o.valid.eq(1),
                kind.right.eq(load.target == LoadTarget.RIGHT),
                kind.scale.eq(load.target == LoadTarget.SCALE),
                kind.both.eq(load.target == LoadTarget.BOTH),
                kind.transpose.eq(load.transpose),
                kind.packed.eq(load.packed4),
                end_mask.eq(Mux(tail == 0, -1, (Const(1, W + 1) << tail) - 1)),
            ]
        with m.Elif(step & write.count.load_ends):
            m.d.sync += self.o.valid.eq(0)
        with m.If(self.stop | self.clear):
            m.d.sync += self.o.valid.eq(0)
        return m
