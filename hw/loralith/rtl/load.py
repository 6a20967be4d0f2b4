"""The LOAD unit: DRAM to scratchpads."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from loralith.spec.commands import LoadTarget, Opcode
from loralith.spec.config import Config
from loralith.spec.status import Check, Code

from .bursts import Burst, BurstSplitter
from .completion import Completion
from .fault import FaultLatch
from .interfaces import (
    CommandEntry,
    FaultSignature,
    OperandWrite,
    ScaleWrite,
    SignalSignature,
    UnitControl,
    WaitSignature,
    vector_ports,
)
from .load_data import LoadData
from .queue import FIFO, SkidBuffer
from .read_master import ReadBeat
from .transfer_check import TransferCheck, TransferDescriptor
from .vector.load_data import VectorLoadData

__all__ = ["VECTOR_WRITES", "LoadUnit"]

VECTOR_WRITES = ("vector_load", "program_write", "scalar_write", "key_write")
"""Those of ``vector_ports`` that LOAD drives."""


class LoadUnit(wiring.Component):
    """Checks a load, takes its tokens, requests its bursts and writes the beats: a pipeline of four stages, each on a command of its own.

    Up to ``max_in_flight`` loads are in flight, so that memory latency shows once and not per command.

    Parameters: config; write_delay: cycles from taking a write to its byte being readable.

    Members:
        commands: from the queue. control, fault, wait, signal: see interfaces.
        bursts, beats: to and from the read master. refused, refused_address: a burst outside the window.
        window_base, window_limit: DRAM that may be reached.
        operand, scale: writes; either may be stalled.
        vector_load, program_write, scalar_write, key_write: of a configuration with vector lanes, see ``vector_ports``.
        active: a load has its tokens and is not complete (for the cycle counters).
    """

    max_in_flight = 8

    def __init__(self, config: Config, write_delay: int) -> None:
        self._config, self._write_delay = config, write_delay
        super().__init__(
            {
                "commands": In(stream.Signature(CommandEntry)),
                "control": In(UnitControl),
                "fault": Out(FaultSignature),
                "wait": Out(WaitSignature),
                "signal": Out(SignalSignature),
                "bursts": Out(stream.Signature(Burst)),
                "beats": In(stream.Signature(ReadBeat(config))),
                "refused": In(1),
                "refused_address": In(64),
                "window_base": In(64),
                "window_limit": In(64),
                "operand": Out(stream.Signature(OperandWrite(config))),
                "scale": Out(stream.Signature(ScaleWrite(config))),
                "active": Out(1),
                **{name: member for name, member in vector_ports(config).items() if name in VECTOR_WRITES},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, control = self._config, self.control
        m.submodules.check = check = TransferCheck(config, Opcode.LOAD)
        m.submodules.splitter = splitter = BurstSplitter(config)
        m.submodules.burst_skid = burst_skid = SkidBuffer(Burst)  # cuts the path from the master's ready to the splitter
        m.submodules.transfer_fifo = transfer_fifo = FIFO(TransferDescriptor(Opcode.LOAD), self.max_in_flight - 2)
        # The last two of ``max_in_flight`` are registers, since a memory's output is late.
        m.submodules.next_transfer = next_transfer = SkidBuffer(TransferDescriptor(Opcode.LOAD))
        m.submodules.data = data = LoadData(config)
        m.submodules.completion = completion = Completion(self._write_delay - LoadData.done_delay)
        m.submodules.faults = faults = FaultLatch(3 + bool(config.vector_lanes))

        connect(m, flipped(self.commands), check.i)
        connect(m, transfer_fifo.o, next_transfer.i)
        connect(m, splitter.o, burst_skid.i)
        connect(m, burst_skid.o, flipped(self.bursts))
        connect(m, data.operand, flipped(self.operand))
        connect(m, data.scale, flipped(self.scale))
        connect(m, completion.signal, flipped(self.signal))
        connect(m, faults.fault, flipped(self.fault))
        # Pipeline register: ``stop`` is routed far. A burst that starts a cycle too late is held back by the stopped master.
        stop = Signal()
        m.d.sync += stop.eq(control.stop)
        for block in (check, splitter, burst_skid, transfer_fifo, next_transfer, data, completion, faults):
            m.d.comb += block.clear.eq(control.clear)

        transfer = check.o.payload
        granted = Signal()
        issued_index = Signal(32)
        m.d.comb += [
            check.window_base.eq(self.window_base),
            check.window_limit.eq(self.window_limit),
            check.stop.eq(stop),
            self.wait.valid.eq(check.o.valid & ~granted & ~stop),
            self.wait.mask.eq(transfer.wait),
            transfer_fifo.i.payload.eq(transfer),
            splitter.i.payload.address.eq(transfer.address),
            splitter.i.payload.rows.eq(transfer.rows),
            splitter.i.payload.beats.eq(transfer.words),
            splitter.i.payload.stride.eq(transfer.row_stride),
            transfer_fifo.i.valid.eq(granted & splitter.i.ready),
            splitter.i.valid.eq(granted & transfer_fifo.i.ready),
            check.o.ready.eq(granted & transfer_fifo.i.ready & splitter.i.ready),
        ]
        with m.If(self.wait.valid & self.wait.ready):
            m.d.sync += granted.eq(1)
        with m.If(check.o.ready):
            m.d.sync += [granted.eq(0), issued_index.eq(transfer.index)]
        with m.If(control.clear):
            m.d.sync += granted.eq(0)

        connect(m, check.fault, faults.sources[0])
        connect(m, data.fault, faults.sources[1])
        m.d.comb += [
            faults.sources[2].valid.eq(self.refused),
            faults.sources[2].code.eq(Code.DRAM_WINDOW),
            faults.sources[2].detail.eq(Check.ADDRESS),
            faults.sources[2].command.eq(issued_index),
            faults.sources[2].address.eq(self.refused_address),
        ]

        vector_data = self._route(m, next_transfer, data, completion, faults) if config.vector_lanes else None
        if vector_data is None:
            connect(m, next_transfer.o, data.transfers)
            connect(m, flipped(self.beats), data.beats)
            connect(m, data.done, completion.i)
        written = (data.operand.valid & data.operand.ready) | (data.scale.valid & data.scale.ready)
        m.d.comb += [
            self.active.eq(
                granted
                | transfer_fifo.o.valid
                | next_transfer.o.valid
                | data.operand.valid
                | data.scale.valid
                | data.done.valid
                | completion.pending
            ),
            control.busy.eq((self.active | check.o.valid) & ~control.stop),
            control.complete.eq(completion.complete),
        ]
        if vector_data is not None:
            written = written | vector_data.progress
        m.d.sync += control.progress.eq(written | completion.complete | (self.wait.valid & self.wait.ready))
        return m

    def _route(self, m: Module, transfer: SkidBuffer, data: LoadData, completion: Completion, faults: FaultLatch) -> VectorLoadData:
        """Routes transfers and their bus words to the scratchpads or to the vector unit. A load to the other side begins only when all
        before it are done."""
        m.submodules.vector_data = vector_data = VectorLoadData(self._config)
        load, to_vector = transfer.o, Signal()
        beats_to_vector = Mux(data.fault.valid, 0, to_vector | vector_data.fault.valid)
        m.d.comb += [
            vector_data.clear.eq(self.control.clear),
            to_vector.eq(load.payload.target > LoadTarget.BOTH),
            data.transfers.valid.eq(load.valid & ~to_vector),
            data.transfers.payload.eq(load.payload),
            vector_data.transfers.valid.eq(load.valid & to_vector),
            vector_data.transfers.payload.eq(load.payload),
            load.ready.eq(Mux(to_vector, vector_data.transfers.ready, data.transfers.ready)),
            data.beats.valid.eq(self.beats.valid & ~beats_to_vector),
            data.beats.payload.eq(self.beats.payload),
            vector_data.beats.valid.eq(self.beats.valid & beats_to_vector),
            vector_data.beats.payload.eq(self.beats.payload),
            self.beats.ready.eq(Mux(beats_to_vector, vector_data.beats.ready, data.beats.ready)),
            vector_data.hold.eq(data.ending | data.done.valid),
            completion.i.valid.eq(data.done.valid | vector_data.done.valid),
            completion.i.payload.eq(Mux(data.done.valid, data.done.payload, vector_data.done.payload)),
            data.done.ready.eq(completion.i.ready),
            vector_data.done.ready.eq(completion.i.ready),
        ]
        connect(m, vector_data.fault, faults.sources[3])
        connect(m, vector_data.writes, flipped(self.vector_load))
        connect(m, vector_data.program, flipped(self.program_write))
        connect(m, vector_data.scalars, flipped(self.scalar_write))
        connect(m, vector_data.key, flipped(self.key_write))
        return vector_data
