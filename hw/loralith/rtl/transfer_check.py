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
from .compare import LessThan
from .extent import Extent
from .interfaces import CommandEntry, FaultSignature, record_layout

__all__ = ["TransferDescriptor", "TransferCheck"]


class State(Enum, shape=3):
    LOOK = 0
    SIZE = 1
    START = 2
    WAIT = 3
    JUDGE = 4


class TransferDescriptor(data.StructLayout):
    """A checked command: the record's fields but the opcode, its index in the list, ``beats``: words of its ``row_bytes``, and of a
    LOAD ``words``: those that a row has on the bus, half as many where it is packed."""

    def __init__(self, opcode: Opcode) -> None:
        fields = {f.name: f.width for f in COMMANDS[opcode].fields.values() if f.name != "opcode"}
        super().__init__(fields | {"index": 32, "beats": BEAT_BITS} | ({"words": BEAT_BITS} if opcode is Opcode.LOAD else {}))


class TransferCheck(wiring.Component):
    """Takes commands from a queue, checks them, and passes those that may run.

    A check takes ``delay`` cycles and goes on while the previous command waits in ``o``.

    Parameters: config; opcode, LOAD or STORE.

    Members:
        i: commands; taken when their check begins.
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
        self.delay = max(self._region.delay, self._dram.delay) + 3
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
        m.submodules.region, m.submodules.dram = region, dram = self._region, self._dram
        record = COMMANDS[self._opcode]
        word_bits = exact_log2(self._config.bus_bytes)
        coming = data.View(record_layout(record), self.i.payload.bits)
        raw = Signal(8 * record.size)
        index = Signal.like(self.i.payload.index)
        command = data.View(record_layout(record), raw)
        passes = Signal()

        # Verdicts that need no extent, registered: (fails, code, detail).
        reserved, enum, size, address, stride = (Signal(name=name) for name in ("reserved", "enum", "size", "address", "stride"))
        # Lanes and seq positions in one cycle, blocks of lanes and memory rows in the next.
        lanes = Signal(24)
        seqs = Signal(24)
        # A load into both scratchpads has its second region checked after the first.
        again = Signal()
        left_failed = Signal()
        count = Signal(24)
        length = Signal(22)
        limit = Signal(17)
        row_beats = Signal(BEAT_BITS)
        state = Signal(State)
        m.d.comb += row_beats.eq((command.row_bytes + self._config.bus_bytes - 1) >> word_bits)
        load = self._opcode is Opcode.LOAD
        row_length = Signal(24)  # bytes of a row in DRAM
        if load:
            with m.If(state == State.LOOK):
                m.d.sync += row_length.eq(Mux(coming.packed4, (coming.row_bytes + 1) >> 1, coming.row_bytes))
        else:
            m.d.comb += row_length.eq(command.row_bytes)
        look, meaning, measure = (
            (self._load, self._load_meaning, self._load_size) if load else (self._store, self._store_meaning, self._store_size)
        )
        parts, along_lanes, along_seq = look(coming)
        flags = Signal(len(parts))
        m.submodules.below_base = below_base = LessThan(64)
        blocks, memory_rows, depth, check = measure(command, lanes, seqs, again)
        packed = 0 if load else coming.packed
        both = command.target == LoadTarget.BOTH if load else Const(0)

        m.d.comb += [
            region.base.eq(Mux(again, command.right_base, command.base) if load else command.base),
            region.count.eq(count),
            region.stride.eq(Mux(again, command.right_stride, command.block_stride) if load else command.block_stride),
            region.length.eq(length),
            region.limit.eq(limit),
            dram.base.eq(command.address),
            dram.count.eq(command.rows),
            dram.stride.eq(command.row_stride),
            dram.length.eq(row_length),
            dram.limit.eq(self.window_limit),
        ]
        # Ready long before its use: the command stays for many cycles.
        m.d.comb += [below_base.a.eq(command.address), below_base.b.eq(self.window_base), below_base.enable.eq(1)]
        with m.Switch(state):
            with m.Case(State.LOOK):
                m.d.sync += [
                    reserved.eq((self.i.payload.bits & record.reserved_mask).any()),
                    flags.eq(Cat(parts)),
                    size.eq((coming.rows == 0) | (coming.row_bytes == 0)),
                    address.eq(coming.address[:word_bits].any()),
                    stride.eq((coming.rows != 1) & ~packed & coming.row_stride[:word_bits].any()),
                    lanes.eq(along_lanes),
                    seqs.eq(along_seq),
                    again.eq(0),
                    raw.eq(self.i.payload.bits),
                    index.eq(self.i.payload.index),
                ]
                m.d.comb += self.i.ready.eq(~self.stop & ~self.fault.valid)
                with m.If(self.i.valid & ~self.stop & ~self.fault.valid):
                    m.d.sync += state.eq(State.SIZE)
            with m.Case(State.SIZE):
                m.d.sync += enum.eq(~meaning(command, flags))
                m.d.sync += [count.eq(blocks), length.eq(memory_rows), limit.eq(depth), state.eq(State.START)]
            with m.Case(State.START):
                m.d.comb += [region.start.eq(1), dram.start.eq(1)]
                m.d.sync += state.eq(State.WAIT)
            with m.Case(State.WAIT):
                with m.If(region.done & dram.done):
                    m.d.sync += [state.eq(State.JUDGE), left_failed.eq(Mux(again, left_failed, ~region.ok))]
                    with m.If(both & ~again):
                        m.d.sync += [again.eq(1), lanes.eq(command.row_bytes), seqs.eq(command.rows), state.eq(State.SIZE)]
            with m.Case(State.JUDGE):
                verdicts = (
                    (reserved, Code.BAD_FIELD, Check.RESERVED, 0),
                    (enum, Code.BAD_FIELD, Check.ENUM, 0),
                    (size, Code.BAD_FIELD, Check.SIZE, 0),
                    (address, Code.MISALIGNED, Check.ADDRESS, command.address),
                    (stride, Code.MISALIGNED, Check.STRIDE, command.address),
                    (again & left_failed, Code.SCRATCHPAD_BOUNDS, Check.LEFT, 0),
                    (~region.ok, Code.SCRATCHPAD_BOUNDS, check, 0),
                    (below_base.less | ~dram.ok, Code.DRAM_WINDOW, Check.ADDRESS, command.address),
                )
                with m.If(Cat(fails for fails, *_ in verdicts).any()):
                    m.d.sync += [self.fault.valid.eq(1), self.fault.command.eq(index)]
                    for fails, code, detail, where in reversed(verdicts):
                        with m.If(fails):
                            m.d.sync += [self.fault.code.eq(code), self.fault.detail.eq(detail), self.fault.address.eq(where)]
                    m.d.sync += state.eq(State.LOOK)
                with m.Elif(~self.o.valid):
                    m.d.comb += passes.eq(~self.stop)
                    m.d.sync += state.eq(State.LOOK)
        with m.If(self.stop | self.clear):
            m.d.sync += state.eq(State.LOOK)

        with m.If(passes):
            m.d.sync += self.o.valid.eq(1)
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        # Whatever is there, until it is valid: what enables so many registers should be one.
        with m.If(~self.o.valid):
            m.d.sync += [self.o.payload.index.eq(index), self.o.payload.beats.eq(row_beats)]
            m.d.sync += [self.o.payload[f].eq(command[f]) for f in record.fields if f != "opcode"]
            if load:
                m.d.sync += self.o.payload.words.eq((row_length + self._config.bus_bytes - 1) >> word_bits)
        with m.If(self.clear):
            m.d.sync += [self.o.valid.eq(0), self.fault.valid.eq(0)]
        return m

    def _load(self, c: data.View) -> tuple[list[Value], Value, Value]:
        """(what its meaning hangs on, lanes, seq positions) of a LOAD; of a vector of scales, its bytes for seq positions."""
        seqs = Mux((c.target == LoadTarget.SCALE) | c.transpose, c.row_bytes, c.rows + c.pad_rows)
        return [c.rows == 1, c.pad_rows == 0, c.block_stride == 0], Mux(c.transpose, c.rows, c.row_bytes), seqs

    def _load_meaning(self, c: data.View, flags: Value) -> Value:
        """Whether the fields that name choices go together, in a LOAD."""
        one_row, no_pad, no_stride = flags
        plain = one_row & ~c.transpose & ~c.packed4 & no_pad & no_stride
        both_can = c.transpose & (self._config.cols >= self._config.bus_bytes)
        return (
            (c.target <= max(LoadTarget))
            & ~(c.transpose & ~no_pad)
            & ((c.target != LoadTarget.SCALE) | plain)
            & ((c.target != LoadTarget.BOTH) | both_can)
        )

    def _load_size(self, c: data.View, lanes: Value, seqs: Value, again: Value) -> tuple[Value, Value, Value, Value]:
        """(blocks of lanes, memory rows per block, rows of the memory, detail) of a LOAD; ``again``: of its right region."""
        config = self._config
        R, C, W = config.rows, config.cols, config.bus_bytes
        scale, right = c.target == LoadTarget.SCALE, (c.target == LoadTarget.RIGHT) | again
        blocks = Mux(scale, 1, Mux(right, _ceil(lanes, C), _ceil(lanes, R)))
        limit = Mux(scale, config.scale_depth, Mux(right, config.right_depth, config.left_depth))
        return blocks, Mux(scale, _ceil(seqs, 4 * R), _ceil(seqs, W)), limit, Mux(scale, Check.SCALE, Mux(right, Check.RIGHT, Check.LEFT))

    def _store(self, c: data.View) -> tuple[list[Value], Value, Value]:
        """The first of a STORE; of statistics, their bytes for seq positions."""
        power = Value.cast(0)
        for log in range(exact_log2(self._config.bus_bytes)):
            power = power | (c.row_bytes == 1 << log)
        slots = c.row_bytes[: exact_log2(STAT_BYTES)] == 0
        stats = c.source == StoreSource.STATS
        flags = [c.rows == 1, c.block_stride == 0, slots, power, c.row_stride == c.row_bytes]
        return flags, Mux(c.transpose, c.row_bytes, c.rows), Mux(c.transpose & ~stats, c.rows, c.row_bytes)

    def _store_meaning(self, c: data.View, flags: Value) -> Value:
        """The second of a STORE."""
        one_row, no_stride, slots, power, dense = flags
        plain = one_row & ~c.transpose & ~c.packed & no_stride & slots
        return (c.source <= max(StoreSource)) & ((c.source != StoreSource.STATS) | plain) & (~c.packed | (power & dense))

    def _store_size(self, c: data.View, lanes: Value, seqs: Value, again: Value) -> tuple[Value, Value, Value, Value]:
        """The third of a STORE."""
        config = self._config
        stats = c.source == StoreSource.STATS
        rows = Mux(stats, _ceil(seqs, STAT_BYTES), _ceil(seqs, config.bus_bytes))
        limit = Mux(stats, config.stat_slots, config.out_depth)
        return Mux(stats, 1, _ceil(lanes, config.rows)), rows, limit, Mux(stats, Check.STAT, Check.OUT)


def _ceil(value: Value, unit: int) -> Value:
    """ceil(value / unit), ``unit`` a power of two."""
    return (value + unit - 1) >> exact_log2(unit)
