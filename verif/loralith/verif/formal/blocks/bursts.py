"""The burst splitter: no burst longer than AXI allows or over a 4 KiB boundary, and together exactly the transfer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from amaranth.hdl import Mux, Signal, Value

from loralith.rtl.bursts import BEAT_BITS, BurstSplitter, Transfer
from loralith.spec.config import PRESETS
from loralith.verif.mutation import Change

from ..harness import Harness
from ..proof import Method, Mutant, Proof

__all__ = ["PROOFS"]

BOUNDARY = 4096


def _splitter(h: Harness, width: int, longest: int) -> BurstSplitter:
    dut = h.block(BurstSplitter(replace(PRESETS["large"], bus_bytes=width, max_fold=1, max_burst=longest)))
    transfer, unit = dut.i.payload, (width - 1).bit_length()
    h.assume(~dut.i.valid | ((transfer.rows != 0) & (transfer.beats != 0)))
    h.assume(~dut.i.valid | ((transfer.address[:unit] == 0) & (transfer.stride[:unit] == 0)))
    return dut


def shape(width: int, longest: int) -> Callable[[Harness], None]:
    """Every burst by itself."""

    def build(h: Harness) -> None:
        dut = _splitter(h, width, longest)
        out = dut.o.payload
        in_page = out.address[:12]
        h.always(
            "length",
            "a burst has at least one beat, and at most `max_burst`, so at most 256",
            ~dut.o.valid | ((out.beats >= 1) & (out.beats <= longest)),
        )
        h.always("boundary", "no burst crosses a 4 KiB boundary", ~dut.o.valid | (in_page + out.beats * width <= BOUNDARY))
        h.always(
            "held",
            "a burst that is offered stays, unchanged, until it is taken or all is forgotten",
            ~h.past(dut.o.valid & ~dut.o.ready & ~dut.clear) | (dut.o.valid & (out.as_value() == h.past(out.as_value()))),
        )
        h.reach("longest", "a burst of the greatest length goes out", dut.o.valid & (out.beats == min(longest, BOUNDARY // width)))
        h.reach(
            "to_the_boundary",
            "a burst ends at a boundary and the row goes on",
            h.past(dut.o.valid & dut.o.ready & (in_page + out.beats * width == BOUNDARY)) & dut.busy,
        )

    return build


def cut(width: int, longest: int) -> Callable[[Harness], None]:
    """The bursts of one transfer, of the solver's choice."""

    def build(h: Harness) -> None:
        m, dut = h.m, _splitter(h, width, longest)
        out, unit = dut.o.payload, (width - 1).bit_length()
        took, passed = dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready
        ended = passed & out.last
        chosen = h.free(1, "chosen")
        inside = h.counter("inside", 3, up=took, down=ended, clear=dut.clear)
        followed, ahead, transfer = Signal(), Signal(range(4)), Signal(Transfer)
        row, address, rows, left = Signal(64), Signal(64), Signal(16), Signal(BEAT_BITS)
        turn = followed & (ahead == 0)

        to_boundary = Value.cast(BOUNDARY // width) - address[unit:12]
        cap = Mux(to_boundary < longest, to_boundary, longest)
        beats = Mux(left < cap, left, cap)
        with m.If(dut.clear):
            m.d.sync += followed.eq(0)
        with m.Elif(took & chosen & ~followed):
            m.d.sync += [followed.eq(1), ahead.eq(inside - ended), transfer.eq(dut.i.payload)]
            m.d.sync += [
                row.eq(dut.i.payload.address),
                address.eq(dut.i.payload.address),
                rows.eq(dut.i.payload.rows),
                left.eq(dut.i.payload.beats),
            ]
        with m.Elif(followed & (ahead != 0)):
            m.d.sync += ahead.eq(ahead - ended)
        with m.Elif(turn & passed):
            m.d.sync += [address.eq(address + (beats << unit)), left.eq(left - beats)]
            with m.If(beats == left):
                m.d.sync += [row.eq(row + transfer.stride), address.eq(row + transfer.stride), rows.eq(rows - 1), left.eq(transfer.beats)]
                m.d.sync += followed.eq(rows != 1)
        h.always(
            "start", "a burst begins where the one before it ended, or where its row does", ~(turn & dut.o.valid) | (out.address == address)
        )
        h.always(
            "whole",
            "a burst is as long as row, boundary and limit let it be, so that together they are the transfer, each word once",
            ~(turn & dut.o.valid) | (out.beats == beats),
        )
        h.always(
            "last",
            "`last` marks the last burst of the last row, and no other",
            ~(turn & dut.o.valid) | (out.last == ((rows == 1) & (beats == left))),
        )
        h.always("busy", "`busy` from a transfer until its last burst is taken", dut.busy == (inside != 0))
        h.reach("rows", "a transfer of two rows of two bursts ends", turn & ended & (transfer.rows == 2) & (beats < transfer.beats))

    return build


MUTANTS_SHAPE = (
    Mutant("length", Change("BurstSplitter", "short", "_a <= _b", "1", "Rows of any length count as shorter than a burst.")),
    Mutant("length", Change("BurstSplitter", "remaining", "_l - _c", "_l - _c - 1", "After each burst a beat of the row is lost.")),
    Mutant(
        "boundary",
        Change("BurstSplitter", "single_burst", "_a & (_b <= _c)", "_a", "A short row is one burst although it crosses a 4 KiB boundary."),
    ),
    Mutant(
        "boundary", Change("BurstSplitter", "cap", "Mux(_a < _b, _a, _b)", "_b", "A long row's burst does not end at a 4 KiB boundary.")
    ),
    Mutant("held", Change("BurstSplitter", "advance", "_a | _b", "1", "A burst is replaced before it was taken.")),
)
MUTANTS_CUT = (
    Mutant("start", Change("BurstSplitter", "row.address", "_a + _b", "_a + _b[:31]", "The highest bit of the stride is lost.")),
    Mutant(
        "start", Change("BurstSplitter", "address", "_a + Cat(Const(0, _s), _c)", "_a", "Every burst of a row begins where the row does.")
    ),
    Mutant("whole", Change("BurstSplitter", "o.payload", "Mux(_e, _l, _c)", "_c", "The last burst of a row is as long as the others.")),
    Mutant("last", Change("BurstSplitter", "o.payload", "_a & _b", "_a", "Every burst of the last row is marked as the last one.")),
    Mutant("last", Change("BurstSplitter", "final", "_a == 1", "1", "Every row counts as the last one.")),
    Mutant("busy", Change("BurstSplitter", "busy", "_a | self.o.valid", "_a", "The splitter is idle while its last burst waits.")),
)

SIZES = ((8, 256), (16, 3), (64, 64))
PROOFS = (
    *(
        Proof(
            f"bursts_shape_{width}",
            "bursts",
            shape(width, longest),
            Method.reachability(),
            MUTANTS_SHAPE if width == 8 else (),
            bound="words of 8, 16, 64 bytes; longest 256, 3, 64",
        )
        for width, longest in SIZES
    ),
    *(
        Proof(
            f"bursts_cut_{width}",
            "bursts",
            cut(width, longest),
            Method.bounded(6),
            MUTANTS_CUT if width == 8 else (),
            search=12,
            bound="words of 8, 16, 64 bytes; longest 256, 3, 64",
        )
        for width, longest in SIZES
    ),
)
