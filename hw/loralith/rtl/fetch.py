"""The command fetch: the list from DRAM into the units' queues."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.enum import Enum
from amaranth.lib.wiring import In, Out, connect, flipped

from loralith.spec.commands import COMMAND_BYTES
from loralith.spec.config import Config
from loralith.spec.status import Check, Code

from .block_queue import BlockFIFO, CommandWord
from .bursts import Burst, BurstSplitter
from .dispatch import Dispatcher, queue_names
from .fault import FaultLatch
from .fetch_list import DescriptorRequests, ListCheck
from .interfaces import INDEX_BITS, FaultSignature, UnitControl
from .queue import SkidBuffer
from .read_master import ReadBeat

__all__ = ["Fetch"]


class State(Enum, shape=2):
    IDLE = 0
    CHECK = 1
    READ = 2


class Fetch(wiring.Component):
    """Checks the list, then reads its descriptors in order, up to ``max_prefetched`` ahead of the queues.

    Each descriptor is a transfer of its own, split at 4 KiB boundaries and into bursts of at most ``max_burst`` beats.

    Members:
        start: one-cycle pulse, at least one cycle after ``control.clear``: read the list.
        list_base, list_length: where and how long it is; must hold while ``control.busy``.
        control, fault: see interfaces; ``control.complete`` stays low.
        bursts, beats: to and from the read master; beats are always taken. refused, refused_address: a burst outside the window.
        window_base, window_limit: DRAM that may be reached.
        load, compute, store, and with vector lanes vector: the words of the commands of each kind.
        active: descriptors are being read or put together (for the cycle counters).
    """

    max_prefetched = 8

    def __init__(self, config: Config) -> None:
        self._config = config
        self.queues = queue_names(config)
        super().__init__(
            {
                "start": In(1),
                "list_base": In(64),
                "list_length": In(32),
                "control": In(UnitControl),
                "fault": Out(FaultSignature),
                "bursts": Out(stream.Signature(Burst)),
                "beats": In(stream.Signature(ReadBeat(config))),
                "refused": In(1),
                "refused_address": In(64),
                "window_base": In(64),
                "window_limit": In(64),
                **{name: Out(stream.Signature(CommandWord(config))) for name in self.queues},
                "active": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, control = self._config, self.control
        m.submodules.check = check = ListCheck(config)
        m.submodules.requests = requests = DescriptorRequests(config, self.max_prefetched)
        m.submodules.splitter = splitter = BurstSplitter(config)
        m.submodules.burst_skid = burst_skid = SkidBuffer(Burst)  # cuts the path from the master's ready to the splitter
        m.submodules.words = words = BlockFIFO(ReadBeat(config), self.max_prefetched * COMMAND_BYTES // config.bus_bytes)
        m.submodules.dispatcher = dispatcher = Dispatcher(config)
        connect(m, requests.o, splitter.i)
        connect(m, splitter.o, burst_skid.i)
        connect(m, burst_skid.o, flipped(self.bursts))
        connect(m, flipped(self.beats), words.i)
        connect(m, words.o, dispatcher.i)
        for name in self.queues:
            connect(m, getattr(dispatcher, name), flipped(getattr(self, name)))
        for block in (requests, splitter, burst_skid, words, dispatcher):
            m.d.comb += block.clear.eq(control.clear)
        m.d.comb += [
            check.start.eq(self.start),
            check.base.eq(self.list_base),
            check.length.eq(self.list_length),
            check.window_base.eq(self.window_base),
            check.window_limit.eq(self.window_limit),
            requests.start.eq(self.start),
            requests.base.eq(self.list_base),
            requests.length.eq(self.list_length),
            dispatcher.start.eq(self.start),
            dispatcher.stop.eq(control.stop),
        ]

        # What is sent. Registered, since the counters are placed far apart; a fault is reported later than that.
        index = Signal(INDEX_BITS)  # of the word at the dispatcher's output
        word_address = Signal(64)
        sent_r = Signal()
        last_sent_r = Signal()
        m.d.sync += [sent_r.eq(dispatcher.sent), last_sent_r.eq(dispatcher.sent & dispatcher.word.final)]
        with m.If(sent_r):
            m.d.sync += word_address.eq(word_address + config.bus_bytes)
        with m.If(last_sent_r):
            m.d.sync += index.eq(index + 1)
        with m.If(self.start):
            m.d.sync += [word_address.eq(self.list_base), index.eq(0)]

        state = Signal(State)
        checked = Signal()
        all_sent = Signal()
        m.d.sync += all_sent.eq(index == self.list_length)
        with m.If(self.start):
            m.d.sync += state.eq(State.CHECK)
        with m.Elif(checked):
            m.d.sync += state.eq(State.READ)
        with m.If(control.stop | control.clear | (checked & check.fails) | ((state == State.READ) & all_sent)):
            m.d.sync += state.eq(State.IDLE)
        m.d.comb += [
            checked.eq((state == State.CHECK) & check.done),
            requests.enable.eq((state == State.READ) & ~control.stop & ~control.clear),
            requests.credit.eq(last_sent_r),
            self.active.eq((state != State.IDLE) & ~(dispatcher.waiting & ~dispatcher.sent)),
            control.busy.eq((state != State.IDLE) & ~control.stop),
            control.progress.eq(sent_r),
            control.complete.eq(0),
        ]
        self._report(m, checked & check.fails, check.code, dispatcher, index, word_address, requests.requested)
        return m

    def _report(
        self, m: Module, refused: Value, code: Value, dispatcher: Dispatcher, index: Value, word_address: Value, requested: Value
    ) -> None:
        """Faults: each is seen in one cycle and reported in the next, with what it was about."""
        control = self.control
        m.submodules.faults = faults = FaultLatch(4)
        connect(m, faults.fault, flipped(self.fault))
        refused_list = Signal()
        error = Signal()
        unknown = Signal()
        m.d.sync += [
            refused_list.eq(refused),
            error.eq(dispatcher.waiting & dispatcher.word.beat.error),
            unknown.eq(dispatcher.waiting & dispatcher.word.final & ~dispatcher.word.known),
        ]
        with m.If(control.clear):
            m.d.sync += [refused_list.eq(0), error.eq(0), unknown.eq(0)]
        m.d.comb += faults.clear.eq(control.clear)
        for source, valid, fault_code, detail, command, address in zip(
            faults.sources,
            (refused_list, error, unknown, self.refused),
            (code, Code.AXI_READ_ERROR, Code.BAD_OPCODE, Code.DRAM_WINDOW),
            (Check.LIST, Check.NONE, Check.NONE, Check.LIST),
            (0, index, index, requested),
            (self.list_base, word_address, 0, self.refused_address),
            strict=True,
        ):
            m.d.comb += [
                source.valid.eq(valid & ~control.stop),
                source.code.eq(fault_code),
                source.detail.eq(detail),
                source.command.eq(command),
                source.address.eq(address),
            ]
