"""The data side of the load unit: bus words to scratchpad writes."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from loralith.spec.commands import SEMAPHORES, LoadTarget, Opcode
from loralith.spec.config import Config
from loralith.spec.status import Check, Code

from .interfaces import FaultSignature, OperandWrite, ScaleWrite
from .queue import SkidBuffer
from .read_master import ReadBeat
from .transfer_check import TransferDescriptor
from .unpack import Unpack

__all__ = ["LoadData"]

_WRITE = ("right", "row", "transpose", "bank_mask", "lane_mask", "both", "right_row", "right_bank_mask", "right_lane_mask")


class LoadData(wiring.Component):
    """Writes the beats of one load after the other where docs/machine.md says, with the zeros that it asks for.

    One write per cycle, one beat per write but where a beat spans several blocks of lanes (natural, lanes < bus_bytes). One
    cycle passes between loads.

    Members:
        jobs: loads, in the order of their beats; taken when the last write is issued.
        beats: the bus words of all loads in a row; of a packed load each is two beats' worth, see ``Unpack``.
        operand, scale: the writes.
        done: the signal mask of a load in the cycle after the one that takes its last write. That write is issued only while
            ``done`` is ready, and the taker must stay so until then.
        fault: a read error, with the beat's address; from then on beats are dropped. Held until ``clear``.
        clear: forget everything.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__(
            {
                "jobs": In(stream.Signature(TransferDescriptor(Opcode.LOAD))),
                "beats": In(stream.Signature(ReadBeat(config))),
                "operand": Out(stream.Signature(OperandWrite(config))),
                "scale": Out(stream.Signature(ScaleWrite(config))),
                "done": Out(stream.Signature(SEMAPHORES)),
                "fault": Out(FaultSignature),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, job = self._config, self.jobs.payload
        R, C, W = config.rows, config.cols, config.bus_bytes

        m.submodules.unpack = unpack = Unpack(config)
        connect(m, flipped(self.beats), unpack.i)
        beats = unpack.o

        # Skid buffer for writes: cuts the path from a memory's ready to the write generator.
        fields = OperandWrite(config)
        more = {"scale": 1, "last": 1, "group": 8, "sub": range(max(W // min(R, C), 2)), "data": 8 * W}
        m.submodules.write_fifo = write_fifo = SkidBuffer(data.StructLayout({name: fields[name].shape for name in _WRITE} | more))
        new = write_fifo.i.payload
        out = write_fifo.o.payload
        taken = Signal()
        may_end = Signal()
        ending = Signal()
        step = Signal()

        # Registers for the transfer's fields: the FIFO that holds it is placed far from here.
        right = Signal()
        is_scale = Signal()
        both = Signal()
        transpose = Signal()
        block_stride = Signal(16)
        right_stride = Signal(16)
        no_pad = Signal()
        one_pad = Signal()
        one_beat = Signal()
        last_part = Signal(range(max(C // W, 4 * R // W, 2)))
        last_sub = Signal.like(new.sub)
        tail_sub = Signal.like(new.sub)

        # Where the next write goes: ``row`` now, ``row_start`` at the start of this DRAM row.
        running = Signal()
        padding = Signal()
        rows_left = Signal(17)
        beats_left = Signal.like(job.beats)
        last_row = Signal()
        last_beat = Signal()
        finishing = Signal()  # the last beat of the last row
        row = Signal(16)
        row_start = Signal(16)
        right_row = Signal(16)  # the same of the natural half of a load into both
        right_start = Signal(16)
        bank = Signal(range(W))
        lane = Signal(range(max(R, C)))
        part = Signal.like(last_part)
        sub = Signal.like(new.sub)
        end_mask = Signal(W)
        address = Signal(64)
        next_row = Signal(64)
        row_stride = Signal.like(job.row_stride)

        job_right, job_scale, job_both = (job.target == t for t in (LoadTarget.RIGHT, LoadTarget.SCALE, LoadTarget.BOTH))
        parts = Mux(job_scale, max(4 * R // W, 1), Mux(job_right | job_both, max(C // W, 1), max(R // W, 1)))  # beats per word
        subs = Mux(job.transpose | job_scale, 1, Mux(job_right, max(W // C, 1), max(W // R, 1)))  # words per beat
        at_last_lane = Signal()
        at_last_bank = Signal()
        row_step = Signal(16)  # from one group of DRAM rows to the next

        # The error and its address are registered a cycle late to keep their fan-out off ``step``.
        passed = Signal()
        passed_last = Signal()
        bad = Signal()
        m.d.sync += [passed.eq(0), passed_last.eq(last_beat), bad.eq(running & ~padding & beats.valid & beats.payload.error)]
        failed = self.fault.valid | bad
        begins = ~failed & self.jobs.valid
        beat_ends = sub == Mux(last_beat, tail_sub, last_sub) if min(R, C) < W else Const(1)
        part_ends = part == last_part
        job_ends = beat_ends & finishing
        m.d.comb += [
            may_end.eq(self.done.ready & ~ending),
            step.eq(running & write_fifo.i.ready & (padding | (beats.valid & ~beats.payload.error)) & (~job_ends | may_end)),
            beats.ready.eq((step & beat_ends & ~padding) | failed),
            unpack.row_ends.eq(last_beat),
            unpack.clear.eq(self.clear),
            self.jobs.ready.eq(step & job_ends),
        ]
        with m.If(running):  # ``step`` is late, so it drives only the clock enables
            with m.If(step):
                with m.If(~beat_ends):
                    m.d.sync += [sub.eq(sub + 1), row.eq(row + block_stride)]
                with m.Elif(~last_beat):
                    m.d.sync += [
                        sub.eq(0),
                        beats_left.eq(beats_left - 1),
                        last_beat.eq(beats_left == 2),
                        finishing.eq((beats_left == 2) & last_row & (padding | no_pad)),
                        part.eq(Mux(part_ends, 0, part + 1)),
                    ]
                    with m.If(transpose):
                        m.d.sync += row.eq(row + 1)
                    with m.Elif(part_ends):
                        m.d.sync += row.eq(row + Mux(is_scale, 1, block_stride))
                    with m.If(part_ends):
                        m.d.sync += right_row.eq(right_row + right_stride)
                with m.Else():
                    start = row_start + Mux(Mux(transpose, at_last_lane, at_last_bank), row_step, 0)
                    right_next = right_start + at_last_bank
                    m.d.sync += [
                        sub.eq(0),
                        part.eq(0),
                        beats_left.eq(job.beats),
                        last_beat.eq(one_beat),
                        bank.eq(bank + 1),
                        at_last_bank.eq(bank == W - 2),
                        lane.eq(Mux(at_last_lane, 0, lane + 1)),
                        at_last_lane.eq(lane == Mux(right, C - 2, R - 2)),
                        row.eq(start),
                        row_start.eq(start),
                        right_row.eq(right_next),
                        right_start.eq(right_next),
                        rows_left.eq(rows_left - 1),
                        last_row.eq(rows_left == 2),
                        finishing.eq(one_beat & (rows_left == 2) & (padding | no_pad)),
                    ]
                    with m.If(last_row & ~padding):
                        m.d.sync += [padding.eq(1), rows_left.eq(job.pad_rows), last_row.eq(one_pad), finishing.eq(one_beat & one_pad)]
                with m.If(job_ends):
                    m.d.sync += running.eq(0)
                m.d.sync += passed.eq(beat_ends & ~unpack.stays)
        with m.Elif(begins):
            tail = job.row_bytes[: exact_log2(W)]
            last_byte = (tail - 1)[: exact_log2(W)]
            m.d.sync += [
                running.eq(1),
                padding.eq(0),
                right.eq(job_right),
                is_scale.eq(job_scale),
                both.eq(job_both),
                transpose.eq(job.transpose),
                unpack.packed.eq(job.packed4),
                block_stride.eq(job.block_stride),
                row_step.eq(Mux(job.transpose, job.block_stride, 1)),
                right_stride.eq(job.right_stride),
                no_pad.eq(job.pad_rows == 0),
                one_pad.eq(job.pad_rows == 1),
                one_beat.eq(job.beats == 1),
                last_part.eq(parts - 1),
                last_sub.eq(subs - 1),
                tail_sub.eq(Mux(subs == 1, 0, Mux(job_right, last_byte >> exact_log2(C), last_byte >> exact_log2(R)))),
                rows_left.eq(job.rows),
                last_row.eq(job.rows == 1),
                beats_left.eq(job.beats),
                last_beat.eq(job.beats == 1),
                finishing.eq((job.beats == 1) & (job.rows == 1) & (job.pad_rows == 0)),
                row.eq(job.base),
                row_start.eq(job.base),
                right_row.eq(job.right_base),
                right_start.eq(job.right_base),
                bank.eq(0),
                at_last_bank.eq(0),
                lane.eq(0),
                at_last_lane.eq(0),
                part.eq(0),
                sub.eq(0),
                end_mask.eq(Mux(tail == 0, -1, (Const(1, W + 1) << tail) - 1)),
                address.eq(job.address),
                next_row.eq(job.address + job.row_stride),
                row_stride.eq(job.row_stride),
            ]

        with m.If(passed & running):
            m.d.sync += address.eq(Mux(passed_last, next_row, address + W))
            with m.If(passed_last):
                m.d.sync += next_row.eq(next_row + row_stride)
        with m.If(running & ~padding & beats.valid & beats.payload.error):
            m.d.sync += running.eq(0)
        with m.If(bad):
            m.d.sync += [
                self.fault.valid.eq(1),
                self.fault.code.eq(Code.AXI_READ_ERROR),
                self.fault.detail.eq(Check.NONE),
                self.fault.command.eq(job.index),
                self.fault.address.eq(address),
            ]

        # The write itself.
        keep = Mux(padding, 0, Mux(last_beat, end_mask, -1))
        m.d.comb += [
            write_fifo.i.valid.eq(step),
            write_fifo.clear.eq(self.clear),
            new.scale.eq(is_scale),
            new.last.eq(job_ends),
            new.group.eq(part),
            new.sub.eq(sub),
            new.data.eq(beats.payload.data.as_value() & Cat(keep[i].replicate(8) for i in range(W))),
            new.right.eq(right),
            new.both.eq(both),
            new.right_row.eq(right_row),
            new.right_bank_mask.eq(1 << bank),
            new.right_lane_mask.eq(self._group(part, C)),
            new.row.eq(row),
            new.transpose.eq(transpose),
            new.bank_mask.eq(Mux(transpose, -1, 1 << bank)),
            new.lane_mask.eq(Mux(transpose, 1 << lane, Mux(right, self._group(part, C), self._group(part, R)))),
            *(self.operand.payload[name].eq(out[name]) for name in _WRITE),
            self.operand.payload.seq.eq(out.data),
            self.operand.payload.word.eq(Mux(out.right | out.both, self._word(out.data, out.sub, C), self._word(out.data, out.sub, R))),
            self.operand.valid.eq(write_fifo.o.valid & ~out.scale),
            self.scale.valid.eq(write_fifo.o.valid & out.scale),
            self.scale.payload.row.eq(out.row),
            self.scale.payload.group.eq(out.group),
            self.scale.payload.data.eq(out.data),
            write_fifo.o.ready.eq(Mux(out.scale, self.scale.ready, self.operand.ready)),
            taken.eq(write_fifo.o.valid & write_fifo.o.ready),
        ]
        m.d.sync += self.done.valid.eq(taken & out.last)
        with m.If(step & job_ends):
            m.d.sync += [ending.eq(1), self.done.payload.eq(job.signal)]
        with m.Elif(self.done.valid):
            m.d.sync += ending.eq(0)
        with m.If(self.clear):
            m.d.sync += [running.eq(0), bad.eq(0), ending.eq(0), self.done.valid.eq(0), self.fault.valid.eq(0)]
        return m

    def _group(self, part: Signal, lanes: int) -> Value:
        """The lanes that a natural write of a memory of ``lanes`` lanes reaches."""
        width = min(lanes, self._config.bus_bytes)
        groups = lanes // width
        return Cat((part[: max(exact_log2(groups), 1)] == i).replicate(width) if groups > 1 else Const(-1, width) for i in range(groups))

    def _word(self, beat: Signal, sub: Signal, lanes: int) -> Value:
        """The bytes of all lanes in a natural write: the beat over and over, or its ``sub``-th piece."""
        W = self._config.bus_bytes
        if lanes >= W:
            return Cat(beat for _ in range(lanes // W))
        return beat.word_select(sub[: exact_log2(W // lanes)], 8 * lanes)
