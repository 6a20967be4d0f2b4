"""The vector unit: lanes, scratchpads, scalars, program and their control."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from loralith.rtl.memories import block_memory
from loralith.spec.vector.numbers import WORD_BITS
from loralith.spec.vector.program import PROGRAM_INSTRUCTIONS, SCALARS, Format, Operand, Reduce, Source, Target

from .addresses import VectorAddresses
from .command import ADDRESS_BITS, INSTRUCTION_BITS, VectorCommand
from .delay_line import DelayLine, delay_pointer
from .lane import CONSTANTS, LaneTiming
from .lane_group import LaneGroup
from .lane_settings import OperandSelect, XSelect, YSelect
from .reduction import ReductionReader
from .sequencer import VectorSequencer
from .set_up import INSTRUCTION_WORDS, FetchRequest
from .vector_memory import VectorMemory, transfer_ports

__all__ = ["VectorUnit"]


class VectorUnit(wiring.Component):
    """Runs VECTOR commands over its scratchpads, see docs/vector_unit.md.

    Parameters: lanes: an even number up to 64. depths: words of V0 and V1; integer_words: of INT32, in the output buffer. left_target:
        whether an instruction may write to the left scratchpad.

    Members:
        command, stop, done, fault, fault_code, fault_detail, fault_instruction, busy, progress: see ``VectorSequencer``.
        begin: a command begins; words that ``integers`` still holds are of no instruction.
        integers: X of source OUT32, in the order of the instructions. fetch: an instruction's read of such words.
        left_valid, left_address, left_lanes, left_bytes: a write into the left scratchpad; left_lanes: lanes of the tensor.
        program_write, program_address, program_data: half an instruction a cycle, the low half first.
        scalar_write: a scalar from outside; taken in cycles without one of the unit's. scalar_read, scalar_read_data: a cycle later.
        load0, store0, stored0, read_data0 and load1, ...: of V0 and V1, see ``VectorMemory``.
        saturations: clipped INT8 results of the command that runs, or ran; clipped: of this cycle.
    """

    def __init__(
        self, lanes: int, depths: tuple[int, int] = (1024, 512), integer_words: int = 1 << ADDRESS_BITS, left_target: bool = False
    ) -> None:
        self.lanes, self.depths, self.integer_words, self.left_target = lanes, depths, integer_words, left_target
        super().__init__(
            {
                "command": In(stream.Signature(VectorCommand)),
                "stop": In(1),
                "busy": Out(1),
                "progress": Out(1),
                "done": Out(1),
                "fault": Out(1),
                "fault_code": Out(8),
                "fault_detail": Out(8),
                "fault_instruction": Out(INSTRUCTION_BITS),
                "integers": In(stream.Signature(data.ArrayLayout(32, lanes))),
                "begin": Out(1),
                "fetch": Out(stream.Signature(FetchRequest)),
                "left_valid": Out(1),
                "left_address": Out(ADDRESS_BITS),
                "left_lanes": Out(lanes),
                "left_bytes": Out(8 * lanes),
                "program_write": In(1),
                "program_address": In(INSTRUCTION_BITS + 1),
                "program_data": In(32),
                "scalar_write": In(stream.Signature(data.StructLayout({"address": range(SCALARS), "data": WORD_BITS}))),
                "scalar_read": In(range(SCALARS)),
                "scalar_read_data": Out(WORD_BITS),
                "saturations": Out(32),
                "clipped": Out(8),
                **transfer_ports(lanes, "0"),
                **transfer_ports(lanes, "1"),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sequencer = sequencer = VectorSequencer(self.left_target)
        m.submodules.group = group = LaneGroup(self.lanes)
        m.submodules.reader = reader = ReductionReader(self.lanes)
        instruction, command = sequencer.instruction, self.command.payload
        wiring.connect(m, flipped(self.command), sequencer.command)
        wiring.connect(m, sequencer.fetch, flipped(self.fetch))
        for name in ("begin", "busy", "progress", "done", "fault", "fault_code", "fault_detail", "fault_instruction"):
            m.d.comb += getattr(self, name).eq(getattr(sequencer, name))
        for name in ("constant", "constant_load", "constant_lane", "constant_register", "x_constant_load"):
            m.d.comb += getattr(group, name).eq(getattr(sequencer, name))
        for name in ("clear", "first", "iteration", "partial"):
            m.d.comb += getattr(group, name).eq(getattr(sequencer, name))
        for name in ("key0", "key1", "index_inner", "index_outer"):
            m.d.comb += getattr(group, name).eq(command[name])
        takes_integer = instruction.x_source == Source.OUT32
        m.d.comb += [
            sequencer.stop.eq(self.stop),
            group.enable.eq(sequencer.busy),
            group.valid.eq(sequencer.issue),
            group.mask.eq(command.lanes),
            group.index_load.eq(sequencer.begin),
            group.index.eq(command.index_base),
            sequencer.integers_valid.eq(self.integers.valid),
            sequencer.range_fault.eq(group.fault),
            sequencer.reduce_fault.eq(reader.fault),
            self.integers.ready.eq(sequencer.issue & takes_integer),
            reader.enable.eq(sequencer.busy),
            reader.start.eq(sequencer.reduce_start),
            reader.reduce.eq(instruction.reduce),
            reader.integers.eq((instruction.format == Format.INT8) | (instruction.format == Format.INT8_STOCHASTIC)),
            reader.scale.eq(sequencer.scale),
            sequencer.reduce_last.eq(reader.last),
        ]
        for i in range(self.lanes):
            m.d.comb += [
                group.integers[i].eq(self.integers.payload[i]),
                reader.sums[i].eq(group.sums[i]),
                reader.maxima[i].eq(group.maxima[i]),
            ]
        self._settings(m, sequencer, group)
        result = self._memories(m, sequencer, group)
        self._targets(m, sequencer, group, reader, result)
        return m

    def _settings(self, m: Module, sequencer: VectorSequencer, group: LaneGroup) -> None:
        """An instruction's fields as the lanes take them."""
        instruction, settings = sequencer.instruction, group.settings
        x, y = instruction.x_source, instruction.y_source
        select_x = Mux(
            x == Source.V0, XSelect.V0, Mux(x == Source.V1, XSelect.V1, Mux(x == Source.OUT32, XSelect.INTEGER, XSelect.CONSTANT))
        )
        m.d.comb += [
            settings.x.eq(select_x),
            settings.y.eq(Mux(y == Source.V0, YSelect.V0, Mux(y == Source.V1, YSelect.V1, YSelect.ZERO))),
            settings.packing.eq(instruction.format),
            settings.summing.eq((instruction.reduce == Reduce.SUM_LANE) | (instruction.reduce == Reduce.SUM_ALL)),
            settings.comparing.eq(instruction.reduce >= Reduce.MAX_LANE),
            settings.signed.eq(instruction.reduce >= Reduce.TOP_LANE),
            settings.scale.eq(sequencer.scale),
        ]
        for name in ("a_negate", "b_negate", "d_negate", "function"):
            m.d.comb += settings[name].eq(instruction[name])
        for name in CONSTANTS:
            operand = instruction[name]
            select = Mux(operand == Operand.Y, OperandSelect.Y, OperandSelect.CONSTANT)
            m.d.comb += settings[name].eq(Mux(operand == Operand.X, OperandSelect.X, select))

    def _memories(self, m: Module, sequencer: VectorSequencer, group: LaneGroup) -> data.View:
        """Scratchpads and program, with X's and Y's addresses. A word is read so that it meets its element in the lanes. Returns where
        the word goes that the lanes give."""
        m.submodules.program = program = block_memory(32, INSTRUCTION_WORDS * PROGRAM_INSTRUCTIONS)
        write, read = program.write_port(), program.read_port(transparent_for=())
        m.d.comb += [write.en.eq(self.program_write), write.addr.eq(self.program_address), write.data.eq(self.program_data)]
        m.d.comb += [read.en.eq(1), read.addr.eq(sequencer.program_address), sequencer.program_data.eq(read.data)]
        ahead = LaneTiming.vectors - VectorMemory.delay
        m.submodules.addresses = addresses = VectorAddresses((*self.depths, self.integer_words), ahead)
        m.d.comb += [
            addresses.instruction.eq(sequencer.next_instruction),
            addresses.start.eq(sequencer.start),
            addresses.issue.eq(sequencer.issue),
            sequencer.out_of_bounds.eq(addresses.out_of_bounds),
            sequencer.bounds_detail.eq(addresses.detail),
        ]
        for at in range(3):
            m.d.comb += [addresses.first_addresses[at].eq(sequencer.addresses[at]), addresses.strides[at].eq(sequencer.strides[at])]
        result = self._result(m, sequencer, addresses.target)
        for i, (depth, words) in enumerate(zip(self.depths, (group.v0, group.v1), strict=True)):
            m.submodules[f"v{i}"] = memory = VectorMemory(self.lanes, depth)
            load, store = getattr(self, f"load{i}"), getattr(self, f"store{i}")
            wiring.connect(m, flipped(load), memory.load)
            wiring.connect(m, flipped(store), memory.store)
            written = group.valid_o & (result.target == (Target.V0, Target.V1)[i])
            m.d.comb += [
                memory.read_en.eq(addresses.read_en[i]),
                memory.read_address.eq(addresses.read_address[i]),
                memory.write_en.eq(written),
                memory.write_address.eq(result.address),
                memory.write_data.eq(Cat(group.words)),
                getattr(self, f"stored{i}").eq(memory.stored),
                getattr(self, f"read_data{i}").eq(memory.read_data),
            ]
            m.d.comb += [words[lane].as_value().eq(memory.read_data.word_select(lane, WORD_BITS)) for lane in range(self.lanes)]
        return result

    def _result(self, m: Module, sequencer: VectorSequencer, address: Value) -> data.View:
        """Of each word that the lanes give, where it goes and whose it is."""
        instruction = sequencer.instruction
        shape = data.StructLayout({"target": 3, "lane": 2, "s3": range(SCALARS), "number": INSTRUCTION_BITS, "address": ADDRESS_BITS})
        m.submodules.results = line = DelayLine(shape.size, LaneGroup.delay)
        result = Signal(shape)
        m.d.comb += [
            line.enable.eq(sequencer.busy),
            line.pointer.eq(delay_pointer(m, sequencer.busy)),
            line.i.eq(Cat(instruction.target, instruction.lane, instruction.s3, sequencer.number, address)),
            result.eq(line.o),
        ]
        m.d.sync += sequencer.range_number.eq(result.number)
        return result

    def _targets(self, m: Module, sequencer: VectorSequencer, group: LaneGroup, reader: ReductionReader, result: data.View) -> None:
        """Writes of results and reductions: left scratchpad, lane registers and scalars."""
        instruction = sequencer.instruction
        to_lane = group.valid_o & (result.target == Target.LANE)
        to_scalar = group.valid_o & (result.target == Target.SCALAR)
        reduced_lane, reduced_scalar = reader.write & ~instruction.reduce_to, reader.write & instruction.reduce_to
        one_lane = Const(1, self.lanes) << reader.lane
        m.d.comb += [
            group.register_result.eq(to_lane),
            group.register_write.eq(
                (to_lane | (reduced_lane & reader.all_lanes)).replicate(self.lanes)
                | (one_lane[: self.lanes] & reduced_lane.replicate(self.lanes))
            ),
            group.register_number.eq(Mux(to_lane, result.lane, instruction.lane)),
            group.register_word.eq(reader.word),
            self.left_valid.eq(group.valid_o & (result.target == Target.LEFT)),
            self.left_address.eq(result.address),
            self.left_lanes.eq(group.live_o),
            self.left_bytes.eq(Cat(word[:8] for word in group.words)),
        ]
        m.submodules.scalars = scalars = block_memory(WORD_BITS, SCALARS)
        write, read, other = scalars.write_port(), scalars.read_port(transparent_for=()), scalars.read_port(transparent_for=())
        own = to_scalar | (reduced_scalar & (reader.all_lanes | (reader.lane == 0)))
        m.d.comb += [
            self.scalar_write.ready.eq(~own),
            write.en.eq(own | self.scalar_write.valid),
            write.addr.eq(Mux(own, Mux(to_scalar, result.s3, instruction.s3), self.scalar_write.payload.address)),
            write.data.eq(Mux(own, Mux(reader.write, reader.word, group.words[0]), self.scalar_write.payload.data)),
            read.en.eq(1),
            read.addr.eq(sequencer.scalar_address),
            sequencer.scalar_data.eq(read.data),
            other.en.eq(1),
            other.addr.eq(self.scalar_read),
            self.scalar_read_data.eq(other.data),
        ]
        clipped = sum((bit for bit in group.saturated), Const(0, 1))
        m.d.comb += self.clipped.eq(clipped)
        with m.If(sequencer.begin):
            m.d.sync += self.saturations.eq(0)
        with m.Elif(group.valid_o):
            m.d.sync += self.saturations.eq(self.saturations + clipped)
