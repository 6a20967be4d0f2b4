"""INT4 from bus words: what a beat is, and when a word is taken."""

from __future__ import annotations

from amaranth.hdl import Cat, Mux, Signal

from loralith.rtl.unpack import Unpack
from loralith.spec.config import Config

from ..harness import Harness
from ..mutation import Mutant
from ..proof import Method, Proof

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
            Mutant("as_it_is", "unpack", "Mux(self.packed, self._extended(half), word)", "self._extended(half)"),
            Mutant("nibbles", "unpack", "part[3].replicate(4)", "part[2].replicate(4)"),
            Mutant("nibbles", "unpack", "Mux(upper, word[middle:], word[:middle])", "Mux(upper, word[:middle], word[middle:])"),
            Mutant("taken", "unpack", "self.o.ready & ~self.stays", "self.o.ready"),
            Mutant("no_wait", "unpack", "self.o.valid.eq(self.i.valid)", "self.o.valid.eq(self.i.valid & ~self.stays)"),
            Mutant("stays", "unpack", "self.packed & ~upper & ~self.row_ends", "self.packed & ~upper"),
        ),
        bound=f"words of {BUS_BYTES} bytes",
    ),
)
