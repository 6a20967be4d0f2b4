"""What the sequencer derives from the next command before that command's first step."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.config import Config

from .tile import COUNT_BITS, FOLD_BITS, Plan, field

__all__ = ["PlanFacts", "PlanLookahead"]

PlanFacts = data.StructLayout(
    {
        "steps": data.ArrayLayout(field("k0"), 2),
        "one_step": data.ArrayLayout(1, 2),
        "last_depth": data.ArrayLayout(FOLD_BITS, 2),
        "one_row_block": 1,
        "one_col_block": 1,
        "tile_cols": COUNT_BITS,
        "index_step": field("index_base"),
    }
)
"""Derived from a plan.

Members:
    steps, one_step: of each segment, the steps of the array, and whether that is one.
    last_depth: of each segment, the k of its last step, 1..f.
    one_row_block, one_col_block: R rows, C / f columns are enough for the result.
    tile_cols: C / f.
    index_step: from the hash index of a tile's first column to the next tile's.
"""


class PlanLookahead(wiring.Component):
    """Registers what the first decisions about a command need, so that these start from registers.

    Members:
        valid, plan: the next command.
        accept: its first step is decided in this cycle; only while ``offer``.
        stop: no command is offered from the next cycle on.
        offer: ``facts`` are those of ``plan``, which has not been accepted.
        load: ``plan`` is to be taken: it was accepted in the cycle before.
        facts: of ``plan`` as it was a cycle ago.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "valid": In(1),
                "plan": In(Plan),
                "accept": In(1),
                "stop": In(1),
                "offer": Out(1),
                "load": Out(1),
                "facts": Out(PlanFacts),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, plan, facts = self.config, self.plan, self.facts
        fold_log2 = plan.fold_log2[: ceil_log2(config.max_fold).bit_length()]
        fold_mask = Signal(FOLD_BITS - 1)
        known = Signal()
        m.d.comb += [fold_mask.eq((1 << fold_log2) - 1), self.offer.eq(known & ~self.load)]
        m.d.sync += [
            known.eq(self.valid & ~self.load & ~self.stop),
            self.load.eq(self.accept),
            facts.one_row_block.eq(plan.m_rows <= config.rows),
            facts.one_col_block.eq(plan.n_cols <= config.cols >> fold_log2),
            facts.tile_cols.eq(config.cols >> fold_log2),
            facts.index_step.eq((plan.flags.index_col_stride << ceil_log2(config.cols)) >> fold_log2),
        ]
        for segment, (k, steps) in enumerate(((plan.k0, plan.steps0), (plan.k1, plan.steps1))):
            m.d.sync += [
                facts.steps[segment].eq(steps),
                facts.one_step[segment].eq(steps == 1),
                facts.last_depth[segment].eq(((k - 1) & fold_mask) + 1),
            ]
        return m
