"""The queue that joins stages."""

from __future__ import annotations

from collections.abc import Callable

from amaranth.hdl import Signal

from loralith.rtl.queue import Queue

from ..harness import Harness
from ..mutation import Mutant
from ..proof import Method, Proof

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
    Mutant("held", "queue", "moves.eq(~some | self.o.ready)", "moves.eq(1)"),
    Mutant("level", "queue", "room.eq(moves | (room & ~self.i.valid))", "room.eq(moves | room)"),
    Mutant("order", "queue", "Mux(room, self.i.payload, spare)", "self.i.payload"),
)
MEMORY = (
    Mutant("held", "queue", "with m.If(self.get):", "with m.If(self.some):"),
    Mutant("level", "queue", "Mux(self.put, after(self.last) != self.first, self.room)", "self.room"),
    Mutant("level", "queue", "Mux(self.get, after(self.first) != self.last, self.some)", "self.some"),
    Mutant("order", "queue", "[self.first.eq(0), self.last.eq(0), ", "[self.first.eq(0), "),
    Mutant("level", "queue", "Mux(pointer == depth - 1, 0, pointer + 1)", "Mux(pointer == depth - 2, 0, pointer + 1)"),
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
