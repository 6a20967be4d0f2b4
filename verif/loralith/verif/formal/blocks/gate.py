"""No access outside the DRAM window: the gate before the bus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from amaranth.hdl import Cat, Const, Signal, Value
from amaranth.lib import data

from loralith.rtl.bursts import Burst
from loralith.rtl.gate import BurstGate
from loralith.spec.config import PRESETS
from loralith.verif.mutation import Change

from ..harness import Harness
from ..line import Line
from ..proof import Method, Mutant, Proof

__all__ = ["PROOFS", "in_one_page", "in_window"]


BURST = data.StructLayout({"burst": Burst, "source": 1})
"""A burst and who asks."""


def _last_byte(address: Value, beats: Value, width: int) -> Value:
    """Of the last bus word, in whole numbers: nothing wraps."""
    shift = (width - 1).bit_length()
    return Cat(Const(0, shift), address[shift:] + beats) - 1


def in_window(address: Value, beats: Value, width: int, base: Value, limit: Value) -> Value:
    """The first byte is not below ``base``, and the last bus word begins below ``limit``. Parameter: width, bytes of a word."""
    return (address >= base) & (_last_byte(address, beats, width) - (width - 1) < limit)


def in_one_page(address: Value, beats: Value, width: int) -> Value:
    """At least one word, and all in the first one's 4 KiB page."""
    return (beats != 0) & (_last_byte(address, beats, width) >> 12 == address >> 12)


def gate(width: int) -> Callable[[Harness], None]:
    def build(h: Harness) -> None:
        m = h.m
        dut = h.block(
            BurstGate(
                replace(PRESETS["tiny"], bus_bytes=width, rows=16, cols=16, left_bytes=1 << 16, right_bytes=1 << 16, out_bytes=1 << 16)
            )
        )
        took, passed, window = dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready, Cat(dut.window_base, dut.window_limit)
        out = dut.o.payload

        def good(burst) -> Value:
            inside = in_window(burst.address, burst.beats, width, dut.window_base, dut.window_limit)
            return inside & in_one_page(burst.address, burst.beats, width)

        h.always(
            "window",
            "a burst that passes lies in the window, also where sums of 64-bit addresses wrap",
            ~dut.o.valid | in_window(out.address, out.beats, width, dut.window_base, dut.window_limit),
        )
        h.always(
            "boundary",
            "a burst that passes has at least one word and crosses no 4 KiB boundary",
            ~dut.o.valid | in_one_page(out.address, out.beats, width),
        )

        # The burst that was taken and is not judged, and those that were found good and are not gone.
        here, burst, source, moves = Signal(), Signal(Burst), Signal(), Signal()
        judged = Line(m, "judged", 2, BURST.size, put=moves, word=Cat(burst, source), get=passed)
        some = judged.level != 0
        m.d.comb += moves.eq(here & good(burst) & ~dut.refused & (judged.level != 2))
        with m.If(dut.clear | dut.stop):
            m.d.sync += [here.eq(0), judged.level.eq(0)]
        with m.Else():
            m.d.sync += here.eq(took | (here & ~moves))
            with m.If(took):
                m.d.sync += [burst.eq(dut.i.payload), source.eq(dut.i_source)]
        h.assume(~(here | some) | (h.past(window) == window))
        h.always(
            "same",
            "what passes is what was taken, once, with its source",
            ~dut.o.valid | (some & (Cat(out, dut.o_source) == judged.first)),
        )
        h.always(
            "passes",
            "a burst that fits waits for nobody but the one before it, `stop` and a refusal",
            ~(some & ~dut.stop & ~dut.refused) | dut.o.valid,
        )
        h.always(
            "held",
            "a burst that is offered stays, unchanged, while the window does, nothing stops it and none is refused",
            ~h.past(dut.o.valid & ~dut.o.ready & ~dut.clear)
            | dut.stop
            | dut.refused
            | (h.past(window) != window)
            | (dut.o.valid & (h.past(out.as_value()) == out.as_value())),
        )
        h.always(
            "refusal",
            "the first burst that does not fit is refused, it alone, by its address and source",
            (dut.refused & ~h.past(dut.refused)) == h.past(here & ~good(burst) & ~dut.stop & ~dut.clear & ~dut.refused),
        )
        h.always(
            "report",
            "a refusal lasts until `clear` and keeps address and source",
            ~h.past(dut.refused & ~dut.clear)
            | (dut.refused & (dut.refused_address == h.past(dut.refused_address)) & (dut.refused_source == h.past(dut.refused_source))),
        )
        h.always(
            "blame",
            "a refusal is reported with the address and source of the burst that was taken",
            ~(dut.refused & ~h.past(dut.refused)) | (dut.refused_address == h.past(burst.address)) & (dut.refused_source == h.past(source)),
        )
        h.always(
            "shut",
            "after a refusal, and while `stop`, nothing is taken and nothing passes",
            ~(dut.refused | dut.stop) | (~dut.o.valid & ~dut.i.ready),
        )
        h.reach(
            "to_the_limit",
            "the window's last word is reached",
            passed & (_last_byte(out.address, out.beats, width) + 1 == dut.window_limit),
        )
        h.reach("wraps", "a burst at the top of the address space is refused", dut.refused & dut.refused_address.all())

        held, word = h.inside(dut, "valid"), h.inside(dut, "burst")
        h.invariant(held == (here | (dut.refused & held)))
        h.invariant(~here | ((word == burst.as_value()) & (h.inside(dut, "source") == source)))
        h.invariant(~here | (h.inside(dut, "legal_length") == in_one_page(burst.address, burst.beats, width)))
        h.invariant(~here | (h.inside(dut, "below_base.less") == (burst.address < dut.window_base)))
        h.invariant(~here | (h.inside(dut, "fits") == good(burst)))
        h.invariant(judged.level <= 2)
        h.invariant(h.inside(dut, "accepted.o__valid") == some)
        h.invariant(h.inside(dut, "accepted.i__ready") == (judged.level != 2))
        for i, entry in enumerate(("o__payload", "spare")):
            here_too = judged.level > i
            h.invariant(
                ~here_too | (good(data.View(BURST, judged.words[i]).burst) & (h.inside(dut, f"accepted.{entry}") == judged.words[i]))
            )

    return build


MUTANTS = (
    Mutant(
        "window",
        Change("BurstGate", "below_base.a", "_a", "_a + 8", "A burst may begin 8 bytes below the window."),
    ),
    Mutant(
        "window",
        Change(
            "BurstGate",
            "below_limit.a",
            "_a",
            "_a - 1",
            "A burst whose last word begins at the window's limit passes.",
        ),
    ),
    Mutant(
        "window",
        Change("LessThan", "less", "_a | (_e & _l)", "_a | _l", "An address is below a bound where its lower half is."),
    ),
    Mutant("boundary", Change("BurstGate", "legal_length", "~_a.any() & _b", "_b", "A burst may cross a 4 KiB boundary.")),
    Mutant(
        "boundary",
        Change(
            "BurstGate",
            "last_word",
            "Signal(10)",
            "Signal(13 - shift)",
            "The word number in which the boundary shows is too narrow for the longest burst on a wide bus.",
        ),
    ),  # as it was until this proof
    Mutant("boundary", Change("BurstGate", "legal_length", "_a & (_b != 0)", "_a", "A burst of no words passes.")),
    Mutant(
        "same",
        Change(
            "BurstGate",
            "burst",
            "self.i.payload",
            "Cat(self.i.payload.address, self.i.payload.beats, burst.last)",
            "A burst loses its mark as the last of its transfer.",
        ),
    ),
    Mutant(
        "same", Change("BurstGate", "valid", "self.i.valid", "valid | self.i.valid", "A burst that was passed on stays and passes again.")
    ),
    Mutant(
        "refusal",
        Change("BurstGate", "below_limit.a", "_a", "_a + 1", "A burst of the window's last word is refused."),
    ),
    Mutant(
        "passes",
        Change(
            "BurstGate",
            "accepted.i.valid",
            "_a",
            "_a & ~accepted.o.valid",
            "A burst waits until the one before it has left the skid buffer.",
        ),
    ),
    Mutant("held", Change("BurstGate", "accepted.o.ready", "_a & _b", "1", "A burst leaves the skid buffer whether or not it was taken.")),
    Mutant("refusal", Change("BurstGate", "if refused", "_a & ~self.stop", "_a", "A burst is refused while everything is stopped.")),
    Mutant(
        "report",
        Change("BurstGate", "self.i.ready", "_a & ~self.refused", "_a", "Bursts are taken after a refusal, and replace its address."),
    ),
    Mutant("report", Change("BurstGate", "refused", "1", "~self.refused", "A refusal is reported in every other cycle.")),
    Mutant("blame", Change("BurstGate", "refused_source", "_a", "self.i_source", "A refusal names whoever asks now.")),
    Mutant("shut", Change("BurstGate", "self.o.valid", "_a & ~self.stop", "_a", "Bursts pass while everything is stopped.")),
)

PROOFS = tuple(
    Proof(f"gate_{width}", "gate", gate(width), Method.induction(4), MUTANTS if width == 64 else (), bound="words of 8 and 64 bytes")
    for width in (8, 64)
)
