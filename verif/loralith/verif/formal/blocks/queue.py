"""The skid buffer and the FIFO that join stages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from amaranth.hdl import Signal

from loralith.rtl.queue import FIFO, SkidBuffer
from loralith.verif.mutation import Change

from ..harness import Harness
from ..proof import Method, Mutant, Proof

__all__ = ["PROOFS"]

WORD = 4
"""Bits of a word: it is moved, never looked at."""


def fifo(dut_of: Callable[[], FIFO | SkidBuffer], depth: int) -> Callable[[Harness], None]:
    def build(h: Harness) -> None:
        m, dut = h.m, h.block(dut_of())
        put, get = dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready
        waits = h.past(dut.o.valid & ~dut.o.ready & ~dut.clear)
        h.always(
            "held",
            "a word that is offered stays, unchanged, until it is taken or the FIFO is cleared",
            ~waits | (dut.o.valid & (dut.o.payload == h.past(dut.o.payload))),
        )
        level = h.counter("level", depth, up=put, down=get, clear=dut.clear)
        h.always(
            "level",
            "`ready` exactly while fewer than `depth` words are inside, and `valid` exactly while at least one is",
            (dut.i.ready == (level != depth)) & (dut.o.valid == (level != 0)),
        )
        # One word, of the solver's choice, is followed.
        chosen = h.free(1, "chosen")
        inside, ahead, word = Signal(), Signal(range(depth + 1)), Signal(WORD)
        with m.If(dut.clear):
            m.d.sync += inside.eq(0)
        with m.Elif(inside):
            with m.If(get):
                m.d.sync += [ahead.eq(ahead - 1), inside.eq(ahead != 0)]
        with m.Elif(put & chosen):
            m.d.sync += [inside.eq(1), ahead.eq(level - get), word.eq(dut.i.payload)]
        h.always(
            "order", "every word comes out once, unchanged, after those before it", ~(inside & get & (ahead == 0)) | (dut.o.payload == word)
        )
        filled = Signal()
        m.d.sync += filled.eq(filled | (level == depth))
        h.reach("full", "the FIFO fills, and empties again", filled & (level == 0))
        if depth > 1:
            h.reach("through", "a word is put while another one is taken", put & get)

    return build


MUTANTS_SKID = (
    Mutant("held", Change("SkidBuffer", "advance", "_a | _b", "1", "A word moves up whether or not the one ahead of it was taken.")),
    Mutant(
        "level", Change("SkidBuffer", "not_full", "_m | (_r & ~_v)", "_m | _r", "The buffer stays ready after its spare entry was filled.")
    ),
    Mutant("order", Change("SkidBuffer", "o.payload", "Mux(_r, _i, _s)", "_i", "The word in the spare entry is passed over.")),
)
MUTANTS_FIFO = (
    Mutant(
        "held",
        Change("FIFOPointers", "if read", "self.get", "self.not_empty", "The read pointer advances whether or not the word was taken."),
    ),
    Mutant("level", Change("FIFOPointers", "self.not_full", "Mux(_p, _a, _r)", "_r", "The pointers never report a full FIFO.")),
    Mutant(
        "level",
        Change(
            "FIFOPointers", "self.not_empty", "Mux(_p, _a, _r)", "_r", "The pointers never report an empty FIFO once a word was inside."
        ),
    ),
    Mutant("order", Change("FIFOPointers", "self.write", "0", "self.write", "A clear leaves the write pointer where it is.")),
    Mutant("level", Change("FIFOPointers", "following", "_p == _d - 1", "_p == _d - 2", "The pointers wrap an entry early.")),
)

PROOFS = (
    Proof("skid_buffer", "queue", fifo(lambda: SkidBuffer(WORD), 2), Method.reachability(), MUTANTS_SKID, bound=f"words of {WORD} bits"),
    *(
        Proof(
            f"fifo_of_{depth}",
            "queue",
            fifo(partial(FIFO, WORD, depth), depth),
            Method.reachability(),
            MUTANTS_FIFO if depth == 3 else (),
            bound=f"depths 1 to 4, words of {WORD} bits",
        )
        for depth in (1, 2, 3, 4)
    ),
)
