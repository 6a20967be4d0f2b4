"""INT4 from bus words: what a beat is, and when a word is taken."""

from __future__ import annotations

from amaranth.hdl import Cat, Mux, Signal

from loralith.rtl.unpack import Unpack
from loralith.spec.config import Config
from loralith.verif.mutation import Change

from ..harness import Harness
from ..proof import Method, Mutant, Proof

__all__ = ["PROOFS"]

BUS_BYTES = 8


def unpack(h: Harness) -> None:
    config = Config("proof", 4, 4, BUS_BYTES, 1, left_bytes=1024, right_bytes=1024, out_bytes=1024, acc_bytes=512)
    m, dut = h.m, h.block(Unpack(config))
    taken, beat = dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready
    # Of the word at the input its lower half has come.
    second = Signal()
    with m.If(dut.clear):
        m.d.sync += second.eq(0)
    with m.Elif(beat):
        m.d.sync += second.eq(dut.packed & ~second & ~dut.row_ends)
    # `packed` changes between rows only, and a list that is given up clears.
    h.assume(~second | dut.packed)

    word, out = dut.i.payload.data.as_value(), dut.o.payload.data.as_value()
    nibbles = [Mux(second, word[32 + 4 * k : 36 + 4 * k], word[4 * k : 4 * k + 4]) for k in range(BUS_BYTES)]
    h.always("as_it_is", "a word of bytes passes as it is", dut.packed | (out == word))
    h.always(
        "nibbles",
        "byte k of a packed word's first beat is its nibble k as a signed number, of its second one nibble k of the upper half",
        ~dut.packed | Cat(out[8 * k : 8 * k + 8].as_signed() == nibble.as_signed() for k, nibble in enumerate(nibbles)).all(),
    )
    h.always(
        "taken",
        "a word is taken with its last beat: of a packed one the second, or the one that ends a row; without a beat none is",
        taken == (beat & (~dut.packed | second | dut.row_ends)),
    )
    h.always(
        "no_wait",
        "a beat is there while a word is, and its error with it",
        (dut.o.valid == dut.i.valid) & (dut.o.payload.error == dut.i.payload.error),
    )
    h.always("stays", "`stays` says that the word at the input has a half to come", dut.stays == (dut.packed & ~second & ~dut.row_ends))
    h.reach("both", "a second beat follows a first one", beat & second)
    h.reach("dropped", "a row ends with half a word left", beat & dut.packed & ~second & dut.row_ends)


PROOFS = (
    Proof(
        "unpack",
        "unpack",
        unpack,
        Method.reachability(),
        (
            Mutant("as_it_is", Change("Unpack", "o.payload.data", "Mux(_p, _x, _w)", "_x", "Every word is taken as packed.")),
            Mutant(
                "nibbles",
                Change(
                    "Unpack",
                    "_extended",
                    "_p[3].replicate(4)",
                    "_p[2].replicate(4)",
                    "INT4 values are extended with the bit below their sign.",
                ),
            ),
            Mutant(
                "nibbles",
                Change(
                    "Unpack",
                    "half",
                    "Mux(_u, _w[_m:], _w[:_m])",
                    "Mux(_u, _w[:_m], _w[_m:])",
                    "The upper half of a packed word comes first.",
                ),
            ),
            Mutant("taken", Change("Unpack", "i.ready", "_a & ~_b", "_a", "A packed word is taken with its first beat.")),
            Mutant("no_wait", Change("Unpack", "o.valid", "_a", "_a & ~self.stays", "The first beat of a packed word is not offered.")),
            Mutant("stays", Change("Unpack", "stays", "_a & ~self.row_ends", "_a", "A half that is past the end of its row is announced.")),
        ),
        bound=f"words of {BUS_BYTES} bytes",
    ),
)
