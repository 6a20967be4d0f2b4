"""The data side of the load unit: bus words to scratchpad writes."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from loralith.spec.commands import SEMAPHORES, Opcode
from loralith.spec.config import Config
from loralith.spec.status import Check, Code

from .interfaces import FaultSignature, OperandWrite, ScaleWrite
from .load_positions import WritePosition, WritePositions
from .queue import SkidBuffer
from .read_master import ReadBeat
from .transfer_check import TransferDescriptor
from .unpack import Unpack

__all__ = ["BeatErrors", "LoadData", "PlacedBeat", "ScratchpadWriter"]

_WRITE = ("right", "row", "transpose", "bank_mask", "lane_mask", "both", "right_row", "right_bank_mask", "right_lane_mask")


class PlacedBeat(data.StructLayout):
    """A beat and where one of its writes goes."""

    def __init__(self, config: Config) -> None:
        super().__init__({"position": WritePosition(config), "data": data.ArrayLayout(8, config.bus_bytes)})


class ScratchpadWriter(wiring.Component):
    """Makes writes of the scratchpads and of the scale memory from beats with their positions.

    Members:
        i: beats. operand, scale: their writes, in order.
        load_ends: one-cycle pulse: the last write of a load is taken.
        clear: reset the block's state.

    Attributes:
        delay: cycles from a beat to its write: 1.
    """

    delay = SkidBuffer.delay

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(PlacedBeat(config))),
                "operand": Out(stream.Signature(OperandWrite(config))),
                "scale": Out(stream.Signature(ScaleWrite(config))),
                "load_ends": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        R, C, W = config.rows, config.cols, config.bus_bytes
        beat, position = self.i.payload.data, self.i.payload.position
        kind, count, to = position.kind, position.count, position.to

        # Cuts the path from a memory's ready to the positions.
        fields = OperandWrite(config)
        more = {"scale": 1, "last": 1, "group": 8, "sub": count.sub.shape(), "data": 8 * W}
        m.submodules.write_fifo = write_fifo = SkidBuffer(data.StructLayout({name: fields[name].shape for name in _WRITE} | more))
        new, out = write_fifo.i.payload, write_fifo.o.payload
        m.d.comb += [
            write_fifo.clear.eq(self.clear),
            write_fifo.i.valid.eq(self.i.valid),
            self.i.ready.eq(write_fifo.i.ready),
            new.scale.eq(kind.scale),
            new.last.eq(count.load_ends),
            new.group.eq(count.part),
            new.sub.eq(count.sub),
            new.data.eq(Cat(Mux(keep, byte, 0) for keep, byte in zip(position.byte_mask, beat, strict=True))),
            new.right.eq(kind.right),
            new.both.eq(kind.both),
            new.transpose.eq(kind.transpose),
            new.row.eq(to.row),
            new.bank_mask.eq(Mux(kind.transpose, -1, 1 << to.bank)),
            new.lane_mask.eq(Mux(kind.transpose, 1 << to.lane, Mux(kind.right, self._group(count.part, C), self._group(count.part, R)))),
            new.right_row.eq(to.right_row),
            new.right_bank_mask.eq(1 << to.bank),
            new.right_lane_mask.eq(self._group(count.part, C)),
        ]

        m.d.comb += [
            *(self.operand.payload[name].eq(out[name]) for name in _WRITE),
            self.operand.payload.seq.eq(out.data),
            self.operand.payload.word.eq(Mux(out.right | out.both, self._word(out.data, out.sub, C), self._word(out.data, out.sub, R))),
            self.operand.valid.eq(write_fifo.o.valid & ~out.scale),
            self.scale.valid.eq(write_fifo.o.valid & out.scale),
            self.scale.payload.row.eq(out.row),
            self.scale.payload.group.eq(out.group),
            self.scale.payload.data.eq(out.data),
            write_fifo.o.ready.eq(Mux(out.scale, self.scale.ready, self.operand.ready)),
            self.load_ends.eq(write_fifo.o.valid & write_fifo.o.ready & out.last),
        ]
        return m

    def _group(self, part: Value, lanes: int) -> Value:
        """The lanes that a natural write of a memory of ``lanes`` lanes reaches."""
        width = min(lanes, self._config.bus_bytes)
        groups = lanes // width
        return Cat((part[: max(exact_log2(groups), 1)] == i).replicate(width) if groups > 1 else Const(-1, width) for i in range(groups))

    def _word(self, beat: Value, sub: Value, lanes: int) -> Value:
        """The bytes of all lanes in a natural write: the beat over and over, or its ``sub``-th piece."""
        W = self._config.bus_bytes
        if lanes >= W:
            return Cat(beat for _ in range(lanes // W))
        return beat.word_select(sub[: exact_log2(W // lanes)], 8 * lanes)


class BeatErrors(wiring.Component):
    """Follows the DRAM address of a load's beats, and reports the first read error with it.

    Members:
        load, begin: as of ``WritePositions``.
        next_word: the present bus word is done with. row_ends: it is the last one of its row.
        error: the present bus word is a read error; at the soonest in the cycle after ``begin`` or ``next_word``.
        fault: that error, two cycles later; held until ``clear``.
        failed: there was an error, from the next cycle on until ``clear``.
        clear: reset the block's state.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        inputs = ("begin", "next_word", "row_ends", "error", "clear")
        super().__init__(
            {"load": In(TransferDescriptor(Opcode.LOAD)), "fault": Out(FaultSignature), "failed": Out(1)} | {name: In(1) for name in inputs}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        load = self.load
        # A cycle late, to keep their fan-out off the handshake of a write.
        next_word_r = Signal()
        row_ends_r = Signal()
        error_r = Signal()
        address = Signal(64)
        next_row = Signal(64)
        row_stride = Signal.like(load.row_stride)
        m.d.sync += [next_word_r.eq(self.next_word), row_ends_r.eq(self.row_ends), error_r.eq(self.error)]
        with m.If(self.begin):
            m.d.sync += [address.eq(load.address), next_row.eq(load.address + load.row_stride), row_stride.eq(load.row_stride)]
        with m.Elif(next_word_r):
            m.d.sync += address.eq(Mux(row_ends_r, next_row, address + self._config.bus_bytes))
            with m.If(row_ends_r):
                m.d.sync += next_row.eq(next_row + row_stride)
        m.d.comb += self.failed.eq(self.fault.valid | error_r)
        with m.If(error_r):
            m.d.sync += [
                self.fault.valid.eq(1),
                self.fault.code.eq(Code.AXI_READ_ERROR),
                self.fault.detail.eq(Check.NONE),
                self.fault.command.eq(load.index),
                self.fault.address.eq(address),
            ]
        with m.If(self.clear):
            m.d.sync += [error_r.eq(0), self.fault.valid.eq(0)]
        return m


class LoadData(wiring.Component):
    """Writes the beats of one load after the other where docs/machine.md says, with its zero padding.

    One write per cycle, one beat per write but where a beat spans several blocks of lanes (natural, lanes < bus_bytes). One
    cycle passes between loads.

    Members:
        transfers: loads, in the order of their beats; taken when the last write is issued.
        beats: the bus words of all loads in a row; of a packed load each is two beats' worth, see ``Unpack``.
        operand, scale: the writes.
        done: the signal mask of a load ``done_delay`` cycles after the one that takes its last write. That write is issued only while
            ``done`` is ready, and the taker must stay so until then.
        ending: the last write of a load is issued, and its ``done`` is to come.
        fault: a read error, with the beat's address; from then on beats are dropped. Held until ``clear``.
        clear: reset the block's state.

    Attributes:
        done_delay: 1.
    """

    done_delay = 1

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__(
            {
                "transfers": In(stream.Signature(TransferDescriptor(Opcode.LOAD))),
                "beats": In(stream.Signature(ReadBeat(config))),
                "operand": Out(stream.Signature(OperandWrite(config))),
                "scale": Out(stream.Signature(ScaleWrite(config))),
                "done": Out(stream.Signature(SEMAPHORES)),
                "ending": Out(1),
                "fault": Out(FaultSignature),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unpack = unpack = Unpack(self._config)
        m.submodules.positions = positions = WritePositions(self._config)
        m.submodules.errors = errors = BeatErrors(self._config)
        m.submodules.writer = writer = ScratchpadWriter(self._config)
        connect(m, flipped(self.transfers), positions.i)
        connect(m, flipped(self.beats), unpack.i)
        connect(m, writer.operand, flipped(self.operand))
        connect(m, writer.scale, flipped(self.scale))
        connect(m, errors.fault, flipped(self.fault))
        for block in (unpack, positions, errors, writer):
            m.d.comb += block.clear.eq(self.clear)

        # A write takes a position and, but for a row of padding, a beat.
        beat, position = unpack.o.payload, positions.o.payload
        count = position.count
        step = Signal()
        from_bus = positions.o.valid & ~count.padding & unpack.o.valid
        may_end = Signal()
        ending = self.ending
        m.d.comb += [
            may_end.eq(self.done.ready & ~ending),
            step.eq(positions.o.valid & writer.i.ready & (count.padding | (unpack.o.valid & ~beat.error)) & (~count.load_ends | may_end)),
            positions.o.ready.eq(step),
            positions.stop.eq(errors.failed | errors.error),
            unpack.o.ready.eq((step & count.beat_ends & ~count.padding) | errors.failed),
            unpack.row_ends.eq(count.row_ends),
            unpack.packed.eq(position.kind.packed),
            writer.i.valid.eq(step),
            writer.i.payload.position.eq(position),
            writer.i.payload.data.eq(beat.data),
            errors.load.eq(self.transfers.payload),
            errors.begin.eq(positions.begin),
            errors.next_word.eq(step & count.beat_ends & ~unpack.stays),
            errors.row_ends.eq(count.row_ends),
            errors.error.eq(from_bus & beat.error),
        ]
        m.d.sync += self.done.valid.eq(writer.load_ends)
        with m.If(step & count.load_ends):
            m.d.sync += [ending.eq(1), self.done.payload.eq(self.transfers.payload.signal)]
        with m.Elif(self.done.valid):
            m.d.sync += ending.eq(0)
        with m.If(self.clear):
            m.d.sync += [ending.eq(0), self.done.valid.eq(0)]
        return m
