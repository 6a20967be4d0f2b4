"""The compute unit: decoder, sequencer, operand path, array, drain, post-processing and results."""

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from loralith.spec.config import Config

from .array import ProcessingArray
from .decode import ComputeDecoder
from .drain import Drain
from .interfaces import (
    CommandEntry,
    FaultSignature,
    OperandWrite,
    OutReadSignature,
    ScaleWrite,
    SignalSignature,
    StatReadSignature,
    UnitControl,
    WaitSignature,
)
from .memories import AccumulateMemory, OperandMemory, OutputMemory, ScaleMemory, Statistics
from .operands import OperandPath
from .ppu import IndexHash, PostProcessor
from .reset import LocalReset
from .results import Results
from .sequencer import Sequencer

__all__ = ["ComputeUnit"]


class ComputeUnit(wiring.Component):
    """Everything between the bus side's streams: runs COMPUTE commands on the on-chip memories that it owns.

    Members:
        reset: every register that needs one, a cycle later. In a domain that has a reset, none is needed.
        commands: the compute queue. control, fault: see ``UnitControl`` and ``FaultSignature``.
        wait, segment_wait, read_signal, done_signal: tokens.
        operand_write: loads into the scratchpads; not ready in a cycle in which a result goes to the left one.
        scale_write: loads into the scale memory; always ready.
        out_read, stat_read: the store unit's read ports.
        step: the array takes a step with operands this cycle. draining: work is in the pipeline or waiting for tokens.
        macs, saturations: to be added to the counters this cycle.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "reset": In(1),
                "commands": In(stream.Signature(CommandEntry)),
                "control": In(UnitControl),
                "fault": Out(FaultSignature),
                "wait": Out(WaitSignature),
                "segment_wait": Out(WaitSignature),
                "read_signal": Out(SignalSignature),
                "done_signal": Out(SignalSignature),
                "operand_write": In(stream.Signature(OperandWrite(config))),
                "scale_write": In(stream.Signature(ScaleWrite(config))),
                "out_read": In(OutReadSignature(config)),
                "stat_read": In(StatReadSignature),
                "step": Out(1),
                "draining": Out(1),
                "macs": Out(20),
                "saturations": Out(8),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        decoder, sequencer, operands = ComputeDecoder(config), Sequencer(config), OperandPath(config)
        drain, results = Drain(config), Results(config)
        # ``clear`` comes from far away, long before the first command. Pipelines without a reset of their own empty themselves: nothing
        # comes in once these are reset.
        clearing = Signal()
        cleared = Signal()
        m.d.sync += [clearing.eq(self.control.clear), cleared.eq(clearing)]
        blocks = {"decoder": decoder, "sequencer": sequencer, "operands": operands, "drain": drain, "results": results}
        for name, block in blocks.items():
            m.submodules[f"{name}_reset"] = reset = LocalReset()
            m.d.comb += reset.i.eq(clearing | self.reset)
            m.submodules[name] = ResetInserter(reset.o)(block)
        m.submodules.array = array = ProcessingArray(config)
        m.submodules.ppu = ppu = PostProcessor(config.rows)
        m.submodules.hash = index_hash = IndexHash(config.rows)
        m.submodules.left = left = OperandMemory(config.rows, config.left_depth, config.banks)
        m.submodules.right = right = OperandMemory(config.cols, config.right_depth, config.banks, config.banks)
        m.submodules.out = out = OutputMemory(config)
        m.submodules.acc = acc = AccumulateMemory(config)
        m.submodules.scale = scale = ScaleMemory(config)
        m.submodules.statistics = statistics = Statistics(config)

        # Control. ``stop`` comes from far away; a step more does no harm.
        stop = Signal()
        m.d.sync += stop.eq(self.control.stop)
        connect(m, flipped(self.commands), decoder.commands)
        connect(m, decoder.plans, sequencer.plans)
        connect(m, decoder.wait, flipped(self.wait))
        # A register on the way to the controller; it forgets a fault when the decoder does.
        for name in self.fault.signature.members:
            m.d.sync += getattr(self.fault, name).eq(getattr(decoder.fault, name))
        with m.If(self.control.clear | clearing | cleared):
            m.d.sync += self.fault.valid.eq(0)
        connect(m, sequencer.segment, flipped(self.segment_wait))
        connect(m, sequencer.read_signal, flipped(self.read_signal))
        connect(m, results.signal, flipped(self.done_signal))
        m.d.comb += [
            decoder.stop.eq(stop),
            sequencer.stop.eq(stop),
            sequencer.hold.eq(results.full),
            decoder.segment_due.eq(sequencer.segment_due),
            decoder.recorded.eq(statistics.recorded),
            results.started.eq(sequencer.final),
            self.step.eq(sequencer.valid & sequencer.step.reads),
            self.draining.eq(sequencer.active | results.pending),
            self.macs.eq(operands.macs),
            self.saturations.eq(results.saturations),
            self.control.complete.eq(results.complete),
        ]
        # In registers, as the controller is far away. After a fault nothing is left to finish: the pipeline empties by itself.
        m.d.sync += [
            self.control.progress.eq(sequencer.valid | results.complete | (self.commands.valid & self.commands.ready)),
            self.control.busy.eq(~self.control.stop & (decoder.active | sequencer.active | results.pending)),
        ]

        # Operands.
        m.d.comb += [
            operands.valid.eq(sequencer.valid),
            operands.step.eq(sequencer.step),
            left.read_en.eq(operands.left_en),
            left.read_row.eq(operands.left_row),
            operands.left_data.eq(left.read_data),
            right.read_en.eq(operands.right_en),
            right.read_row.eq(operands.right_row),
            operands.right_data.eq(right.read_data),
            array.left.eq(operands.left),
            array.right.eq(operands.right),
            array.valid.eq(operands.array_valid),
            array.base.eq(operands.base),
            array.shift.eq(drain.shift),
        ]
        last = Signal(array.accumulate_delay + 1)
        m.d.sync += last.eq(Mux(self.reset, 0, Cat(operands.last, last)))
        m.d.comb += array.capture.eq(last[-2])

        # Sums to results. A tile is there for ``least_spacing`` cycles, of which the drain's capture must be one.
        tile = Signal.like(sequencer.tile)
        m.d.sync += tile.eq(sequencer.tile)
        m.d.comb += [
            drain.capture.eq(last[-1]),
            drain.tile.eq(tile),
            drain.heads.eq(array.heads),
            drain.acc_read_data.eq(acc.read_data),
            acc.read_en.eq(drain.acc_read_en),
            acc.read_row.eq(drain.acc_read_row),
            acc.write_en.eq(drain.acc_write_en),
            acc.write_row.eq(drain.acc_write_row),
            acc.write_data.eq(drain.acc_write_data),
            scale.read_en.eq(drain.scale_en),
            scale.read_row.eq(drain.scale_row),
            drain.scale_data.eq(scale.read_data),
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
            results.wide.eq(ppu.wide),
            results.saturated.eq(ppu.saturated),
            results.maximum.eq(ppu.maximum),
            out.write_en.eq(results.out_en),
            out.write_row.eq(results.out_row),
            out.bank_mask.eq(results.out_mask),
            out.words.eq(results.out_words),
            statistics.update.eq(results.stat_update),
            statistics.slot.eq(results.stat_slot),
            statistics.clear.eq(results.stat_clear),
            statistics.maximum.eq(results.stat_maximum),
            statistics.saturations.eq(results.stat_saturations),
        ]
        connect(m, flipped(self.out_read), out.read)
        connect(m, flipped(self.stat_read), statistics.read)
        connect(m, decoder.exponent, statistics.exponent)

        # Scratchpad writes: a result takes the left port before a load.
        write = self.operand_write.payload
        m.d.comb += [
            self.operand_write.ready.eq(write.right | ~results.left_en),
            right.write_en.eq(self.operand_write.valid & (write.right | (write.both & ~results.left_en))),
            right.write_row.eq(Mux(write.both, write.right_row, write.row)),
            right.bank_mask.eq(Mux(write.both, write.right_bank_mask, write.bank_mask)),
            right.lane_mask.eq(Mux(write.both, write.right_lane_mask, write.lane_mask)),
            right.transpose.eq(write.transpose & ~write.both),
            right.seq.eq(write.seq),
            right.word.as_value().eq(write.word.as_value()),
            self.scale_write.ready.eq(1),
        ]
        # A register on the long way; operands take longer.
        m.d.sync += [scale.write_en.eq(self.scale_write.valid), scale.write.eq(self.scale_write.payload)]
        with m.If(results.left_en):
            m.d.comb += [
                left.write_en.eq(1),
                left.write_row.eq(results.left_row),
                left.bank_mask.eq(results.left_mask),
                left.lane_mask.eq((1 << config.rows) - 1),
                left.word.as_value().eq(results.left_word),
            ]
        with m.Else():
            m.d.comb += [
                left.write_en.eq(self.operand_write.valid & ~write.right),
                left.write_row.eq(write.row),
                left.bank_mask.eq(write.bank_mask),
                left.lane_mask.eq(write.lane_mask),
                left.transpose.eq(write.transpose),
                left.seq.eq(write.seq),
                left.word.as_value().eq(write.word.as_value()),
            ]
        return m
