"""On-chip memories: operand scratchpads, output buffer, accumulate buffer, scale vectors and statistics.

Every memory has one write and one read port and keeps its content from list to list. Reading and writing one word in the
same cycle is never needed by a legal list; what is read then is unspecified.
"""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import ceil_log2

from loralith.spec.config import Config
from loralith.spec.numerics import SHIFT_MAX

from .interfaces import ROW_BITS, IntegerReadSignature, OutReadSignature, ScaleWrite, StatReadSignature
from .pipeline import delayed, valid_bits

__all__ = [
    "AccumulateMemory",
    "OperandMemory",
    "OperandWritePort",
    "OutputMemory",
    "ScaleMemory",
    "Statistics",
    "block_memory",
]


def block_memory(width: int, depth: int) -> Memory:
    """A memory of zeros in block RAM: synthesis stops where it cannot be one, and adds no logic for a word read while it is written."""
    return Memory(shape=unsigned(width), depth=depth, init=[], attrs={"ram_style": "block", "no_rw_check": "1"})


class OperandWritePort(Signature):
    """Write port of an ``OperandMemory``: with ``en`` bank b, lane l takes seq[b] (transpose) or word[l] when both masks allow.

    Of bank_mask one bit is set at most, or with transpose of lane_mask, unless all bytes are equal.
    """

    def __init__(self, lanes: int, banks: int) -> None:
        super().__init__(
            {
                "en": Out(1),
                "row": Out(ROW_BITS),
                "bank_mask": Out(banks),
                "lane_mask": Out(lanes),
                "transpose": Out(1),
                "seq": Out(data.ArrayLayout(8, banks)),
                "word": Out(data.ArrayLayout(8, lanes)),
            }
        )


class OperandMemory(wiring.Component):
    """The left or the right scratchpad: ``banks`` banks of ``depth`` words of ``lanes`` bytes.

    A write goes to one bank, or, transposed, to one lane of any banks. So byte b + l of ``period`` bytes, modulo ``period``, is enough for
    bank b, lane l: they are rotated by the bank, or by the lane, and go to all banks.
    A multiplexer for each bank would take LUTs, flip-flops and a wire for every byte of every bank.

    Parameters: lanes, depth, banks (powers of two); period: ``word`` repeats itself after so many lanes (a power of two, default: never).

    Members:
        write: see ``OperandWritePort``.
        read_en: which banks to read, one bit each; read_row: the row of all of them.
        read_data: one word per bank, ``delay`` cycles later, in registers beside it; held while the bank is not read.

    A written byte is read by a ``read_en`` from ``write_delay`` cycles after ``write.en`` on.
    """

    delay = 2
    write_delay = 3

    def __init__(self, lanes: int, depth: int, banks: int, period: int | None = None) -> None:
        self.lanes, self.depth, self.banks = lanes, depth, banks
        self.period = max(period or lanes, banks)
        super().__init__(
            {
                "write": In(OperandWritePort(lanes, banks)),
                "read_en": In(banks),
                "read_row": In(ROW_BITS),
                "read_data": Out(data.ArrayLayout(8 * lanes, banks)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        bits, rotations = ceil_log2(self.depth), ceil_log2(self.period)
        # Three pipeline stages, since writes come from far away: register the bytes, rotate them, write. Clock enables let a simulator
        # skip most cycles.
        row_r = Signal(bits, reset_less=True)
        row = Signal(bits, reset_less=True)
        bytes_r, rotated = (Signal(8 * self.period, name=name, reset_less=True) for name in ("bytes_r", "rotated"))
        rotation = Signal(rotations, reset_less=True)
        bank_mask = Signal(self.banks)
        lane_mask = Signal(self.lanes, reset_less=True)
        write_r = Signal()
        write = self.write
        m.d.sync += [write_r.eq(write.en), bank_mask.eq(Mux(write.en, write.bank_mask, 0))]
        with m.If(write.en):
            m.d.sync += [
                row_r.eq(write.row[:bits]),
                bytes_r.eq(Mux(write.transpose, write.seq.as_value(), write.word.as_value())),
                rotation.eq(Mux(write.transpose, self._number(write.lane_mask, rotations), self._number(write.bank_mask, rotations))),
                lane_mask.eq(write.lane_mask),
            ]
        with m.If(write_r):
            m.d.sync += [row.eq(row_r), rotated.eq(bytes_r)]
            with m.Switch(rotation):
                for by in range(1, self.period):
                    with m.Case(by):
                        m.d.sync += rotated.eq(bytes_r.rotate_left(8 * by))
        for b in range(self.banks):
            m.submodules[f"bank{b}"] = memory = block_memory(8 * self.lanes, self.depth)
            port = memory.write_port(granularity=8)
            read = memory.read_port(transparent_for=())
            enable = Signal(self.lanes, name=f"enable{b}")
            m.d.sync += enable.eq(Mux(bank_mask[b], lane_mask, 0))
            m.d.comb += [
                port.addr.eq(row),
                port.data.eq(Cat(rotated.word_select((b + lane) % self.period, 8) for lane in range(self.lanes))),
                port.en.eq(enable),
                read.addr.eq(self.read_row[:bits]),
                read.en.eq(self.read_en[b]),
            ]
            m.d.sync += self.read_data[b].eq(read.data)
        return m

    def _number(self, mask: Signal, bits: int) -> Value:
        """Which bit of ``mask`` is set, modulo 2**bits; 0 of none."""
        return Cat(Cat(mask[i] for i in range(len(mask)) if i >> bit & 1).any() for bit in range(bits))


class OutputMemory(wiring.Component):
    """The output buffer: ``banks`` banks of ``out_depth`` words of R bytes, written by column, read by column or row.

    Members:
        write_en, write_row, bank_mask: bank b takes words[b % 4] (an INT32 column is four bytes in four banks), a cycle later.
        read: see ``OutReadSignature``; data is valid ``delay`` cycles after ``read.en`` and held.
        integers (with vector lanes): see ``IntegerReadSignature``; read in cycles without ``read.en``.
    """

    delay = 3

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "write_en": In(1),
                "write_row": In(ROW_BITS),
                "bank_mask": In(config.banks),
                "words": In(data.ArrayLayout(8 * config.rows, 4)),
                "read": In(OutReadSignature(config)),
                **({"integers": In(IntegerReadSignature(config))} if config.vector_lanes else {}),
            }
        )

    def _integers(self, m: Module, banks: list[Signal]) -> tuple[Value, Value]:
        """Whether to read an INT32 word, and its row; it comes from four of ``banks``, two cycles after the read."""
        config, port = self.config, self.integers
        part_bits, group_bits = ceil_log2(config.rows // config.vector_lanes), ceil_log2(config.banks // 4)
        request = Signal(data.StructLayout({"part": part_bits, "group": group_bits}))
        row = port.request.payload >> part_bits + group_bits
        m.d.comb += [port.request.ready.eq(~self.read.en), request.as_value().eq(port.request.payload)]
        enable = port.request.valid & port.request.ready
        valid = valid_bits(m, enable, self.delay, name="integers_valid")
        select = delayed(m, request, 2, name="integers_select", enables=valid)[-1]
        lane_bytes = config.vector_lanes
        groups = [
            Cat(
                Cat(banks[4 * group + byte].word_select(part * lane_bytes + lane, 8) for byte in range(4))
                for part in range(config.rows // lane_bytes)
                for lane in range(lane_bytes)
            )
            for group in range(config.banks // 4)
        ]
        with m.If(valid[2]):
            m.d.sync += port.data.eq(Array(groups)[select.group].word_select(select.part, 32 * lane_bytes))
        m.d.comb += port.valid.eq(valid[self.delay])
        return enable, row

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        bits = ceil_log2(config.out_depth)
        # Pipeline registers on both sides: results come from far away, and block RAM answers late in its cycle.
        row = Signal(bits, reset_less=True)
        enables = Signal(config.banks)
        words = [Signal(8 * config.rows, name=f"word{byte}", reset_less=True) for byte in range(4)]
        m.d.sync += [row.eq(self.write_row[:bits]), enables.eq(Mux(self.write_en, self.bank_mask, 0))]
        m.d.sync += [register.eq(word) for register, word in zip(words, self.words, strict=True)]
        banks = [Signal(8 * config.rows, name=f"word_r{b}", reset_less=True) for b in range(config.banks)]
        read_en, read_row = self.read.en, self.read.row
        if config.vector_lanes:
            enable, row_of_integers = self._integers(m, banks)
            read_en, read_row = read_en | enable, Mux(self.read.en, read_row, row_of_integers)
        for b in range(config.banks):
            m.submodules[f"bank{b}"] = memory = block_memory(8 * config.rows, config.out_depth)
            write, read = memory.write_port(), memory.read_port(transparent_for=())
            m.d.comb += [
                write.addr.eq(row),
                write.data.eq(words[b % 4]),
                write.en.eq(enables[b]),
                read.addr.eq(read_row[:bits]),
                read.en.eq(read_en),
            ]
            m.d.sync += banks[b].eq(read.data)
        log_rows, log_banks = ceil_log2(config.rows), ceil_log2(config.banks)
        select = Signal(data.StructLayout({"lane": log_rows, "bank": log_banks}))
        m.d.comb += [select.lane.eq(self.read.lane), select.bank.eq(self.read.bank)]
        enables = valid_bits(m, self.read.en, 2, name="read_r")
        select_r = delayed(m, select, 2, name="select", enables=enables)[-1]
        with m.If(enables[2]):
            m.d.sync += [
                self.read.lane_data.eq(Cat(word.word_select(select_r.lane, 8) for word in banks)),
                self.read.word.eq(Array(banks)[select_r.bank]),
            ]
        return m


class AccumulateMemory(wiring.Component):
    """R INT32 values a word; read data is valid one cycle after ``read_en``."""

    delay = 1

    def __init__(self, config: Config) -> None:
        self.config = config
        width = 32 * config.rows
        super().__init__(
            {
                "write_en": In(1),
                "write_row": In(ROW_BITS),
                "write_data": In(width),
                "read_en": In(1),
                "read_row": In(ROW_BITS),
                "read_data": Out(width),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        bits = ceil_log2(self.config.acc_depth)
        m.submodules.memory = memory = block_memory(32 * self.config.rows, self.config.acc_depth)
        write, read = memory.write_port(), memory.read_port(transparent_for=())
        m.d.comb += [
            write.addr.eq(self.write_row[:bits]),
            write.data.eq(self.write_data),
            write.en.eq(self.write_en),
            read.addr.eq(self.read_row[:bits]),
            read.en.eq(self.read_en),
            self.read_data.eq(read.data),
        ]
        return m


class ScaleMemory(wiring.Component):
    """R scale entries of 4 bytes a word, written a bus beat at a time; read data one cycle after ``read_en``.

    An entry's shift above ``SHIFT_MAX`` is written as that one, so that no reader need check it.
    """

    delay = 1

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "write_en": In(1),
                "write": In(ScaleWrite(config)),
                "read_en": In(1),
                "read_row": In(ROW_BITS),
                "read_data": Out(32 * config.rows),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        bits = ceil_log2(config.scale_depth)
        groups = 4 * config.rows // config.bus_bytes
        m.submodules.memory = memory = block_memory(32 * config.rows, config.scale_depth)
        write = memory.write_port(granularity=8 * config.bus_bytes)
        read = memory.read_port(transparent_for=())
        data = Signal.like(self.write.data.as_value(), name="limited")
        m.d.comb += data.eq(self.write.data.as_value())
        assert SHIFT_MAX == 0b101111
        for entry in range(0, 8 * config.bus_bytes, 32):
            shift = data[entry + 16 : entry + 22]
            written = self.write.data.as_value()[entry + 16 : entry + 22]
            over = written[4] & written[5]
            m.d.comb += shift.eq(Cat(written[:4] | over.replicate(4), written[4] & ~over, written[5]))
        m.d.comb += [
            write.addr.eq(self.write.row[:bits]),
            write.data.eq(data.replicate(groups)),
            write.en.eq(Mux(self.write_en, Const(1, groups) << self.write.group[: ceil_log2(groups)], 0)),
            read.addr.eq(self.read_row[:bits]),
            read.en.eq(self.read_en),
            self.read_data.eq(read.data),
        ]
        return m


class Statistics(wiring.Component):
    """Slots of (max \\|p\\| 48 bit, saturations 32 bit), merged at the end of a command.

    Members:
        update: pulse with slot, clear (start anew), maximum and saturations; takes ``update_cycles`` cycles, in which
            no other update comes. recorded: pulse: reads from the next cycle but one on find the update.
        read: the store unit's port, see ``StatReadSignature``. exponent: the decoder's, for a command with ``device_shift``.
    """

    delay = 1
    update_cycles = 4

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "update": In(1),
                "slot": In(8),
                "clear": In(1),
                "maximum": In(48),
                "saturations": In(32),
                "recorded": Out(1),
                "read": In(StatReadSignature),
                "exponent": In(StatReadSignature),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        slots = self.config.stat_slots
        bits = ceil_log2(slots)
        m.submodules.memory = memory = block_memory(80, slots)
        write = memory.write_port()
        merge, store_port, decoder = (memory.read_port(transparent_for=()) for _ in range(3))
        # Three stages: read the slot, register its content, merge and write.
        stage = Signal(3)
        clear = Signal()
        slot = Signal(bits)
        maximum = Signal(48)
        saturations = Signal(32)
        old_maximum = Signal(48)
        old_saturations = Signal(32)
        m.d.comb += [merge.addr.eq(self.slot[:bits]), merge.en.eq(self.update)]
        m.d.sync += stage.eq(Cat(self.update, stage))
        with m.If(self.update):
            m.d.sync += [
                clear.eq(self.clear),
                slot.eq(self.slot),
                maximum.eq(self.maximum),
                saturations.eq(self.saturations),
            ]
        with m.If(stage[0]):
            m.d.sync += [
                old_maximum.eq(Mux(clear, 0, merge.data[:48])),
                old_saturations.eq(Mux(clear, 0, merge.data[48:])),
            ]
        with m.If(stage[1]):
            m.d.sync += [
                maximum.eq(Mux((maximum - old_maximum)[48], old_maximum, maximum)),
                saturations.eq(saturations + old_saturations),
            ]
        m.d.comb += [
            self.recorded.eq(stage[1]),
            write.en.eq(stage[2]),
            write.addr.eq(slot),
            write.data.eq(Cat(maximum, saturations)),
        ]
        for port, reader in ((store_port, self.read), (decoder, self.exponent)):
            m.d.comb += [
                port.addr.eq(reader.slot[:bits]),
                port.en.eq(reader.en),
                reader.data.eq(Cat(port.data[:48], Const(0, 16), port.data[48:])),
            ]
        return m
