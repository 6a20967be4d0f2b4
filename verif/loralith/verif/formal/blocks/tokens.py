"""The semaphores: between 0 and their limit whatever the units ask for."""

from __future__ import annotations

from amaranth.hdl import Cat, Mux, Value

from loralith.rtl.tokens import Tokens
from loralith.spec.commands import SEMAPHORE_MAX, SEMAPHORES
from loralith.verif.mutation import Change

from ..harness import Harness
from ..proof import Method, Mutant, Proof

__all__ = ["PROOFS"]


def tokens(h: Harness) -> None:
    dut = h.block(Tokens())
    waiters = [getattr(dut, name) for name in Tokens.WAITERS]
    signallers = [getattr(dut, name) for name in Tokens.SIGNALLERS]
    counts = [dut.counts[i] for i in range(SEMAPHORES)]
    none = Cat(count == 0 for count in counts)
    full = Cat(count == SEMAPHORE_MAX for count in counts)

    def moved(ports, i: int) -> Value:
        """How many tokens of semaphore i these ports move in this cycle."""
        return sum(((port.valid & port.ready & port.mask[i]) for port in ports), start=Value.cast(0))

    h.always(
        "all_there",
        "a command takes its tokens in a cycle in which every semaphore of its mask has one",
        Cat(port.valid & port.ready & (port.mask & none).any() for port in waiters) == 0,
    )
    h.always(
        "room",
        "a signal is given in a cycle in which no semaphore of its mask is full",
        Cat(port.valid & port.ready & (port.mask & full).any() for port in signallers) == 0,
    )
    exact = []
    for i, count in enumerate(counts):
        after = (count + moved(signallers, i) - moved(waiters, i)).as_signed()
        exact.append(count == h.past(Mux(dut.clear, 0, after)))
        exact.append(h.past((after >= 0) & (after <= SEMAPHORE_MAX), init=1))
    h.always(
        "count",
        "every counter is what was given less what was taken since the clear, never below zero, never above its limit",
        Cat(exact).all(),
    )
    # A mask does not change while its port waits.
    for port in waiters + signallers:
        h.assume(~(h.past(port.valid & ~port.ready) & port.valid) | (port.mask == h.past(port.mask)))
    idle = Cat(port.ready for port in waiters + signallers) == 0
    for name, says, ports, blocked in (
        ("first_waiter", "of the waiters whose tokens are all there the first is served in the next cycle, and no other", waiters, none),
        ("first_signal", "of the signals that have room the first is given in the next cycle, and no other", signallers, full),
    ):
        right, earlier = [], ~idle | dut.clear
        for port in ports:
            able = port.valid & ~(port.mask & blocked).any()
            right.append(port.ready == (h.past(able & ~earlier) & ~dut.clear))
            earlier = earlier | able
        h.always(name, says, Cat(right).all())
    chosen = Cat(h.inside(dut, f"{name}_grant") for name in (*Tokens.WAITERS, *Tokens.SIGNALLERS))
    h.invariant(h.inside(dut, "updating") == chosen.any())
    h.invariant((h.inside(dut, "not_empty") == ~none) & (h.inside(dut, "full") == full))
    h.reach(
        "both",
        "a token is taken in the cycle in which another one is given to the same semaphore",
        (moved(waiters, 0) & moved(signallers, 0)).any(),
    )


MUTANTS = (
    Mutant("all_there", Change("Tokens", "taken", "~_a", "~_a & 1", "Only semaphore 0 can block a wait.")),
    Mutant("all_there", Change("Tokens", "grantable", "_a.any()", "_a.all()", "One semaphore of a mask that has a token is enough.")),
    Mutant(
        "room", Change("Tokens", "full", "_a == SEMAPHORE_MAX - 1", "_a == SEMAPHORE_MAX", "A semaphore is reported full one token late.")
    ),
    Mutant("first_waiter", Change("Tokens", "not_empty", "_a > 1", "_a > 2", "A semaphore with one token left is reported empty.")),
    Mutant("count", Change("Tokens", "if counts", "_a ^ _b", "_a | _b", "A semaphore that gives and takes in one cycle counts up.")),
    Mutant("count", Change("Tokens", "counts", "0", "self.counts[i]", "Counters survive a clear.")),
    Mutant("first_waiter", Change("Tokens", "granted", "_a | _b", "_a", "Several of those that could go are chosen in one cycle.")),
    Mutant("first_signal", Change("Tokens", "granted", "_a | _b", "_a", "Several of those that could go are chosen in one cycle.")),
)

PROOFS = (Proof("tokens", "tokens", tokens, Method.induction(2), MUTANTS, search=40),)
