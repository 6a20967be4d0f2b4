"""The tile sequencer: how far apart tiles end, so that no column meets what the columns before it have not left yet."""

from __future__ import annotations

from amaranth.hdl import Mux, Signal

from loralith.rtl.sequencer import Sequencer
from loralith.spec.config import PRESETS
from loralith.verif.mutation import Change

from ..harness import Harness
from ..proof import Method, Mutant, Proof

__all__ = ["PROOFS"]


def sequencer(h: Harness) -> None:
    m, dut = h.m, h.block(Sequencer(PRESETS["tiny"]), stop=0)
    plan = dut.plans.payload
    taken = dut.plans.valid & dut.plans.ready
    for value in (plan.m_rows, plan.n_cols, plan.k0, plan.steps0):
        h.assume(value != 0)
    h.assume((plan.chained == (plan.k1 != 0)) & (plan.chained == (plan.steps1 != 0)))
    h.assume(plan.chained | ((plan.segment_wait == 0) & (plan.shift == 0)))
    waited = h.past(dut.plans.valid & ~dut.plans.ready)
    h.assume(~waited | (dut.plans.valid & (plan.as_value() == h.past(plan.as_value()))))

    # The present command, and the one before it, from its last step on.
    adds, writes, records, first = (Signal(name=name) for name in ("adds", "writes", "records", "first"))
    wrote, recorded = Signal(), Signal()
    last = Signal()
    m.d.comb += last.eq(dut.valid & dut.step.last)
    with m.If(last):
        m.d.sync += first.eq(0)
    with m.If(dut.final):
        m.d.sync += [wrote.eq(writes), recorded.eq(records)]
    with m.If(taken):
        m.d.sync += [adds.eq(plan.flags.acc_read), writes.eq(plan.flags.acc_write), records.eq(plan.flags.stat_enable), first.eq(1)]
    # Cycles since the latest tile's last step, and that tile's columns, which are known a cycle after it.
    since = Signal(8, init=255)
    columns, known = Signal(8), h.past(last)
    m.d.sync += since.eq(Mux(last, 1, Mux(since == 255, since, since + 1)))
    with m.If(known):
        m.d.sync += columns.eq(dut.step.cols)
    now = Mux(known, dut.step.cols, columns)
    follows = first & ((adds & wrote) | (records & recorded))
    h.always(
        "apart",
        "a tile ends five cycles after the one before it at the soonest, and not before that one's columns have left",
        ~last | ((since >= Sequencer.least_spacing) & (since >= now)),
    )
    h.always(
        "results",
        "a command that adds sums which the one before it writes, or records a maximum as that one does, ends its first tile three cycles "
        "later than that one's columns take",
        ~(last & follows) | (since >= now + Sequencer.result_spacing),
    )
    h.always(
        "due",
        "the tokens that a second segment waits for are those that are named as still to be taken, until it has them",
        (~dut.segment.valid | (dut.segment.mask == dut.segment_due))
        & (~h.past(dut.segment.valid & dut.segment.ready) | (dut.segment_due == 0)),
    )
    h.reach("held", "a command waits for the one before it, and no longer than it must", last & follows & (since == now + 3) & (now == 4))


MUTANTS = (
    Mutant("apart", Change("TileSpacing", "spacing", "Mux(_a, _b, _c) - 3", "Mux(_a, _b, _c) - 4", "Tiles may end a cycle too close.")),
    Mutant(
        "results",
        Change("TileSpacing", "next_hazard", "_f & (_a | draining)", "_f & _a", "Results of a command that has ended do not count."),
    ),
    Mutant(
        "results",
        Change(
            "TileSpacing", "columns_remaining", "self.cols", "self.cols - 1", "The last column of the command before is not waited for."
        ),
    ),
    Mutant(
        "results",
        Change(
            "TileSpacing", "next_follows", "_a.stat_enable & records", "_a.stat_enable & writes_sums", "Maxima are ordered as sums are."
        ),
    ),
    Mutant(
        "due", Change("StepControl", "segment_due", "_p.segment_wait", "_p.read_signal", "The wrong tokens are named as still to be taken.")
    ),
    Mutant("due", Change("StepControl", "segment_due", "0", "self.segment_due", "Tokens that were taken are still named.")),
)

PROOFS = (Proof("sequencer", "sequencer", sequencer, Method.bounded(24), MUTANTS, search=24),)
