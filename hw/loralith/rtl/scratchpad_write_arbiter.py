"""Arbiter of the operand scratchpads' write ports: the load unit, and results for the left scratchpad."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.config import Config

from .interfaces import OperandWrite
from .memories import OperandWritePort
from .tile import field

__all__ = ["ScratchpadWriteArbiter"]


class ScratchpadWriteArbiter(wiring.Component):
    """Merges loads and results into the write ports of the two scratchpads; results have priority.

    Members:
        loads: writes of the load unit; not ready in a cycle in which a result goes to the left scratchpad that it needs.
        result_*: a column for the left scratchpad; taken at once.
        left, right: write ports of the scratchpads.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "loads": In(stream.Signature(OperandWrite(config))),
                "result_en": In(1),
                "result_row": In(field("result_base")),
                "result_mask": In(config.banks),
                "result_word": In(8 * config.rows),
                "left": Out(OperandWritePort(config.rows, config.banks)),
                "right": Out(OperandWritePort(config.cols, config.banks)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        left, right, load = self.left, self.right, self.loads.payload
        m.d.comb += [
            self.loads.ready.eq(load.right | ~self.result_en),
            right.en.eq(self.loads.valid & (load.right | (load.both & ~self.result_en))),
            right.transpose.eq(load.transpose & ~load.both),
        ]
        for port in (left, right):
            m.d.comb += [
                port.row.eq(load.row),
                port.bank_mask.eq(load.bank_mask),
                port.lane_mask.eq(load.lane_mask),
                port.seq.eq(load.seq),
                port.word.as_value().eq(load.word.as_value()),
            ]
        with m.If(load.both):
            m.d.comb += [
                right.row.eq(load.right_row),
                right.bank_mask.eq(load.right_bank_mask),
                right.lane_mask.eq(load.right_lane_mask),
            ]
        m.d.comb += [left.en.eq(self.result_en | (self.loads.valid & ~load.right)), left.transpose.eq(load.transpose & ~self.result_en)]
        with m.If(self.result_en):
            m.d.comb += [
                left.row.eq(self.result_row),
                left.bank_mask.eq(self.result_mask),
                left.lane_mask.eq(-1),
                left.word.as_value().eq(self.result_word),
            ]
        return m
