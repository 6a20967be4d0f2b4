"""The command fetch: the list from DRAM into the three queues."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.enum import Enum
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from loralith.spec.commands import COMMAND_BYTES, Opcode
from loralith.spec.config import Config
from loralith.spec.status import Check, Code

from .block_queue import BlockFIFO, CommandWord
from .bursts import Burst, BurstSplitter
from .extent import Extent
from .fault import FaultLatch
from .interfaces import INDEX_BITS, FaultSignature, UnitControl
from .queue import SkidBuffer
from .read_master import ReadBeat

__all__ = ["Fetch"]


class State(Enum, shape=2):
    IDLE = 0
    CHECK = 1
    READ = 2


class _Word(data.StructLayout):
    """A bus word of a command, which of the three queues takes it (none after an error), whether its command is known, and which part
    of the command and of its index it is."""

    def __init__(self, config: Config) -> None:
        part = INDEX_BITS // (COMMAND_BYTES // config.bus_bytes)
        super().__init__({"word": ReadBeat(config), "kinds": 3, "known": 1, "dropped": 1, "final": 1, "index": part})


class Fetch(wiring.Component):
    """Checks the list, then reads its descriptors in order, up to ``ahead`` of them before the queues take them.

    Each descriptor is read by itself, burst_skid at 4 KB lines and into bursts of at most ``max_burst`` beats.

    Members:
        start: one-cycle pulse, at least one cycle after ``control.clear``: read the list.
        list_base, list_length: where and how long it is; must hold while ``control.busy``.
        control, fault: see interfaces; ``control.complete`` stays low.
        bursts, beats: to and from the read master; beats are always taken. refused, refused_address: its veto.
        window_base, window_limit: DRAM that may be reached.
        load, compute, store: the words of the commands of each kind.
        active: descriptors are being read or put together (for the cycle counters).
    """

    ahead = 8

    def __init__(self, config: Config) -> None:
        self._config = config
        entry = Out(stream.Signature(CommandWord(config)))
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
                "load": entry,
                "compute": entry,
                "store": entry,
                "active": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, control = self._config, self.control
        words = COMMAND_BYTES // config.bus_bytes
        m.submodules.extent = extent = Extent(base=64, count=1, stride=1, length=39, limit=64)
        m.submodules.splitter = splitter = BurstSplitter(config)
        m.submodules.burst_skid = burst_skid = SkidBuffer(Burst)  # cuts the path from the master's ready to the splitter
        m.submodules.words = buffer = BlockFIFO(ReadBeat(config), self.ahead * words)
        m.submodules.faults = faults = FaultLatch(4)
        connect(m, splitter.o, burst_skid.i)
        connect(m, burst_skid.o, flipped(self.bursts))
        connect(m, flipped(self.beats), buffer.i)
        connect(m, faults.fault, flipped(self.fault))
        for block in (splitter, burst_skid, buffer, faults):
            m.d.comb += block.clear.eq(control.clear)

        # The list itself.
        state = Signal(State)
        checked = Signal()
        m.d.comb += [
            extent.base.eq(self.list_base),
            extent.count.eq(1),
            extent.length.eq(self.list_length << exact_log2(COMMAND_BYTES)),
            extent.limit.eq(self.window_limit),
            extent.start.eq(self.start),
            checked.eq((state == State.CHECK) & extent.done),
        ]
        misaligned = Signal()
        below = Signal()
        empty = Signal()
        m.d.sync += [  # long before ``checked``
            misaligned.eq(self.list_base[: exact_log2(config.bus_bytes)].any()),
            below.eq(self.list_base < self.window_base),
            empty.eq(self.list_length == 0),
        ]
        outside = ~extent.ok | below
        with m.If(self.start):
            m.d.sync += state.eq(State.CHECK)
        with m.Elif(checked):
            m.d.sync += state.eq(State.READ)
        with m.If(control.stop | control.clear | (checked & (misaligned | outside | empty))):
            m.d.sync += state.eq(State.IDLE)

        # Requests, one descriptor each while credits remain. One in the cycle after ``stop`` is held back by the stopped master.
        requested = Signal(32)
        credits = Signal(range(self.ahead + 1))
        more = Signal()
        address = Signal(64)
        request = Signal()
        counted = Signal()  # ``more`` is not right yet
        m.d.sync += [
            more.eq(requested != self.list_length),
            counted.eq(request),
            splitter.i.valid.eq((state == State.READ) & more & (credits != 0) & ~request & ~counted & ~control.stop & ~control.clear),
        ]
        m.d.comb += [
            splitter.i.payload.address.eq(address),
            splitter.i.payload.rows.eq(1),
            splitter.i.payload.beats.eq(words),
            request.eq(splitter.i.valid & splitter.i.ready),
        ]
        with m.If(request):
            m.d.sync += [requested.eq(requested + 1), address.eq(address + COMMAND_BYTES)]

        # Pipeline register, in which a command's first word is decoded, then a skid buffer, which cuts the path from the queues' ready.
        # A word that fails or has no queue stays there until ``clear``.
        valid_r = Signal()
        word_r = Signal(_Word(config))
        m.submodules.dispatch_fifo = dispatch_fifo = SkidBuffer(_Word(config))
        dispatched = dispatch_fifo.o.payload
        word, kinds, known, full = dispatched.word, dispatched.kinds, dispatched.known, dispatch_fifo.o.valid
        arrived = Signal(range(words))  # words of the present command that are in
        arriving = Signal(INDEX_BITS)  # its index
        index = Signal(INDEX_BITS)  # of what leaves
        word_address = Signal(64)
        take = Signal()
        put = Signal()
        stopped = Signal()  # what goes on in the cycle of ``stop`` stays in the queues
        m.d.sync += stopped.eq(control.stop)
        queues = ((Opcode.LOAD, self.load), (Opcode.COMPUTE, self.compute), (Opcode.STORE, self.store))
        # An unknown command's words but the last one go nowhere. Nothing here looks at ``full``: this comes late in its cycle.
        accepted = Cat(kind & queue.ready for kind, (_, queue) in zip(kinds, queues, strict=True)).any()
        goes = ~stopped & (accepted | dispatched.dropped)
        m.d.comb += [
            buffer.o.ready.eq(~valid_r | dispatch_fifo.i.ready),
            take.eq(buffer.o.valid & buffer.o.ready),
            dispatch_fifo.i.valid.eq(valid_r),
            dispatch_fifo.i.payload.eq(word_r),
            dispatch_fifo.i.payload.kinds.eq(Mux(word_r.word.error, 0, word_r.kinds)),
            dispatch_fifo.i.payload.dropped.eq(~word_r.known & ~word_r.word.error & ~word_r.final),
            dispatch_fifo.o.ready.eq(goes),
            dispatch_fifo.clear.eq(control.clear),
            put.eq(full & goes),
        ]
        for kind, (_, queue) in zip(kinds, queues, strict=True):
            m.d.comb += [
                queue.payload.bits.eq(word.data),
                queue.payload.index.eq(dispatched.index),
                queue.valid.eq(full & kind & ~stopped),
            ]
        with m.If(take):
            opcode = buffer.o.payload.data.as_value()[:8]
            m.d.sync += [
                word_r.word.eq(buffer.o.payload),
                word_r.index.eq(arriving.word_select(arrived, INDEX_BITS // words)),
                word_r.final.eq(arrived == words - 1),
                arrived.eq(arrived + 1),
                valid_r.eq(1),
            ]
            with m.If(arrived == 0):
                m.d.sync += [
                    word_r.kinds.eq(Cat(opcode == code for code, _ in queues)),
                    word_r.known.eq(Cat(opcode == code for code, _ in queues).any()),
                ]
            with m.If(arrived == words - 1):
                m.d.sync += arriving.eq(arriving + 1)
        with m.Elif(dispatch_fifo.i.ready):
            m.d.sync += valid_r.eq(0)
        # Registered, since the counters are placed far apart; a fault is reported later than that.
        sent_r = Signal()
        last_sent_r = Signal()
        m.d.sync += [sent_r.eq(put), last_sent_r.eq(put & dispatched.final)]
        with m.If(sent_r):
            m.d.sync += word_address.eq(word_address + config.bus_bytes)
        with m.If(last_sent_r):
            m.d.sync += index.eq(index + 1)
        with m.If(request ^ last_sent_r):
            m.d.sync += credits.eq(Mux(last_sent_r, credits + 1, credits - 1))
        with m.If(self.start):
            m.d.sync += [requested.eq(0), address.eq(self.list_base), word_address.eq(self.list_base), index.eq(0), arriving.eq(0)]
        with m.If(control.clear):
            m.d.sync += [valid_r.eq(0), arrived.eq(0), credits.eq(self.ahead)]
        through = Signal()
        m.d.sync += through.eq(index == self.list_length)
        with m.If((state == State.READ) & through):
            m.d.sync += state.eq(State.IDLE)

        # A fault is seen in one cycle and reported in the next, with what it was about.
        bad_list = Mux(misaligned, Code.MISALIGNED, Mux(empty, Code.BAD_FIELD, Code.DRAM_WINDOW))
        refused_list = Signal()
        error = Signal()
        unknown = Signal()
        m.d.sync += [
            refused_list.eq(checked & (misaligned | empty | outside)),
            error.eq(full & word.error),
            unknown.eq(full & dispatched.final & ~known),
        ]
        with m.If(control.clear):
            m.d.sync += [refused_list.eq(0), error.eq(0), unknown.eq(0)]
        for source, valid, code, detail, command, where in zip(
            faults.sources,
            (refused_list, error, unknown, self.refused),
            (bad_list, Code.AXI_READ_ERROR, Code.BAD_OPCODE, Code.DRAM_WINDOW),
            (Check.LIST, Check.NONE, Check.NONE, Check.LIST),
            (0, index, index, requested),
            (self.list_base, word_address, 0, self.refused_address),
            strict=True,
        ):
            m.d.comb += [
                source.valid.eq(valid & ~control.stop),
                source.code.eq(code),
                source.detail.eq(detail),
                source.command.eq(command),
                source.address.eq(where),
            ]
        waiting = full & ~put
        m.d.comb += [
            self.active.eq((state != State.IDLE) & ~waiting),
            control.busy.eq((state != State.IDLE) & ~control.stop),
            control.progress.eq(sent_r),
            control.complete.eq(0),
        ]
        return m
