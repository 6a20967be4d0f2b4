"""The semaphores through which loads, compute and stores keep their order."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out

from loralith.spec.commands import SEMAPHORE_MAX, SEMAPHORES

from .interfaces import SignalSignature, WaitSignature

__all__ = ["Tokens"]


class Tokens(wiring.Component):
    """``SEMAPHORES`` counters of 0..``SEMAPHORE_MAX``, all zero after ``clear``.

    In a cycle at most one waiter takes one token from each semaphore of its mask, and only if each has one; at most one
    signaller gives one to each of its mask, and only if none of these is full. Both may meet in one semaphore; a token
    given in a cycle can be taken from the next on. Of several that could, the first in the order below goes.

    Members:
        load, compute, segment, store: the waiters (segment: a chained product's second operands).
        load_done, compute_read, compute_done, store_done: the signallers.
        clear: zero all counters; nothing else is looked at in that cycle.
        counts: the counters, for tests and properties.
    """

    WAITERS = ("load", "compute", "segment", "store")
    SIGNALLERS = ("load_done", "compute_read", "compute_done", "store_done")

    def __init__(self) -> None:
        super().__init__(
            {name: In(WaitSignature) for name in self.WAITERS}
            | {name: In(SignalSignature) for name in self.SIGNALLERS}
            | {"clear": In(1), "counts": Out(ArrayLayout(range(SEMAPHORE_MAX + 1), SEMAPHORES))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        some = Signal(SEMAPHORES)
        full = Signal(SEMAPHORES)
        m.d.comb += [
            some.eq(Cat(self.counts[i] != 0 for i in range(SEMAPHORES))),
            full.eq(Cat(self.counts[i] == SEMAPHORE_MAX for i in range(SEMAPHORES))),
        ]
        taken = self._grant(m, self.WAITERS, ~some)
        given = self._grant(m, self.SIGNALLERS, full)
        for i in range(SEMAPHORES):
            with m.If(taken[i] ^ given[i]):
                m.d.sync += self.counts[i].eq(Mux(given[i], self.counts[i] + 1, self.counts[i] - 1))
            with m.If(self.clear):
                m.d.sync += self.counts[i].eq(0)
        return m

    def _grant(self, m: Module, names: tuple[str, ...], blocked: Value) -> Signal:
        """The mask of the first of ``names`` that is not blocked in any semaphore, else zero."""
        mask = Signal(SEMAPHORES)
        free = ~self.clear
        for name in names:
            port = getattr(self, name)
            able = port.valid & ~(port.mask & blocked).any()
            m.d.comb += port.ready.eq(able & free)
            with m.If(port.ready):
                m.d.comb += mask.eq(port.mask)
            free = free & ~able
        return mask
