"""The data side of a LOAD into the vector unit's memories: bus words to words of its lanes, instructions, scalars and the hash key."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.rtl.interfaces import FaultSignature, KeyWriteSignature, ProgramWriteSignature, ScalarWrite, VectorWrite
from loralith.rtl.load_data import BeatErrors
from loralith.rtl.queue import SkidBuffer
from loralith.rtl.read_master import ReadBeat
from loralith.rtl.transfer_check import TransferDescriptor
from loralith.spec.commands import SEMAPHORES, LoadTarget, Opcode, VectorFormat
from loralith.spec.config import Config
from loralith.spec.status import Check, Code
from loralith.spec.vector.numbers import BIAS, EXPONENT_BITS, FRACTION_BITS, WORD_BITS

__all__ = ["ElementPosition", "ElementPositions", "VectorLoadData", "ElementGatherer", "element_log2"]


def element_log2(form: Value) -> Value:
    """log2 of an element's bytes in DRAM."""
    return Mux(form == VectorFormat.FP32, 2, form == VectorFormat.BF16)


class ElementPosition(data.StructLayout):
    """Elements of a bus word that go on together, and where: those of one word of the memory at most.

    Members:
        sub: number of the group in its bus word. part: number of the group in its memory word.
        word_ends, beat_ends, load_ends: the group is the last one of its memory word, of its bus word, of the load.
        row_ends: its bus word is the last one of its row.
        address: of the memory word; of instructions, of a half of one.
    """

    def __init__(self, config: Config) -> None:
        W, L = config.bus_bytes, config.vector_lanes
        members = {"sub": range(W), "part": range(max(4 * L // W, 2)), "address": 16}
        super().__init__(members | dict.fromkeys(("word_ends", "beat_ends", "row_ends", "load_ends"), 1))


class ElementPositions(wiring.Component):
    """Counts the rows of a load, the bus words of a row and the groups of elements of a bus word.

    Members:
        load: must hold from ``begin`` until the last ``step``.
        begin: start with the first group in the next cycle. step: go on to the next one; not together with ``begin``.
        position: of the present group.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__(
            {"load": In(TransferDescriptor(Opcode.LOAD)), "begin": In(1), "step": In(1), "position": Out(ElementPosition(config))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        W, lanes_log2 = self._config.bus_bytes, exact_log2(self._config.vector_lanes)
        load, position = self.load, self.position
        beats_remaining, rows_remaining = Signal.like(load.beats), Signal(16)
        next_row = Signal(16)
        last_row, last_part = Signal(), Signal.like(position.part)
        whole_sub, tail_sub = Signal.like(position.sub), Signal.like(position.sub)  # last group of a bus word, and of a row's last one
        scratchpad = (load.target == LoadTarget.V0) | (load.target == LoadTarget.V1)
        log2 = element_log2(load.format)
        gathers = Mux(scratchpad & ~load.broadcast, lanes_log2, 0)  # log2 of the elements of a group, if the bus word has so many
        words_log2 = Mux(lanes_log2 + log2 > exact_log2(W), (lanes_log2 + log2 - exact_log2(W))[:3], 0)  # log2 of the bus words of one
        # Added up before the shift: Verilator 5 makes one shift of two, by their sum in the bits of one of them.
        group_log2 = log2 + gathers
        tail = (load.row_bytes[: exact_log2(W)] - 1)[: exact_log2(W)]
        m.d.comb += [
            position.word_ends.eq((position.part == last_part) | (position.row_ends & position.beat_ends)),
            position.beat_ends.eq(position.sub == Mux(position.row_ends, tail_sub, whole_sub)),
            position.load_ends.eq(position.row_ends & position.beat_ends & last_row),
        ]
        with m.If(self.begin):
            first = Mux(load.target == LoadTarget.PROGRAM, load.base << 1, load.base)
            m.d.sync += [
                last_part.eq(Mux(gathers == 0, 0, (1 << words_log2) - 1)),
                whole_sub.eq((W - 1) >> group_log2),
                tail_sub.eq(tail >> group_log2),
                beats_remaining.eq(load.beats),
                rows_remaining.eq(load.rows),
                last_row.eq(load.rows == 1),
                next_row.eq(load.base + load.block_stride),
                position.row_ends.eq(load.beats == 1),
                position.sub.eq(0),
                position.part.eq(0),
                position.address.eq(first),
            ]
        with m.Elif(self.step):
            m.d.sync += position.part.eq(Mux(position.word_ends, 0, position.part + 1))
            with m.If(position.word_ends):
                m.d.sync += position.address.eq(position.address + 1)
            with m.If(~position.beat_ends):
                m.d.sync += position.sub.eq(position.sub + 1)
            with m.Else():
                m.d.sync += [position.sub.eq(0), beats_remaining.eq(beats_remaining - 1), position.row_ends.eq(beats_remaining == 2)]
                with m.If(position.row_ends):
                    m.d.sync += [
                        beats_remaining.eq(load.beats),
                        rows_remaining.eq(rows_remaining - 1),
                        last_row.eq(rows_remaining == 2),
                        position.row_ends.eq(load.beats == 1),
                        position.address.eq(next_row),
                        next_row.eq(next_row + load.block_stride),
                    ]
        return m


class ElementGatherer(wiring.Component):
    """Makes words of elements, in two stages: elements of a bus word to lanes, then their numbers into a word.

    Members:
        enable: both stages go on. valid: a group of elements is here: its bus word, with ``position``, and its load's ``format`` and
            ``broadcast``.
        word_valid, address, load_ends: a word is complete, and whether it is the load's last. word: its lanes. raw: its first element's
            32 bits.
        infinite: an element of the group that came last is infinite or no number.
        clear: reset the block's state.
    """

    delay = 2

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__(
            {
                "enable": In(1),
                "valid": In(1),
                "data": In(8 * config.bus_bytes),
                "position": In(ElementPosition(config)),
                "format": In(2),
                "broadcast": In(1),
                "word_valid": Out(1),
                "address": Out(16),
                "load_ends": Out(1),
                "word": Out(config.vector_lanes * WORD_BITS),
                "raw": Out(32),
                "infinite": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        L, position = self._config.vector_lanes, self.position
        valid, first, ends, address, load_ends = Signal(), Signal(), Signal(), Signal(16), Signal()
        form = Signal.like(self.format)
        elements = [Signal(32, name=f"element{lane}") for lane in range(L)]
        taken = Signal(L)  # lanes of which the group has an element
        with m.If(self.enable):
            m.d.sync += [
                valid.eq(self.valid & ~self.clear),
                first.eq(position.part == 0),
                ends.eq(position.word_ends),
                address.eq(position.address),
                load_ends.eq(position.load_ends),
                form.eq(self.format),
            ]
            with m.Switch(self.format):
                for name, log2 in ((VectorFormat.FP32, 2), (VectorFormat.BF16, 1), (VectorFormat.INT8, 0)):
                    with m.Case(name):
                        m.d.sync += self._lanes(elements, taken, log2)
        converted = [self._number(m, element, form, lane) for lane, element in enumerate(elements)]
        with m.If(self.enable):
            m.d.sync += [self.word_valid.eq(valid & ends & ~self.clear), self.address.eq(address), self.load_ends.eq(load_ends)]
            infinite = Cat(number[-1] & taken[lane] for lane, number in enumerate(converted)).any()
            m.d.sync += self.infinite.eq(valid & infinite)
            with m.If(valid):
                m.d.sync += self.raw.eq(elements[0])
                for lane, number in enumerate(converted):
                    with m.If(taken[lane] | first):
                        m.d.sync += self.word.word_select(lane, WORD_BITS).eq(Mux(taken[lane], number[:-1], 0))
        with m.If(self.clear):
            m.d.sync += [valid.eq(0), self.word_valid.eq(0), self.infinite.eq(0)]
        return m

    def _lanes(self, elements: list[Signal], taken: Signal, log2: int) -> list:
        """Each lane's element of 2^``log2`` bytes."""
        W, L, width = self._config.bus_bytes, self._config.vector_lanes, 8 << log2
        count, found = W >> log2, []
        single = self.data.word_select(self.position.sub[: max(exact_log2(count), 1)], width)
        for lane in range(L):
            if count >= L:
                groups = [self.data.word_select(group * L + lane, width) for group in range(count // L)]
                natural, here = self._choose(groups, self.position.sub), Const(1)
            else:
                natural, here = self.data.word_select(lane % count, width), self.position.part == lane // count
            found += [elements[lane].eq(Mux(self.broadcast, single, natural)), taken[lane].eq(self.broadcast | here)]
        return found

    @staticmethod
    def _choose(groups: list[Value], number: Value) -> Value:
        chosen = groups[0]
        for i, group in enumerate(groups[1:], 1):
            chosen = Mux(number == i, group, chosen)
        return chosen

    def _number(self, m: Module, element: Signal, form: Signal, lane: int) -> Value:
        """A word, and above it whether the element is infinite or no number."""
        shared = Mux(form == VectorFormat.FP32, element, element[:16] << 16)
        exponent = shared[23:31]
        real = Mux(exponent == 0, 0, shared[7:32])
        # INT8: the leading one of the magnitude goes to the front, the rest is the fraction.
        negative = element[7]
        magnitude = Signal(8, name=f"magnitude{lane}")
        integer = Signal(WORD_BITS, name=f"integer{lane}")
        m.d.comb += magnitude.eq(Mux(negative, (~element[:8] + 1)[:8], element[:8]))
        for bit in range(8):  # the highest one that is set wins
            with m.If(magnitude[bit]):
                fraction = (magnitude << FRACTION_BITS - bit)[:FRACTION_BITS]
                m.d.comb += integer.eq(Cat(fraction, Const(BIAS + bit, EXPONENT_BITS), negative))
        is_integer = form == VectorFormat.INT8
        return Cat(Mux(is_integer, integer, real), ~is_integer & exponent.all())


class VectorLoadData(wiring.Component):
    """Writes the elements of one load after the other into the vector unit's memories. A load is done before the next one begins.

    Members:
        transfers: loads with a target of the vector unit; taken when ``done`` is. beats: their bus words.
        writes, program, scalars, key: see ``vector_ports``.
        hold: no ``done``, as that of an earlier load is still to come.
        done: the signal mask of a load whose last write was taken.
        fault: a read error, or a number that no word can be; from then on beats are dropped. Held until ``clear``.
        progress: a write is taken (for the watchdog).
        clear: reset the block's state.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__(
            {
                "transfers": In(stream.Signature(TransferDescriptor(Opcode.LOAD))),
                "beats": In(stream.Signature(ReadBeat(config))),
                "writes": Out(stream.Signature(VectorWrite(config))),
                "program": Out(ProgramWriteSignature),
                "scalars": Out(stream.Signature(ScalarWrite)),
                "key": Out(KeyWriteSignature),
                "hold": In(1),
                "done": Out(stream.Signature(SEMAPHORES)),
                "fault": Out(FaultSignature),
                "progress": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, load = self._config, self.transfers.payload
        m.submodules.positions = positions = ElementPositions(config)
        m.submodules.gatherer = gatherer = ElementGatherer(config)
        m.submodules.errors = errors = BeatErrors(config)
        shape = data.StructLayout({"address": 16, "last": 1, "word": config.vector_lanes * WORD_BITS, "raw": 32})
        m.submodules.write_skid = write_skid = SkidBuffer(shape)  # cuts the path from the memories' ready
        for block in (gatherer, errors, write_skid):
            m.d.comb += block.clear.eq(self.clear)
        started, running, finishing, range_fault = (Signal(name=name) for name in ("started", "running", "finishing", "range_fault"))
        begin, step, failed = Signal(), Signal(), Signal()
        position, beat = positions.position, self.beats.payload
        number = (load.target != LoadTarget.PROGRAM) & (load.target != LoadTarget.KEY)
        scratchpad = (load.target == LoadTarget.V0) | (load.target == LoadTarget.V1)
        m.d.comb += [
            failed.eq(errors.failed | range_fault),
            begin.eq(self.transfers.valid & ~started & ~failed & ~self.clear),
            gatherer.enable.eq(~gatherer.word_valid | write_skid.i.ready),
            step.eq(running & self.beats.valid & ~beat.error & gatherer.enable & ~failed),
            self.beats.ready.eq((step & position.beat_ends) | failed),
            positions.load.eq(load),
            positions.begin.eq(begin),
            positions.step.eq(step),
            gatherer.valid.eq(step),
            gatherer.data.eq(self._masked(load, position, beat)),
            gatherer.position.eq(position),
            gatherer.format.eq(load.format),
            gatherer.broadcast.eq(load.broadcast | ~scratchpad),
            errors.load.eq(load),
            errors.begin.eq(begin),
            errors.next_word.eq(step & position.beat_ends),
            errors.row_ends.eq(position.row_ends),
            errors.error.eq(running & self.beats.valid & beat.error & ~failed),
            write_skid.i.valid.eq(gatherer.word_valid & ~failed),
            write_skid.i.payload.address.eq(gatherer.address),
            write_skid.i.payload.last.eq(gatherer.load_ends),
            write_skid.i.payload.word.eq(gatherer.word),
            write_skid.i.payload.raw.eq(gatherer.raw),
            self.done.valid.eq(finishing & ~self.hold),
            self.done.payload.eq(load.signal),
            self.transfers.ready.eq(self.done.valid & self.done.ready),
        ]
        with m.If(gatherer.infinite & number):
            m.d.sync += range_fault.eq(1)
        with m.If(begin):
            m.d.sync += started.eq(1)
        with m.Elif(self.transfers.ready):
            m.d.sync += started.eq(0)
        with m.If(begin):
            m.d.sync += running.eq(1)
        with m.Elif((step & position.load_ends) | failed):
            m.d.sync += running.eq(0)
        with m.If(self.progress & write_skid.o.payload.last & ~failed):
            m.d.sync += finishing.eq(1)
        with m.Elif(self.transfers.ready):
            m.d.sync += finishing.eq(0)
        with m.If(self.clear):
            m.d.sync += [started.eq(0), running.eq(0), finishing.eq(0), range_fault.eq(0)]
        self._outputs(m, write_skid, scratchpad)
        self._faults(m, errors, range_fault)
        return m

    def _masked(self, load: data.View, position: data.View, beat: data.View) -> Value:
        """A row's last bus word with zeros for what is past the row."""
        W = self._config.bus_bytes
        tail = load.row_bytes[: exact_log2(W)]
        keep = Mux(position.row_ends & (tail != 0), (Const(1, W + 1) << tail) - 1, Const(-1, W))
        return Cat(Mux(keep[i], beat.data[i], 0) for i in range(W))

    def _outputs(self, m: Module, write_skid: SkidBuffer, scratchpad: Value) -> None:
        """Each write to the memory that its load names."""
        load, write, taken = self.transfers.payload, write_skid.o.payload, write_skid.o
        m.d.comb += [
            self.writes.valid.eq(taken.valid & scratchpad),
            self.writes.payload.memory.eq(load.target == LoadTarget.V1),
            self.writes.payload.address.eq(write.address),
            self.writes.payload.data.eq(write.word),
            self.scalars.valid.eq(taken.valid & (load.target == LoadTarget.SCALARS)),
            self.scalars.payload.address.eq(write.address),
            self.scalars.payload.data.eq(write.word[:WORD_BITS]),
            self.program.en.eq(taken.valid & (load.target == LoadTarget.PROGRAM)),
            self.program.address.eq(write.address),
            self.program.data.eq(write.raw),
            self.key.en.eq(taken.valid & (load.target == LoadTarget.KEY)),
            self.key.which.eq(write.address[0]),
            self.key.data.eq(write.raw),
            taken.ready.eq(Mux(scratchpad, self.writes.ready, Mux(load.target == LoadTarget.SCALARS, self.scalars.ready, 1))),
            self.progress.eq(taken.valid & taken.ready),
        ]

    def _faults(self, m: Module, errors: BeatErrors, range_fault: Signal) -> None:
        with m.If(errors.fault.valid):
            m.d.comb += [getattr(self.fault, name).eq(getattr(errors.fault, name)) for name in self.fault.signature.members]
        with m.Else():
            m.d.comb += [
                self.fault.valid.eq(range_fault),
                self.fault.code.eq(Code.VECTOR_RANGE),
                self.fault.detail.eq(Check.NONE),
                self.fault.command.eq(self.transfers.payload.index),
            ]
