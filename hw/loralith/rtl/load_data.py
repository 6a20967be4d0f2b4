"""The data side of the load unit: bus words to scratchpad writes."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.spec.commands import SEMAPHORES, LoadTarget, Opcode
from loralith.spec.config import Config
from loralith.spec.status import Check, Code

from .interfaces import FaultSignature, OperandWrite, ScaleWrite
from .read_master import ReadBeat
from .transfer_check import Job

__all__ = ["LoadData"]

_WRITE = ("right", "row", "transpose", "bank_mask", "lane_mask", "both", "right_row", "right_bank_mask", "right_lane_mask")


class LoadData(wiring.Component):
    """Writes the beats of one load after the other where docs/machine.md says, with the zeros that it asks for.

    One write per cycle, one beat per write but where a beat spans several blocks of lanes (natural, lanes < bus_bytes). One
    cycle passes between loads.

    Members:
        jobs: loads, in the order of their beats; taken when the last write is made up.
        beats: the bus words of all loads in a row.
        operand, scale: the writes.
        done: the signal mask of a load in the cycle that takes its last write. That write is made up only while ``done`` is
            ready, and the taker must stay so until then.
        fault: a read error, with the beat's address; from then on beats are dropped. Held until ``clear``.
        clear: forget everything.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__(
            {
                "jobs": In(stream.Signature(Job(Opcode.LOAD))),
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
        right, is_scale, both = (job.target == target for target in (LoadTarget.RIGHT, LoadTarget.SCALE, LoadTarget.BOTH))

        # The write at the output, made up one cycle earlier.
        valid, out_scale, out_last = Signal(), Signal(), Signal()
        out_data = Signal(8 * W)
        out = Signal(OperandWrite(config))
        out_group, out_sub = Signal(8), Signal(range(max(W // min(R, C), 2)))
        taken, room, may_end, step = Signal(), Signal(), Signal(), Signal()

        # Where the next write goes: ``row`` now, ``row_start`` at the start of this DRAM row.
        running, padding = Signal(), Signal()
        rows_left, beats_left = Signal(17), Signal.like(job.beats)
        row, row_start = Signal(16), Signal(16)
        right_row, right_start = Signal(16), Signal(16)  # the same of the natural half of a load into both
        bank, lane = Signal(range(W)), Signal(range(max(R, C)))
        part, sub, last_sub = Signal(8), Signal.like(out_sub), Signal.like(out_sub)
        end_mask = Signal(W)
        address, next_row = Signal(64), Signal(64)

        def by_target(left: int, right_: int, scale: int = 1) -> Value:
            return Mux(is_scale, scale, Mux(right, right_, left))

        parts = Mux(both, max(C // W, 1), by_target(max(R // W, 1), max(C // W, 1), max(4 * R // W, 1)))  # beats per word
        subs = Mux(job.transpose, 1, by_target(max(W // R, 1), max(W // C, 1)))  # words per beat
        lanes = Mux(right, C, R)

        with m.If(~running & self.jobs.valid):
            tail = job.row_bytes[: exact_log2(W)]
            m.d.sync += [
                running.eq(1),
                padding.eq(0),
                rows_left.eq(job.rows),
                beats_left.eq(job.beats),
                row.eq(job.base),
                row_start.eq(job.base),
                right_row.eq(job.right_base),
                right_start.eq(job.right_base),
                bank.eq(0),
                lane.eq(0),
                part.eq(0),
                sub.eq(0),
                end_mask.eq(Mux(tail == 0, -1, (Const(1, W + 1) << tail) - 1)),
                last_sub.eq(Mux(right, ((tail - 1) & (W - 1)) >> exact_log2(C), ((tail - 1) & (W - 1)) >> exact_log2(R))),
                address.eq(job.address),
                next_row.eq(job.address + job.row_stride),
            ]

        last_beat, last_row = beats_left == 1, rows_left == 1
        beat_ends = sub == Mux(last_beat & (subs != 1), last_sub, subs - 1)
        job_ends = beat_ends & last_beat & last_row & (padding | (job.pad_rows == 0))
        failed = self.fault.valid
        m.d.comb += [
            room.eq(~valid | taken),
            may_end.eq(self.done.ready & ~(valid & out_last)),
            step.eq(running & ~failed & room & (padding | (self.beats.valid & ~self.beats.payload.error)) & (~job_ends | may_end)),
            self.beats.ready.eq((step & beat_ends & ~padding) | failed),
            self.jobs.ready.eq(step & job_ends),
        ]
        with m.If(step):
            with m.If(~beat_ends):
                m.d.sync += [sub.eq(sub + 1), row.eq(row + job.block_stride)]
            with m.Elif(~last_beat):
                m.d.sync += [sub.eq(0), beats_left.eq(beats_left - 1), part.eq(Mux(part == parts - 1, 0, part + 1))]
                with m.If(job.transpose):
                    m.d.sync += row.eq(row + 1)
                with m.Elif(part == parts - 1):
                    m.d.sync += row.eq(row + Mux(is_scale, 1, job.block_stride))
                with m.If(part == parts - 1):
                    m.d.sync += right_row.eq(right_row + job.right_stride)
            with m.Else():
                wraps = Mux(job.transpose, lane == lanes - 1, bank == W - 1)
                start = row_start + Mux(wraps, Mux(job.transpose, job.block_stride, 1), 0)
                right_next = right_start + (bank == W - 1)
                m.d.sync += [
                    sub.eq(0),
                    part.eq(0),
                    beats_left.eq(job.beats),
                    bank.eq(bank + 1),
                    lane.eq(Mux(lane == lanes - 1, 0, lane + 1)),
                    row.eq(start),
                    row_start.eq(start),
                    right_row.eq(right_next),
                    right_start.eq(right_next),
                    rows_left.eq(rows_left - 1),
                ]
                with m.If(last_row & ~padding):
                    m.d.sync += [padding.eq(1), rows_left.eq(job.pad_rows)]
            with m.If(job_ends):
                m.d.sync += running.eq(0)
            with m.If(beat_ends):
                m.d.sync += address.eq(Mux(last_beat, next_row, address + W))
                with m.If(last_beat):
                    m.d.sync += next_row.eq(next_row + job.row_stride)

        with m.If(running & ~padding & self.beats.valid & self.beats.payload.error & ~failed):
            m.d.sync += [
                self.fault.valid.eq(1),
                self.fault.code.eq(Code.AXI_READ_ERROR),
                self.fault.detail.eq(Check.NONE),
                self.fault.command.eq(job.index),
                self.fault.address.eq(address),
            ]

        # The write itself.
        keep = Mux(padding, 0, Mux(last_beat, end_mask, -1))
        with m.If(step):
            m.d.sync += [
                valid.eq(1),
                out_scale.eq(is_scale),
                out_last.eq(job_ends),
                out_group.eq(part),
                out_sub.eq(sub),
                out_data.eq(self.beats.payload.data.as_value() & Cat(keep[i].replicate(8) for i in range(W))),
                out.right.eq(right),
                out.both.eq(both),
                out.right_row.eq(right_row),
                out.right_bank_mask.eq(1 << bank),
                out.right_lane_mask.eq(self._group(part, C)),
                out.row.eq(row),
                out.transpose.eq(job.transpose),
                out.bank_mask.eq(Mux(job.transpose, -1, 1 << bank)),
                out.lane_mask.eq(Mux(job.transpose, 1 << lane, Mux(right, self._group(part, C), self._group(part, R)))),
            ]
            with m.If(job_ends):
                m.d.sync += self.done.payload.eq(job.signal)
        with m.Elif(taken):
            m.d.sync += valid.eq(0)

        m.d.comb += [
            *(self.operand.payload[name].eq(out[name]) for name in _WRITE),
            self.operand.payload.seq.eq(out_data),
            self.operand.payload.word.eq(Mux(out.right | out.both, self._word(out_data, out_sub, C), self._word(out_data, out_sub, R))),
            self.operand.valid.eq(valid & ~out_scale),
            self.scale.valid.eq(valid & out_scale),
            self.scale.payload.row.eq(out.row),
            self.scale.payload.group.eq(out_group),
            self.scale.payload.data.eq(out_data),
            taken.eq(valid & Mux(out_scale, self.scale.ready, self.operand.ready)),
            self.done.valid.eq(taken & out_last),
        ]
        with m.If(self.clear):
            m.d.sync += [running.eq(0), valid.eq(0), self.fault.valid.eq(0)]
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
