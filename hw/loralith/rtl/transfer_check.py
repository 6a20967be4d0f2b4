"""The checks of a LOAD or STORE before it runs, docs/machine.md's in its order."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.enum import Enum
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.spec.commands import COMMANDS, STAT_BYTES, LoadTarget, Opcode, StoreSource
from loralith.spec.config import Config
from loralith.spec.status import Check, Code

from .bursts import BEAT_BITS
from .extent import Extent
from .interfaces import CommandEntry, FaultSignature, record_layout

__all__ = ["Job", "TransferCheck"]


class State(Enum, shape=2):
    LOOK = 0
    START = 1
    WAIT = 2
    JUDGE = 3


class Job(data.StructLayout):
    """A checked command: the record's fields but the opcode, its index in the list, and the bus words per row."""

    def __init__(self, opcode: Opcode) -> None:
        fields = {f.name: f.width for f in COMMANDS[opcode].fields.values() if f.name != "opcode"}
        super().__init__(fields | {"index": 32, "beats": BEAT_BITS})


class TransferCheck(wiring.Component):
    """Takes commands from a queue, checks them, and passes those that may run.

    A check takes ``delay`` cycles and goes on while the previous command waits in ``o``.

    Parameters: config; opcode, LOAD or STORE.

    Members:
        i: commands; taken when checked.
        o: checked commands, in order.
        window_base, window_limit: DRAM that may be reached.
        fault: the first command that fails; nothing is taken after it. Held until ``clear``.
        stop: take no more commands.
        clear: forget everything.
    """

    def __init__(self, config: Config, opcode: Opcode) -> None:
        self._config, self._opcode = config, opcode
        self._region = Extent(base=16, count=24, stride=16, length=22, limit=17)
        self._dram = Extent(base=64, count=16, stride=32, length=24, limit=64)
        self.delay = max(self._region.delay, self._dram.delay) + 2
        super().__init__(
            {
                "i": In(stream.Signature(CommandEntry)),
                "o": Out(stream.Signature(Job(opcode))),
                "window_base": In(64),
                "window_limit": In(64),
                "fault": Out(FaultSignature),
                "stop": In(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.region, m.submodules.dram = region, dram = self._region, self._dram
        record = COMMANDS[self._opcode]
        word_bits = exact_log2(self._config.bus_bytes)
        command = data.View(record_layout(record), self.i.payload.bits)

        # Verdicts that need no extent, registered: (fails, code, detail).
        reserved, enum, size, address, stride = (Signal(name=name) for name in ("reserved", "enum", "size", "address", "stride"))
        # A load into both scratchpads has its second region checked after the first.
        again, left_failed = Signal(), Signal()
        count, length = Signal(24), Signal(22)
        row_beats = Signal(BEAT_BITS)
        state = Signal(State)
        m.d.comb += row_beats.eq((command.row_bytes + self._config.bus_bytes - 1) >> word_bits)
        meaning, along_lanes, along_seq, limit, check = self._load(command, again) if self._opcode is Opcode.LOAD else self._store(command)
        packed = 0 if self._opcode is Opcode.LOAD else command.packed
        both = command.target == LoadTarget.BOTH if self._opcode is Opcode.LOAD else Const(0)

        m.d.comb += [
            region.base.eq(Mux(again, command.right_base, command.base) if self._opcode is Opcode.LOAD else command.base),
            region.count.eq(count),
            region.stride.eq(
                Mux(again, command.right_stride, command.block_stride) if self._opcode is Opcode.LOAD else command.block_stride
            ),
            region.length.eq(length),
            region.limit.eq(limit),
            dram.base.eq(command.address),
            dram.count.eq(command.rows),
            dram.stride.eq(command.row_stride),
            dram.length.eq(command.row_bytes),
            dram.limit.eq(self.window_limit),
        ]
        with m.Switch(state):
            with m.Case(State.LOOK):
                m.d.sync += [
                    reserved.eq((self.i.payload.bits & record.reserved_mask).any()),
                    enum.eq(~meaning),
                    size.eq((command.rows == 0) | (command.row_bytes == 0)),
                    address.eq(command.address[:word_bits].any()),
                    stride.eq((command.rows != 1) & ~packed & command.row_stride[:word_bits].any()),
                    count.eq(along_lanes),
                    length.eq(along_seq),
                    again.eq(0),
                ]
                with m.If(self.i.valid & ~self.stop & ~self.fault.valid):
                    m.d.sync += state.eq(State.START)
            with m.Case(State.START):
                m.d.comb += [region.start.eq(1), dram.start.eq(1)]
                m.d.sync += state.eq(State.WAIT)
            with m.Case(State.WAIT):
                with m.If(region.done & dram.done):
                    m.d.sync += [state.eq(State.JUDGE), left_failed.eq(Mux(again, left_failed, ~region.ok))]
                    with m.If(both & ~again):
                        m.d.sync += [again.eq(1), state.eq(State.START)]
                        m.d.sync += [
                            count.eq(_ceil(command.row_bytes, self._config.cols)),
                            length.eq(_ceil(command.rows, self._config.bus_bytes)),
                        ]
            with m.Case(State.JUDGE):
                below = command.address < self.window_base
                verdicts = (
                    (reserved, Code.BAD_FIELD, Check.RESERVED, 0),
                    (enum, Code.BAD_FIELD, Check.ENUM, 0),
                    (size, Code.BAD_FIELD, Check.SIZE, 0),
                    (address, Code.MISALIGNED, Check.ADDRESS, command.address),
                    (stride, Code.MISALIGNED, Check.STRIDE, command.address),
                    (again & left_failed, Code.SCRATCHPAD_BOUNDS, Check.LEFT, 0),
                    (~region.ok, Code.SCRATCHPAD_BOUNDS, check, 0),
                    (below | ~dram.ok, Code.DRAM_WINDOW, Check.ADDRESS, command.address),
                )
                with m.If(Cat(fails for fails, *_ in verdicts).any()):
                    m.d.sync += [self.fault.valid.eq(1), self.fault.command.eq(self.i.payload.index)]
                    for fails, code, detail, where in reversed(verdicts):
                        with m.If(fails):
                            m.d.sync += [self.fault.code.eq(code), self.fault.detail.eq(detail), self.fault.address.eq(where)]
                    m.d.sync += state.eq(State.LOOK)
                with m.Elif(~self.o.valid | self.o.ready):
                    m.d.comb += self.i.ready.eq(~self.stop)
                    m.d.sync += state.eq(State.LOOK)
        with m.If(self.stop | self.clear):
            m.d.sync += state.eq(State.LOOK)

        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(1), self.o.payload.index.eq(self.i.payload.index), self.o.payload.beats.eq(row_beats)]
            m.d.sync += [self.o.payload[f].eq(command[f]) for f in record.fields if f != "opcode"]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(self.clear):
            m.d.sync += [self.o.valid.eq(0), self.fault.valid.eq(0)]
        return m

    def _load(self, c: data.View, again: Signal) -> tuple:
        """(has a meaning, blocks of lanes, memory rows per block, rows of the memory, detail) of a LOAD."""
        config = self._config
        R, C, W = config.rows, config.cols, config.bus_bytes
        scale, right, both = c.target == LoadTarget.SCALE, c.target == LoadTarget.RIGHT, c.target == LoadTarget.BOTH
        lanes = Mux(c.transpose, c.rows, c.row_bytes)
        blocks = Mux(scale, 1, Mux(right, _ceil(lanes, C), _ceil(lanes, R)))
        rows = Mux(scale, _ceil(c.row_bytes, 4 * R), _ceil(Mux(c.transpose, c.row_bytes, c.rows + c.pad_rows), W))
        plain = (c.rows == 1) & ~c.transpose & (c.pad_rows == 0) & (c.block_stride == 0)
        meaning = (c.target <= max(LoadTarget)) & ~(c.transpose & (c.pad_rows != 0)) & (~scale | plain)
        meaning &= ~both | (c.transpose & (C >= W))
        # The extent that is judged last is the right one's.
        limit = Mux(scale, config.scale_depth, Mux(right | again, config.right_depth, config.left_depth))
        return meaning, blocks, rows, limit, Mux(scale, Check.SCALE, Mux(right | again, Check.RIGHT, Check.LEFT))

    def _store(self, c: data.View) -> tuple:
        """The same of a STORE."""
        config = self._config
        R, W = config.rows, config.bus_bytes
        stats = c.source == StoreSource.STATS
        blocks = Mux(stats, 1, _ceil(Mux(c.transpose, c.row_bytes, c.rows), R))
        rows = Mux(stats, _ceil(c.row_bytes, STAT_BYTES), _ceil(Mux(c.transpose, c.rows, c.row_bytes), W))
        plain = (c.rows == 1) & ~c.transpose & ~c.packed & (c.block_stride == 0) & (c.row_bytes[: exact_log2(STAT_BYTES)] == 0)
        power = (c.row_bytes != 0) & ((c.row_bytes & (c.row_bytes - 1)) == 0) & (c.row_bytes < W)
        meaning = (c.source <= max(StoreSource)) & (~stats | plain) & (~c.packed | (power & (c.row_stride == c.row_bytes)))
        return meaning, blocks, rows, Mux(stats, config.stat_slots, config.out_depth), Mux(stats, Check.STAT, Check.OUT)


def _ceil(value: Value, unit: int) -> Value:
    """ceil(value / unit), ``unit`` a power of two."""
    return (value + unit - 1) >> exact_log2(unit)
