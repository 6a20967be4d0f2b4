"""The queue that joins stages."""

from __future__ import annotations

from collections.abc import Callable

from amaranth.hdl import Signal

from loralith.rtl.queue import Queue
from loralith.verif.mutation import Change

from ..harness import Harness
from ..proof import Method, Mutant, Proof

__all__ = ["PROOFS"]

WORD = 4
"""Bits of a word: it is moved, never looked at."""


def queue(depth: int) -> Callable[[Harness], None]:
    def build(h: Harness) -> None:
        m, dut = h.m, h.block(Queue(WORD, depth))
        put, get = dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready
        waits = h.past(dut.o.valid & ~dut.o.ready & ~dut.clear)
        h.always(
            "held",
            "a word that is offered stays, unchanged, until it is taken or the queue is cleared",
            ~waits | (dut.o.valid & (dut.o.payload == h.past(dut.o.payload))),
        )
        level = h.counter("level", depth, up=put, down=get, clear=dut.clear)
        h.always(
            "level",
            "there is room exactly while fewer than `depth` words are inside, and a word exactly while one is",
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
        h.reach("full", "the queue fills, and empties again", filled & (level == 0))
        if depth > 1:
            h.reach("through", "a word is put while another one is taken", put & get)

    return build


REGISTERS = (
    Mutant("held", Change("Queue", "moves", "_a | _b", "1", "A word moves up whether or not the one ahead of it was taken.")),
    Mutant("level", Change("Queue", "room", "_m | (_r & ~_v)", "_m | _r", "The buffer stays ready after its spare entry was filled.")),
    Mutant("order", Change("Queue", "o.payload", "Mux(_r, _i, _s)", "_i", "The word in the spare entry is passed over.")),
)
MEMORY = (
    Mutant("held", Change("Ring", "if first", "self.get", "self.some", "The read pointer advances whether or not the word was taken.")),
    Mutant("level", Change("Ring", "self.room", "Mux(_p, _a, _r)", "_r", "The pointers never report a full FIFO.")),
    Mutant(
        "level", Change("Ring", "self.some", "Mux(_p, _a, _r)", "_r", "The pointers never report an empty FIFO once a word was inside.")
    ),
    Mutant("order", Change("Ring", "self.last", "0", "self.last", "A clear leaves the write pointer where it is.")),
    Mutant("level", Change("Ring", "after", "_p == _d - 1", "_p == _d - 2", "The pointers wrap an entry early.")),
)

PROOFS = tuple(
    Proof(
        f"queue_of_{depth}",
        "queue",
        queue(depth),
        Method.reachability(),
        {2: REGISTERS, 3: MEMORY}.get(depth, ()),
        bound=f"depths 1 to 4, words of {WORD} bits",
    )
    for depth in (1, 2, 3, 4)
)
