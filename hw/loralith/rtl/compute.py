"""The compute unit: decoder, sequencer, operand path, array, drain, post-processing and results."""

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, connect, flipped

from loralith.spec.config import Config

from .array import ProcessingArray
from .decode import ComputeDecoder
from .drain import Drain
from .interfaces import IntegerReadSignature, compute_ports
from .memories import AccumulateMemory, OperandMemory, OutputMemory, ScaleMemory, Statistics
from .operands import OperandPath
from .ppu import IndexHash, PostProcessor
from .reset import LocalReset
from .results import Results
from .scratchpad_write_arbiter import ScratchpadWriteArbiter
from .sequencer import Sequencer

__all__ = ["ComputeUnit"]


class ComputeUnit(wiring.Component):
    """Everything between the bus side's streams: runs COMPUTE commands on the on-chip memories that it owns.

    Members:
        reset: every register that needs one, a cycle later. In a domain that has a reset, none is needed.
        integers (with vector lanes): the output buffer's INT32 words for the vector unit.
        and those of ``compute_ports``.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        integers = {"integers": In(IntegerReadSignature(config))} if config.vector_lanes else {}
        super().__init__({"reset": In(1)} | integers | {name: member.flip() for name, member in compute_ports(config).items()})

    def _control(self, m: Module, decoder: ComputeDecoder, sequencer: Sequencer, results: Results, clearing: Signal) -> None:
        """Commands, tokens, faults, and what the controller sees: registered, as it is far away."""
        stop = Signal()  # a step more does no harm
        cleared = Signal()
        m.d.sync += [stop.eq(self.compute.stop), cleared.eq(clearing)]
        connect(m, flipped(self.commands), decoder.commands)
        connect(m, decoder.plans, sequencer.plans)
        connect(m, decoder.wait, flipped(self.compute_wait))
        connect(m, sequencer.segment, flipped(self.segment_wait))
        connect(m, sequencer.read_signal, flipped(self.compute_read))
        connect(m, results.signal, flipped(self.compute_done))
        # The fault is cleared together with the decoder's.
        m.d.sync += [getattr(self.compute_fault, name).eq(getattr(decoder.fault, name)) for name in self.compute_fault.signature.members]
        with m.If(self.compute.clear | clearing | cleared):
            m.d.sync += self.compute_fault.valid.eq(0)
        m.d.comb += [
            decoder.stop.eq(stop),
            sequencer.stop.eq(stop),
            sequencer.hold.eq(results.full),
            decoder.segment_due.eq(sequencer.segment_due),
            results.started.eq(sequencer.final),
            self.step.eq(sequencer.valid & sequencer.step.reads),
            self.drain_busy.eq(sequencer.active | results.pending),
            self.saturations.eq(results.saturations),
            self.compute.complete.eq(results.complete),
        ]
        # After a fault nothing is left to finish: the pipeline empties by itself.
        m.d.sync += [
            self.compute.progress.eq(sequencer.valid | results.complete | (self.commands.valid & self.commands.ready)),
            self.compute.busy.eq(~self.compute.stop & (decoder.active | sequencer.active | results.pending)),
        ]

    def _operands(self, m: Module, operands: OperandPath, array: ProcessingArray, results: Results) -> None:
        """Scratchpads, their writes and reads, and the array's operands."""
        config = self.config
        m.submodules.left = left = OperandMemory(config.rows, config.left_depth, config.banks)
        m.submodules.right = right = OperandMemory(config.cols, config.right_depth, config.banks, config.banks)
        m.submodules.writes = writes = ScratchpadWriteArbiter(config)
        connect(m, flipped(self.operand), writes.loads)
        connect(m, writes.left, left.write)
        connect(m, writes.right, right.write)
        m.d.comb += [
            writes.result_en.eq(results.left_en),
            writes.result_row.eq(results.left_row),
            writes.result_mask.eq(results.left_mask),
            writes.result_word.eq(results.left_word),
            left.read_en.eq(operands.left_en),
            left.read_row.eq(operands.left_row),
            operands.left_data.eq(left.read_data),
            right.read_en.eq(operands.right_en),
            right.read_row.eq(operands.right_row),
            operands.right_data.eq(right.read_data),
            array.left.eq(operands.left),
            array.right.eq(operands.right),
            array.valid.eq(operands.array_valid),
            array.accumulate_mode.eq(operands.accumulate_mode),
            self.macs.eq(operands.macs),
        ]

    def _sums(self, m: Module, drain: Drain) -> None:
        """Accumulate buffer and scales of the drain."""
        m.submodules.acc = acc = AccumulateMemory(self.config)
        m.submodules.scale = scale = ScaleMemory(self.config)
        m.d.comb += [
            drain.acc_read_data.eq(acc.read_data),
            acc.read_en.eq(drain.acc_read_en),
            acc.read_row.eq(drain.acc_read_row),
            acc.write_en.eq(drain.acc_write_en),
            acc.write_row.eq(drain.acc_write_row),
            acc.write_data.eq(drain.acc_write_data),
            scale.read_en.eq(drain.scale_en),
            scale.read_row.eq(drain.scale_row),
            drain.scale_data.eq(scale.read_data),
            self.scale.ready.eq(1),
        ]
        # Registered for the long way; operands take longer.
        m.d.sync += [scale.write_en.eq(self.scale.valid), scale.write.eq(self.scale.payload)]

    def _results(self, m: Module, drain: Drain, results: Results) -> None:
        """Post-processing, with its hash, between drain and results."""
        m.submodules.ppu = ppu = PostProcessor(self.config.rows)
        m.submodules.hash = index_hash = IndexHash(self.config.rows)
        m.d.comb += [
            index_hash.valid.eq(drain.hash_valid),
            index_hash.keyed.eq(drain.hash_keyed),
            index_hash.column.eq(drain.hash_column),
            index_hash.key1.eq(drain.hash_key1),
            ppu.valid.eq(drain.valid),
            ppu.values.eq(drain.values),
            ppu.scales.eq(drain.scales),
            ppu.mask.eq(drain.mask),
            ppu.out_mode.eq(drain.column.flags.out_mode),
            ppu.stochastic.eq(drain.column.flags.stochastic),
            ppu.hashes.eq(index_hash.hashes),
            results.valid.eq(drain.valid),
            results.column.eq(drain.column),
            results.quantized.eq(ppu.quantized),
            results.int32.eq(ppu.int32),
            results.saturated.eq(ppu.saturated),
            results.maximum.eq(ppu.maximum),
        ]

    def _outputs(self, m: Module, results: Results, decoder: ComputeDecoder) -> None:
        """Output buffer and statistics."""
        m.submodules.out = out = OutputMemory(self.config)
        m.submodules.statistics = statistics = Statistics(self.config)
        m.d.comb += [
            out.write_en.eq(results.out_en),
            out.write_row.eq(results.out_row),
            out.bank_mask.eq(results.out_mask),
            out.words.eq(results.out_words),
            statistics.update.eq(results.stat_update),
            statistics.slot.eq(results.stat_slot),
            statistics.clear.eq(results.stat_clear),
            statistics.maximum.eq(results.stat_maximum),
            statistics.saturations.eq(results.stat_saturations),
            decoder.recorded.eq(statistics.recorded),
        ]
        connect(m, flipped(self.out_read), out.read)
        if self.config.vector_lanes:
            connect(m, flipped(self.integers), out.integers)
        connect(m, flipped(self.stat_read), statistics.read)
        connect(m, decoder.exponent, statistics.exponent)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        decoder, sequencer, operands = ComputeDecoder(config), Sequencer(config), OperandPath(config)
        drain, results = Drain(config), Results(config)
        # ``clear`` comes from far away, long before the first command. Pipelines without a reset of their own empty themselves: nothing
        # comes in once these are reset.
        clearing = Signal()
        m.d.sync += clearing.eq(self.compute.clear)
        blocks = {"decoder": decoder, "sequencer": sequencer, "operands": operands, "drain": drain, "results": results}
        for name, block in blocks.items():
            m.submodules[f"{name}_reset"] = reset = LocalReset()
            m.d.comb += reset.i.eq(clearing | self.reset)
            m.submodules[name] = ResetInserter(reset.o)(block)
        m.submodules.array = array = ProcessingArray(config)
        self._control(m, decoder, sequencer, results, clearing)
        self._operands(m, operands, array, results)
        self._sums(m, drain)
        self._results(m, drain, results)
        self._outputs(m, results, decoder)

        # From the sequencer to the array, and from there to the drain. A tile is there for ``least_spacing`` cycles, of which the drain's
        # capture must be one.
        last = Signal(array.accumulate_delay + 1)
        m.d.sync += last.eq(Mux(self.reset, 0, Cat(operands.last, last)))
        tile = Signal.like(sequencer.tile)
        m.d.sync += tile.eq(sequencer.tile)
        m.d.comb += [
            operands.valid.eq(sequencer.valid),
            operands.step.eq(sequencer.step),
            array.capture.eq(last[-2]),
            array.shift.eq(drain.shift),
            drain.capture.eq(last[-1]),
            drain.tile.eq(tile),
            drain.array_out.eq(array.drain_out),
        ]
        return m
