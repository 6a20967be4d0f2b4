"""The checks of a LOAD or STORE before it runs, docs/machine.md's in its order."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.enum import Enum
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.spec.commands import COMMANDS, LoadTarget, Opcode
from loralith.spec.config import Config
from loralith.spec.status import Check, Code

from .bursts import BEAT_BITS
from .compare import LessThan
from .extent import Extent
from .interfaces import CommandEntry, FaultSignature, record_layout
from .transfer_rules import rules_of, words

__all__ = ["TransferFieldCheck", "TransferRegionCheck", "TransferCheck", "TransferDescriptor"]


class State(Enum, shape=3):
    DECODE = 0
    SIZE = 1
    START = 2
    WAIT = 3
    RESOLVE = 4


class TransferDescriptor(data.StructLayout):
    """A checked command: the record's fields but the opcode, its index in the list, ``beats``: words of its ``row_bytes``, and of a
    LOAD ``words``: those that a row has on the bus, half as many where it is packed."""

    def __init__(self, opcode: Opcode) -> None:
        fields = {f.name: f.width for f in COMMANDS[opcode].fields.values() if f.name != "opcode"}
        super().__init__(fields | {"index": 32, "beats": BEAT_BITS} | ({"words": BEAT_BITS} if opcode is Opcode.LOAD else {}))


class TransferFieldCheck(wiring.Component):
    """The checks of single fields, and of those that name choices.

    Members:
        next_command, command: the bits of the command in ``decode``, and from the cycle after it on.
        decode, size: the command's first and second cycle.
        reserved, choice, count, address, stride: which checks fail; ``choice`` two cycles after ``decode``, the others one.
    """

    def __init__(self, config: Config, opcode: Opcode) -> None:
        self._config, self._opcode = config, opcode
        bits = In(8 * COMMANDS[opcode].size)
        checks = ("reserved", "choice", "count", "address", "stride")
        super().__init__({"next_command": bits, "command": bits, "decode": In(1), "size": In(1)} | {name: Out(1) for name in checks})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        record, rules = COMMANDS[self._opcode], rules_of(self._config, self._opcode)
        word_bits = exact_log2(self._config.bus_bytes)
        fields, command = (data.View(record_layout(record), bits) for bits in (self.next_command, self.command))
        packed = fields.packed if self._opcode is Opcode.STORE else 0
        flags = Signal(len(rules.flags(fields)))
        with m.If(self.decode):
            m.d.sync += [
                flags.eq(Cat(rules.flags(fields))),
                self.reserved.eq((self.next_command & record.reserved_mask).any()),
                self.count.eq((fields.rows == 0) | (fields.row_bytes == 0)),
                self.address.eq(fields.address[:word_bits].any()),
                self.stride.eq((fields.rows != 1) & ~packed & fields.row_stride[:word_bits].any()),
            ]
        with m.If(self.size):
            m.d.sync += self.choice.eq(~rules.meaning(command, flags))
        return m


class TransferRegionCheck(wiring.Component):
    """Whether the on-chip regions of a command end inside their memory: one, and of a load into both scratchpads the right one after it.

    Members:
        next_command, command, decode, size: see ``TransferFieldCheck``. ``size`` comes once for each region.
        start: begin a region's check, in the cycle after its ``size``.
        done: the result is there, see ``Extent``.
        right_pending: the result is of the left region of a load into both, and the right one follows. start_right: begin with it.
        left_fails, fails, detail: the left region of a load into both does not fit; the last one does not, and which it is.

    Attributes:
        delay: cycles from ``start`` to ``done``.
    """

    count = 24
    delay = Extent.delay_of(count)

    def __init__(self, config: Config, opcode: Opcode) -> None:
        self._config, self._opcode = config, opcode
        # A row of INT8 with ``broadcast`` takes a word per byte; every other memory's row at least four bytes.
        self._length = 24 if config.vector_lanes else 22
        self._extent = Extent(base=16, count=self.count, stride=16, length=self._length, limit=17)
        bits = In(8 * COMMANDS[opcode].size)
        inputs, outputs = ("decode", "size", "start", "start_right"), ("done", "right_pending", "left_fails", "fails")
        super().__init__(
            {"next_command": bits, "command": bits, "detail": Out(8)}
            | {name: In(1) for name in inputs}
            | {name: Out(1) for name in outputs}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.extent = extent = self._extent
        record, rules, load = COMMANDS[self._opcode], rules_of(self._config, self._opcode), self._opcode is Opcode.LOAD
        fields, command = (data.View(record_layout(record), bits) for bits in (self.next_command, self.command))
        # Lanes and seq positions in one cycle, blocks of lanes and memory rows in the next.
        lanes = Signal(24)
        seqs = Signal(24)
        blocks = Signal(24)
        length = Signal(self._length)
        limit = Signal(17)
        second = Signal()
        left_failed = Signal()
        region = rules.region(command, lanes, seqs, second)
        both = command.target == LoadTarget.BOTH if load else Const(0)
        m.d.comb += [
            extent.base.eq(Mux(second, command.right_base, command.base) if load else command.base),
            extent.count.eq(blocks),
            extent.stride.eq(Mux(second, command.right_stride, command.block_stride) if load else command.block_stride),
            extent.length.eq(length),
            extent.limit.eq(limit),
            extent.start.eq(self.start),
            self.done.eq(extent.done),
            self.right_pending.eq(both & ~second),
            self.left_fails.eq(second & left_failed),
            self.fails.eq(~extent.ok),
            self.detail.eq(region.detail),
        ]
        with m.If(self.decode):
            along_lanes, along_seq = rules.shape(fields)
            m.d.sync += [lanes.eq(along_lanes), seqs.eq(along_seq), second.eq(0)]
        with m.If(self.size):
            m.d.sync += [blocks.eq(region.blocks), length.eq(region.length), limit.eq(region.limit)]
        with m.If(self.start_right):
            m.d.sync += [second.eq(1), left_failed.eq(~extent.ok), lanes.eq(command.row_bytes), seqs.eq(command.rows)]
        return m


class TransferCheck(wiring.Component):
    """Takes commands from a queue, checks them, and passes those that may run.

    The next command is checked while the previous one waits in ``o``.

    Parameters: config; opcode, LOAD or STORE.

    Members:
        i: commands; taken when their check begins.
        o: checked commands, in order.
        window_base, window_limit: DRAM that may be reached.
        fault: the first command that fails; nothing is taken after it. Held until ``clear``.
        stop: take no more commands.
        clear: reset the block's state.

    Attributes:
        delay: cycles from ``i`` to ``o``, if nothing waits there. both_delay: the same of a load into both scratchpads.
    """

    count = 16
    delay = max(TransferRegionCheck.delay, Extent.delay_of(count)) + 4
    both_delay = delay + TransferRegionCheck.delay + 2

    def __init__(self, config: Config, opcode: Opcode) -> None:
        self._config, self._opcode = config, opcode
        self._regions = TransferRegionCheck(config, opcode)
        self._dram = Extent(base=64, count=self.count, stride=32, length=24, limit=64)
        super().__init__(
            {
                "i": In(stream.Signature(CommandEntry)),
                "o": Out(stream.Signature(TransferDescriptor(opcode))),
                "window_base": In(64),
                "window_limit": In(64),
                "fault": Out(FaultSignature),
                "stop": In(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        record, rules, load = COMMANDS[self._opcode], rules_of(self._config, self._opcode), self._opcode is Opcode.LOAD
        m.submodules.fields = checked = TransferFieldCheck(self._config, self._opcode)
        m.submodules.regions, m.submodules.dram = regions, dram = self._regions, self._dram
        m.submodules.below_base = below_base = LessThan(64)
        bits = Signal(8 * record.size)
        index = Signal.like(self.i.payload.index)
        command = data.View(record_layout(record), bits)
        row_bytes = Signal(24)  # in DRAM
        state = Signal(State)
        m.d.comb += [
            dram.base.eq(command.address),
            dram.count.eq(command.rows),
            dram.stride.eq(command.row_stride),
            dram.length.eq(row_bytes),
            dram.limit.eq(self.window_limit),
            dram.start.eq(state == State.START),
            # Valid long before its use: the command is held for many cycles.
            below_base.a.eq(command.address),
            below_base.b.eq(self.window_base),
            below_base.enable.eq(1),
            regions.start.eq(state == State.START),
            regions.start_right.eq((state == State.WAIT) & regions.done & dram.done & regions.right_pending),
        ]
        for block in (checked, regions):
            m.d.comb += [block.next_command.eq(self.i.payload.bits), block.command.eq(bits)]
            m.d.comb += [block.decode.eq(state == State.DECODE), block.size.eq(state == State.SIZE)]
        if load:
            with m.If(state == State.DECODE):
                m.d.sync += row_bytes.eq(rules.row_bytes(data.View(record_layout(record), self.i.payload.bits)))
        else:
            m.d.comb += row_bytes.eq(rules.row_bytes(command))

        accept = Signal()
        with m.Switch(state):
            with m.Case(State.DECODE):
                m.d.sync += [bits.eq(self.i.payload.bits), index.eq(self.i.payload.index)]
                m.d.comb += self.i.ready.eq(~self.stop & ~self.fault.valid)
                with m.If(self.i.valid & self.i.ready):
                    m.d.sync += state.eq(State.SIZE)
            with m.Case(State.SIZE):
                m.d.sync += state.eq(State.START)
            with m.Case(State.START):
                m.d.sync += state.eq(State.WAIT)
            with m.Case(State.WAIT):
                with m.If(regions.done & dram.done):
                    m.d.sync += state.eq(Mux(regions.right_pending, State.SIZE, State.RESOLVE))
            with m.Case(State.RESOLVE):
                checks = (
                    (checked.reserved, Code.BAD_FIELD, Check.RESERVED, 0),
                    (checked.choice, Code.BAD_FIELD, Check.ENUM, 0),
                    (checked.count, Code.BAD_FIELD, Check.SIZE, 0),
                    (checked.address, Code.MISALIGNED, Check.ADDRESS, command.address),
                    (checked.stride, Code.MISALIGNED, Check.STRIDE, command.address),
                    (regions.left_fails, Code.SCRATCHPAD_BOUNDS, Check.LEFT, 0),
                    (regions.fails, Code.SCRATCHPAD_BOUNDS, regions.detail, 0),
                    (below_base.less | ~dram.ok, Code.DRAM_WINDOW, Check.ADDRESS, command.address),
                )
                with m.If(Cat(fails for fails, *_ in checks).any()):
                    m.d.sync += [self.fault.valid.eq(1), self.fault.command.eq(index), state.eq(State.DECODE)]
                    for fails, code, detail, fault_address in reversed(checks):
                        with m.If(fails):
                            m.d.sync += [self.fault.code.eq(code), self.fault.detail.eq(detail), self.fault.address.eq(fault_address)]
                with m.Elif(~self.o.valid):
                    m.d.comb += accept.eq(~self.stop)
                    m.d.sync += state.eq(State.DECODE)
        with m.If(self.stop | self.clear):
            m.d.sync += state.eq(State.DECODE)

        with m.If(accept):
            m.d.sync += self.o.valid.eq(1)
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        # Loaded in every free cycle, valid or not, so that one signal is the clock enable of all these registers.
        with m.If(~self.o.valid):
            m.d.sync += [self.o.payload.index.eq(index), self.o.payload.beats.eq(words(command.row_bytes, self._config.bus_bytes))]
            m.d.sync += [self.o.payload[f].eq(command[f]) for f in record.fields if f != "opcode"]
            if load:
                m.d.sync += self.o.payload.words.eq(words(row_bytes, self._config.bus_bytes))
        with m.If(self.clear):
            m.d.sync += [self.o.valid.eq(0), self.fault.valid.eq(0)]
        return m
