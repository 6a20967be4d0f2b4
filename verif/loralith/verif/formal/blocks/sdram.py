"""The memory controller's parts that keep the chip's times: together, that no command comes too early, and no refresh too late.

What one part assumes of the others is what their proofs claim. Where the claims meet is `soc.sdram.scheduler`, which only wires the parts.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value

from loralith.soc.sdram.bank import Bank
from loralith.soc.sdram.columns import ColumnIssuer
from loralith.soc.sdram.interfaces import Operation
from loralith.soc.sdram.maintenance import Maintenance
from loralith.soc.sdram.opener import RowOpener
from loralith.spec.sdram import BURST, MOST_POSTPONED, SdramChip, SdramTiming
from loralith.verif.mutation import Change

from ..harness import Harness
from ..proof import Method, Mutant, Proof

__all__ = ["PROOFS"]

CHIP = SdramChip("small", banks=2, row_bits=2, column_bits=3)
TIMING = SdramTiming(100, cas=3, rc=7, ras=5, rp=2, rcd=2, wr=2, rrd=2, rfc=4, mrd=2, interval=40, power_up=3)
DRAIN = 20
"""Cycles in which the controller drains once it is held: the real one takes at most 450 of 779."""
SHORT, SHORT_DRAIN = replace(TIMING, interval=14, rfc=2), 4
REFRESH_DEPTH = 160
"""Cycles: power-up, nine intervals, and the refreshes after them."""
CHUNKS = 2
BOUND = "times of 100 MHz"


def since(m: Module, name: str, event, limit: int) -> Signal:
    """Cycles since the last `event`, at most `limit`, which it also is where there was none."""
    count = Signal(range(limit + 1), init=limit, name=f"since_{name}")
    with m.If(event):
        m.d.sync += count.eq(1)
    with m.Elif(count != limit):
        m.d.sync += count.eq(count + 1)
    return count


def bank(h: Harness) -> None:
    m, dut, t = h.m, h.block(Bank(TIMING, chunks=CHUNKS)), TIMING
    column = dut.read | dut.write
    is_open = Signal()
    with m.If(dut.activate):
        m.d.sync += is_open.eq(1)
    with m.Elif(dut.precharge):
        m.d.sync += is_open.eq(0)
    pending = h.counter("pending", CHUNKS, up=dut.push, down=dut.done)
    active, closed = since(m, "activate", dut.activate, t.rc), since(m, "precharge", dut.precharge, t.rp)
    read, write = since(m, "read", dut.read, BURST), since(m, "write", dut.write, BURST - 1 + t.wr)
    h.assume((dut.activate + dut.precharge + dut.read + dut.write) <= 1)
    h.assume(~dut.activate | dut.can_activate)
    h.assume(~dut.precharge | dut.drained)
    h.assume(~column | (dut.can_column & (pending != 0) & (since(m, "column", column, BURST) == BURST)))
    h.assume(~dut.done | column)
    h.assume(~dut.push | (pending != CHUNKS))
    settled = (active >= t.ras) & (read == BURST) & (write == BURST - 1 + t.wr) & (pending == 0)
    h.always(
        "activate",
        "ACTIVE is allowed exactly when the bank is closed and `rp` cycles have passed since PRECHARGE",
        dut.can_activate == (~is_open & (closed == t.rp)),
    )
    h.always("activate_again", "ACTIVE is not allowed within `rc` cycles of the last one", ~dut.can_activate | (active == t.rc))
    h.always(
        "column",
        "READ and WRITE are allowed exactly when the bank is open and `rcd` cycles have passed since ACTIVE",
        dut.can_column == (is_open & (active >= t.rcd)),
    )
    h.always(
        "precharge",
        "PRECHARGE is allowed exactly when the bank is open, no chunk is on its way, and `ras`, the words read and `wr` are over",
        dut.can_precharge == (is_open & settled),
    )
    h.always("drained", "a bank is drained exactly when none of these is left", ~dut.drained | settled | ~is_open)
    written = Signal()
    m.d.sync += written.eq(written | dut.write)
    h.reach("written", "a bank that was written is closed and opened again", dut.activate & written)


def columns(h: Harness) -> None:
    m, dut, t = h.m, h.block(ColumnIssuer(CHIP, TIMING, 1)), TIMING
    issue, write = dut.column.valid, dut.column.write
    any_, read = since(m, "column", issue, BURST), since(m, "read", issue & ~write, BURST + t.cas + 1)
    h.always("slot", "a column command does not come while the words of the last one pass", ~issue | (any_ == BURST))
    h.always("turn", "between the last word read and the first one written a cycle is free", ~(issue & write) | (read == BURST + t.cas + 1))
    h.always("allowed", "a column command comes only when its bank allows it", ~issue | Array(dut.can_column)[dut.command.bank])
    take = dut.i.valid & dut.i.ready
    left = Signal(5)
    with m.If(take):
        m.d.sync += left.eq(dut.i.payload.beats + 1)
    with m.Elif(issue):
        m.d.sync += left.eq(left - 1)
    h.always("count", "a chunk has as many column commands as beats, and `done` comes with the last one", ~issue | (left != 0))
    h.always("done", "`done` comes with a chunk's last column command", dut.done == (issue & (left == 1)))
    h.reach(
        "turnaround", "a write follows a read", issue & write & (read == BURST + t.cas + 1) & ~h.past(dut.column.write) & (any_ == BURST)
    )


def opener(h: Harness) -> None:
    m, dut, t = h.m, h.block(RowOpener(CHIP, TIMING, 1)), TIMING
    request, chunk = dut.request, dut.o.payload
    sent, take, push = request.valid & request.ready, dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready
    activates = request.payload.activate
    is_open = [Signal(name=f"open{i}") for i in range(CHIP.banks)]
    rows = [Signal(CHIP.row_bits, name=f"open_row{i}") for i in range(CHIP.banks)]
    close = h.free(1, "close")  # PRECHARGE of all banks, by the refresh
    h.assume(~close | (dut.hold & dut.idle))
    for i in range(CHIP.banks):
        with m.If(close):
            m.d.sync += is_open[i].eq(0)
        with m.Elif(sent & (request.payload.bank == i)):
            m.d.sync += [is_open[i].eq(activates), rows[i].eq(request.payload.row)]
    h.assume(dut.open == Cat(is_open))
    h.assume((dut.can_activate & dut.open) == 0)
    h.assume((dut.can_precharge & ~dut.open) == 0)
    apart = since(m, "activate", sent & activates, t.rrd)
    allowed = Array(dut.can_activate)[request.payload.bank] & (apart == t.rrd)
    h.always(
        "activate",
        "ACTIVE is asked for only when the bank allows it and `rrd` cycles after the last one",
        ~(request.valid & activates) | allowed,
    )
    h.always(
        "precharge",
        "PRECHARGE is asked for only when the bank allows it",
        ~(request.valid & ~activates) | Array(dut.can_precharge)[request.payload.bank],
    )
    h.always("hold", "no chunk is taken while it is held", ~(take & dut.hold))
    h.always(
        "row",
        "a chunk is passed on while its row is open, or its bank is closed, and then that row is asked for next",
        ~dut.o.valid | ~Array(is_open)[chunk.bank] | (Array(rows)[chunk.bank] == chunk.row),
    )
    owed, word = Signal(), Signal(len(Value.cast(dut.i.payload)))
    with m.If(take):
        m.d.sync += [owed.eq(1), word.eq(dut.i.payload)]
    with m.Elif(push):
        m.d.sync += owed.eq(0)
    h.always(
        "once",
        "every chunk is passed on once, unchanged, before the next one is taken",
        Mux(dut.o.valid, owed & (Value.cast(chunk) == word), ~(take & owed)),
    )
    h.reach("conflict", "a row is closed and another one opened", sent & activates & h.past(h.past(sent & ~activates)))


def maintenance(h: Harness, t: SdramTiming = TIMING, drain: int = DRAIN) -> None:
    m, dut = h.m, h.block(Maintenance(CHIP, t))

    def sends(operation: Operation) -> Value:
        return dut.valid & (dut.command.operation == operation)

    refresh, mode = sends(Operation.REFRESH), sends(Operation.MODE)
    closed, refreshed, set_ = since(m, "precharge", dut.precharge, t.rp), since(m, "refresh", refresh, t.rfc), since(m, "mode", mode, t.mrd)
    # The parts that are held drain in time, and stay so.
    noisy = Signal(range(drain + 2))
    m.d.sync += noisy.eq(Mux(dut.hold & ~dut.drained, noisy + 1, 0))
    h.assume(noisy < drain)
    held = h.past(dut.hold & dut.drained, init=0)
    h.assume(~(held & dut.hold) | dut.drained)
    h.assume(~dut.idle | dut.drained)
    all_closed = Signal()
    m.d.sync += all_closed.eq(dut.hold & (all_closed | dut.precharge))
    h.always("held", "a command comes only while everything else is held and drained", ~dut.valid | (dut.hold & dut.drained))
    h.always(
        "closed",
        "REFRESH and MODE come only when all banks are closed, and `rp` cycles after that",
        ~(refresh | mode) | (all_closed & (closed == t.rp)),
    )
    h.always(
        "apart", "no command within `rfc` cycles of a REFRESH, nor `mrd` of MODE", ~dut.valid | ((refreshed == t.rfc) & (set_ == t.mrd))
    )
    h.always("release", "others go on only after these", dut.hold | ((refreshed == t.rfc) & (set_ == t.mrd)))
    count = Signal(4)
    with m.If(refresh & (count != 8)):
        m.d.sync += count.eq(count + 1)
    h.always(
        "start", "the chip is started with eight REFRESH before MODE, and used after it", (~mode | (count == 8)) & (dut.hold | dut.started)
    )
    timer, owed = Signal(range(t.interval)), Signal(5)
    elapsed = dut.started & (timer == t.interval - 1)
    with m.If(dut.started):
        m.d.sync += timer.eq(Mux(elapsed, 0, timer + 1))
        m.d.sync += owed.eq(Mux(owed == 0, elapsed, owed + elapsed - refresh))
    h.always("late", f"no more than {MOST_POSTPONED} refreshes are due at any time", owed <= MOST_POSTPONED)
    h.reach("refreshed", "a refresh comes while it is in use", refresh & dut.started)


PROOFS = (
    Proof(
        "sdram_bank",
        "sdram.bank",
        bank,
        Method.reachability(),
        (
            Mutant("activate", Change("Bank", "wait", "timing.rp - 1", "timing.rp - 2", "A bank counts one cycle less after PRECHARGE.")),
            Mutant("activate_again", Change("Bank", "lock", "timing.ras - 1", "0", "A bank may be closed right after ACTIVE.")),
            Mutant("column", Change("Bank", "wait", "timing.rcd - 1", "timing.rcd - 2", "A bank counts one cycle less after ACTIVE.")),
            Mutant(
                "precharge", Change("Bank", "lock", "BURST - 1 + timing.wr - 1", "BURST - 1", "The last word's write time is not kept.")
            ),
            Mutant("drained", Change("Bank", "self.drained", "_a & _b", "_b", "A bank counts as drained while its lock runs.")),
        ),
        search=20,
        bound=BOUND,
    ),
    Proof(
        "sdram_columns",
        "sdram.columns",
        columns,
        Method.reachability(),
        (
            Mutant("slot", Change("ColumnIssuer", "slot", "BURST - 1", "BURST - 2", "A column command comes a cycle early.")),
            Mutant(
                "turn",
                Change("ColumnIssuer", "turnaround", "BURST + self._timing.cas", "BURST + self._timing.cas - 1", "No idle cycle.", nth=1),
            ),
            Mutant(
                "allowed",
                Change("ColumnIssuer", "issue", "Array(self.can_column)[chunk.bank]", "self.can_column.any()", "Any bank will do."),
            ),
            Mutant("count", Change("ColumnIssuer", "ends", "chunk.beats == 0", "0", "A chunk never ends.")),
            Mutant("done", Change("ColumnIssuer", "self.done", "_a & _b", "_a", "Each column command ends the chunk for its bank.")),
        ),
        search=20,
        bound="two banks, times of 100 MHz",
    ),
    Proof(
        "sdram_opener",
        "sdram.opener",
        opener,
        Method.reachability(),
        (
            Mutant("activate", Change("RowOpener", "request.valid", "can_activate[bank]", "1", "ACTIVE does not wait for the bank.")),
            Mutant("precharge", Change("RowOpener", "request.valid", "can_precharge[bank]", "1", "PRECHARGE does not wait for the bank.")),
            Mutant("hold", Change("RowOpener", "self.i.ready", "~self.hold", "1", "Chunks are taken while it is held.")),
            Mutant("row", Change("RowOpener", "rows", "chunk.row", "row", "The opened row is not remembered.")),
            Mutant("once", Change("RowOpener", "self.o.valid", "~pushed", "1", "A chunk that waits for ACTIVE is passed on again.")),
        ),
        search=20,
        bound="two banks of four rows, times of 100 MHz",
    ),
    Proof(
        "sdram_maintenance",
        "sdram.maintenance",
        maintenance,
        Method.reachability(),
        (
            Mutant(
                "held",
                Change("Maintenance", "if next", "wait_done & self.drained", "wait_done", "It does not wait for what is on its way."),
            ),
            Mutant("closed", Change("Maintenance", "wait", "timing.rp - 1", "0", "REFRESH follows PRECHARGE at once.")),
            Mutant("apart", Change("Maintenance", "wait", "timing.rfc - 1", "0", "REFRESH follows REFRESH at once.")),
            Mutant("release", Change("Maintenance", "if hold", "wait_done", "1", "The last REFRESH is not waited for.")),
            Mutant("start", Change("Maintenance", "if next", "~self.started", "0", "The chip gets no mode.")),
        ),
        only=("held", "closed", "apart", "release", "start", "refreshed"),
        search=60,
        bound=f"an interval of {TIMING.interval} cycles, drained within {DRAIN}",
    ),
    Proof(
        "sdram_refresh",
        "sdram.maintenance",
        partial(maintenance, t=SHORT, drain=SHORT_DRAIN),
        Method.bounded(REFRESH_DEPTH),
        (
            Mutant(
                "late", Change("Maintenance", "if hold", "self.refreshes_due >= MOST_POSTPONED - 1", "0", "Only an idle chip is refreshed.")
            ),
        ),
        only=("late",),
        search=REFRESH_DEPTH,
        slow=True,
        bound=f"an interval of {SHORT.interval} cycles, drained within {SHORT_DRAIN}",
    ),
)
