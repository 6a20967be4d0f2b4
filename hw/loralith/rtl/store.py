"""The STORE unit: output buffer and statistics to DRAM."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from loralith.spec.commands import SEMAPHORES, Opcode, StoreSource
from loralith.spec.config import Config
from loralith.spec.status import Check, Code

from .bursts import BEAT_BITS, Burst, BurstSplitter
from .completion import Completion
from .fault import FaultLatch
from .interfaces import (
    CommandEntry,
    FaultSignature,
    OutReadSignature,
    SignalSignature,
    StatReadSignature,
    UnitControl,
    WaitSignature,
    vector_ports,
)
from .queue import FIFO, SkidBuffer
from .store_data import StoreData
from .transfer_check import TransferCheck, TransferDescriptor
from .vector.store_data import VectorStoreData
from .write_master import WriteBeat

__all__ = ["VECTOR_READS", "StartedStore", "StoreResponses", "StoreUnit"]

VECTOR_READS = ("vector_store", "vector_stored", "scalar_read")
"""Those of ``vector_ports`` that STORE drives."""


class StartedStore(data.StructLayout):
    """What a store's end needs: the tokens that it gives, and its index in the list."""

    def __init__(self) -> None:
        super().__init__({"signal": SEMAPHORES, "index": 32})


class StoreResponses(wiring.Component):
    """Completes stores in the order in which they started, each with its last response.

    Responses are counted, so that they are accepted even while the semaphores are full.

    Parameter: max_in_flight, the most stores that are in flight.

    Members:
        i: stores that start.
        command_done: one-cycle pulse: the last response of the oldest store that waits for one. index: that store.
        signal, complete: see ``Completion``.
        active: a store has started and is not complete.
        clear: reset the block's state.
    """

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        super().__init__(
            {
                "i": In(stream.Signature(StartedStore())),
                "command_done": In(1),
                "index": Out(32),
                "signal": Out(SignalSignature),
                "complete": Out(1),
                "active": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.signals = signals = FIFO(SEMAPHORES, self._max_in_flight)  # of stores that are not complete
        m.submodules.indices = indices = FIFO(32, self._max_in_flight)  # of stores whose responses are not all in
        m.submodules.completion = completion = Completion()
        connect(m, completion.signal, flipped(self.signal))
        for block in (signals, indices, completion):
            m.d.comb += block.clear.eq(self.clear)
        uncompleted = Signal(range(self._max_in_flight + 1))
        m.d.comb += [
            self.i.ready.eq(signals.i.ready & indices.i.ready),
            signals.i.valid.eq(self.i.valid & self.i.ready),
            signals.i.payload.eq(self.i.payload.signal),
            indices.i.valid.eq(self.i.valid & self.i.ready),
            indices.i.payload.eq(self.i.payload.index),
            indices.o.ready.eq(self.command_done),
            completion.i.valid.eq(uncompleted != 0),
            completion.i.payload.eq(signals.o.payload),
            signals.o.ready.eq(completion.i.valid & completion.i.ready),
            self.index.eq(indices.o.payload),
            self.complete.eq(completion.complete),
            self.active.eq(signals.o.valid | completion.pending),
        ]
        with m.If(self.command_done ^ signals.o.ready):
            m.d.sync += uncompleted.eq(Mux(self.command_done, uncompleted + 1, uncompleted - 1))
        with m.If(self.clear):
            m.d.sync += uncompleted.eq(0)
        return m


class StoreUnit(wiring.Component):
    """Checks a store, takes its tokens, issues its bursts and sends the beats; a store is complete with its last response.

    The following stores go on while responses are outstanding; up to ``max_in_flight`` stores are in flight. Packed rows go out as one
    contiguous stretch.

    Parameters: config; out_delay, stat_delay: cycles from a read's ``en`` to its data.

    Members:
        commands: from the queue. control, fault, wait, signal: see interfaces. After ``stop`` the data of bursts that were
            issued still comes.
        bursts, beats: to the write master. refused, refused_address, command_done, error, error_address: from it.
        window_base, window_limit: DRAM that may be reached.
        out_read, stat_read: the memories. vector_store, vector_stored, scalar_read: of a configuration with vector lanes, see
            ``vector_ports``.
        active: a store has its tokens and is not complete (for the cycle counters).
    """

    max_in_flight = 8

    def __init__(self, config: Config, out_delay: int, stat_delay: int) -> None:
        self._config, self._delays = config, (out_delay, stat_delay)
        super().__init__(
            {
                "commands": In(stream.Signature(CommandEntry)),
                "control": In(UnitControl),
                "fault": Out(FaultSignature),
                "wait": Out(WaitSignature),
                "signal": Out(SignalSignature),
                "bursts": Out(stream.Signature(Burst)),
                "beats": Out(stream.Signature(WriteBeat(config))),
                "refused": In(1),
                "refused_address": In(64),
                "command_done": In(1),
                "error": In(1),
                "error_address": In(64),
                "window_base": In(64),
                "window_limit": In(64),
                "out_read": Out(OutReadSignature(config)),
                "stat_read": Out(StatReadSignature),
                "active": Out(1),
                **{name: member for name, member in vector_ports(config).items() if name in VECTOR_READS},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, control = self._config, self.control
        m.submodules.check = check = TransferCheck(config, Opcode.STORE)
        m.submodules.splitter = splitter = BurstSplitter(config)
        m.submodules.burst_skid = burst_skid = SkidBuffer(Burst)  # cuts the path from the master's ready to the splitter
        m.submodules.transfer_skid = transfer_skid = SkidBuffer(TransferDescriptor(Opcode.STORE))
        m.submodules.data = store_data = StoreData(config, *self._delays)
        m.submodules.responses = responses = StoreResponses(self.max_in_flight)
        m.submodules.faults = faults = FaultLatch(3)

        connect(m, flipped(self.commands), check.i)
        reads = self._route(m, transfer_skid, store_data)
        connect(m, splitter.o, burst_skid.i)
        connect(m, burst_skid.o, flipped(self.bursts))
        connect(m, store_data.out_read, flipped(self.out_read))
        connect(m, store_data.stat_read, flipped(self.stat_read))
        connect(m, responses.signal, flipped(self.signal))
        connect(m, faults.fault, flipped(self.fault))
        # Pipeline register: ``stop`` is routed far. A burst that starts a cycle too late is held back by the stopped master.
        stop = Signal()
        m.d.sync += stop.eq(control.stop)
        for block in (check, splitter, burst_skid, transfer_skid, store_data, responses, faults):
            m.d.comb += block.clear.eq(control.clear)

        # A command starts only when every consumer of it is ready.
        transfer = check.o.payload
        granted = Signal()
        start = Signal()
        sinks = (splitter.i, transfer_skid.i, responses.i)
        for sink in sinks:
            m.d.comb += sink.valid.eq(start)
        word_bits = exact_log2(config.bus_bytes)
        packed_bytes = Signal(16 + word_bits)  # of all packed rows
        for i in range(word_bits):
            with m.If(transfer.row_bytes[i]):
                m.d.comb += packed_bytes.eq(transfer.rows << i)
        packed_beats = (packed_bytes + config.bus_bytes - 1) >> word_bits
        beats = Signal(BEAT_BITS)  # registered: a transfer waits at least a cycle before it starts
        m.d.sync += beats.eq(Mux(transfer.packed, packed_beats, transfer.beats))
        # Registered for timing: only a start can take a consumer's ready away, and the flag is low in the cycle after one.
        sinks_ready = Signal()
        m.d.sync += sinks_ready.eq(Cat(sink.ready for sink in sinks).all() & ~start)
        m.d.comb += [
            check.window_base.eq(self.window_base),
            check.window_limit.eq(self.window_limit),
            check.stop.eq(stop),
            self.wait.valid.eq(check.o.valid & ~granted & ~stop),
            self.wait.mask.eq(transfer.wait),
            start.eq(granted & sinks_ready & ~stop),
            check.o.ready.eq(start),
            transfer_skid.i.payload.eq(transfer),
            responses.i.payload.signal.eq(transfer.signal),
            responses.i.payload.index.eq(transfer.index),
            responses.command_done.eq(self.command_done),
            splitter.i.payload.address.eq(transfer.address),
            splitter.i.payload.rows.eq(Mux(transfer.packed, 1, transfer.rows)),
            splitter.i.payload.beats.eq(beats),
            splitter.i.payload.stride.eq(transfer.row_stride),
        ]
        issued_index = Signal(32)
        with m.If(self.wait.valid & self.wait.ready):
            m.d.sync += granted.eq(1)
        with m.If(start):
            m.d.sync += [granted.eq(0), issued_index.eq(transfer.index)]
        with m.If(control.clear):
            m.d.sync += granted.eq(0)

        connect(m, check.fault, faults.sources[0])
        for source, valid, code, detail, index, address in (
            (faults.sources[1], self.error, Code.AXI_WRITE_ERROR, Check.NONE, responses.index, self.error_address),
            (faults.sources[2], self.refused, Code.DRAM_WINDOW, Check.ADDRESS, issued_index, self.refused_address),
        ):
            m.d.comb += [
                source.valid.eq(valid),
                source.code.eq(code),
                source.detail.eq(detail),
                source.command.eq(index),
                source.address.eq(address),
            ]
        m.d.comb += [
            self.active.eq(granted | responses.active),
            control.busy.eq((self.active | check.o.valid) & ~control.stop),
            control.complete.eq(responses.complete),
        ]
        m.d.sync += control.progress.eq(reads | responses.complete | (self.wait.valid & self.wait.ready))
        return m

    def _route(self, m: Module, transfer_skid: SkidBuffer, store_data: StoreData) -> Value:
        """Routes stores to the output buffer's side or to the vector unit's. A store on the other side begins only when all bus words
        before it are out. Returns whether a memory is read."""
        reads = store_data.out_read.en | store_data.stat_read.en
        if not self._config.vector_lanes:
            connect(m, transfer_skid.o, store_data.transfers)
            connect(m, store_data.beats, flipped(self.beats))
            return reads
        m.submodules.vector_data = vector_data = VectorStoreData(self._config)
        store, to_vector = transfer_skid.o, Signal()
        m.d.comb += [
            vector_data.clear.eq(self.control.clear),
            to_vector.eq(store.payload.source > StoreSource.STATS),
            store_data.transfers.valid.eq(store.valid & ~to_vector),
            store_data.transfers.payload.eq(store.payload),
            vector_data.transfers.valid.eq(store.valid & to_vector),
            vector_data.transfers.payload.eq(store.payload),
            store.ready.eq(Mux(to_vector, vector_data.transfers.ready, store_data.transfers.ready)),
            vector_data.hold.eq(~store_data.idle),
            self.beats.valid.eq(store_data.beats.valid | vector_data.beats.valid),
            self.beats.payload.eq(Mux(store_data.beats.valid, store_data.beats.payload, vector_data.beats.payload)),
            store_data.beats.ready.eq(self.beats.ready),
            vector_data.beats.ready.eq(self.beats.ready & ~store_data.beats.valid),
        ]
        connect(m, vector_data.reads, flipped(self.vector_store))
        connect(m, flipped(self.vector_stored), vector_data.read_data)
        connect(m, vector_data.scalars, flipped(self.scalar_read))
        return reads | vector_data.progress
