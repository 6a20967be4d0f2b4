"""The semaphores through which loads, compute and stores keep their order."""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out

from loralith.spec.commands import SEMAPHORE_MAX, SEMAPHORES

from .interfaces import SignalSignature, WaitSignature

__all__ = ["Tokens"]


class Tokens(wiring.Component):
    """``SEMAPHORES`` counters of 0..``SEMAPHORE_MAX``, all zero after ``clear``.

    In a cycle at most one waiter takes one token from each semaphore of its mask, and only if each has one; at most one
    signaller gives one to each of its mask, and only if none of these is full. Both may meet in one semaphore. Of several that
    could, the first in the order below goes.

    Parameter: vector, whether there is a vector unit.

    Who goes is decided in one cycle and done in the next, the counters meanwhile unchanged; that cycle decides nothing. So a
    waiter or signaller holds ``valid`` and ``mask`` until ``ready``; one that withdraws ``valid`` loses its arbitration slot and no more.

    Members:
        load, compute, segment, store: the waiters (segment: a chained product's second operands); vector, with a vector unit.
        load_done, compute_read, compute_done, store_done: the signallers; vector_done likewise.
        clear: zero all counters; nothing else is looked at in that cycle.
        counts: the counters, for tests and properties.
    """

    WAITERS = ("load", "compute", "segment", "store")
    SIGNALLERS = ("load_done", "compute_read", "compute_done", "store_done")

    def __init__(self, vector: bool = False) -> None:
        self.waiters = (*self.WAITERS, *(("vector",) if vector else ()))
        self.signallers = (*self.SIGNALLERS, *(("vector_done",) if vector else ()))
        super().__init__(
            {name: In(WaitSignature) for name in self.waiters}
            | {name: In(SignalSignature) for name in self.signallers}
            | {"clear": In(1), "counts": Out(ArrayLayout(range(SEMAPHORE_MAX + 1), SEMAPHORES))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        not_empty = Signal(SEMAPHORES)  # per counter; registers, for the path to the grant logic
        full = Signal(SEMAPHORES)
        arbitrate = Signal()
        taken, any_waiter = self._grant(m, self.waiters, ~not_empty, arbitrate)
        added, any_signaller = self._grant(m, self.signallers, full, arbitrate)
        updating = Signal()
        m.d.sync += updating.eq(arbitrate & (any_waiter | any_signaller))
        m.d.comb += arbitrate.eq(~updating & ~self.clear)
        for i in range(SEMAPHORES):
            with m.If(taken[i] ^ added[i]):
                m.d.sync += [
                    self.counts[i].eq(Mux(added[i], self.counts[i] + 1, self.counts[i] - 1)),
                    not_empty[i].eq(added[i] | (self.counts[i] > 1)),
                    full[i].eq(added[i] & (self.counts[i] == SEMAPHORE_MAX - 1)),
                ]
            with m.If(self.clear):
                m.d.sync += self.counts[i].eq(0)
        with m.If(self.clear):
            m.d.sync += [not_empty.eq(0), full.eq(0)]
        return m

    def _grant(self, m: Module, names: tuple[str, ...], blocked: Value, arbitrate: Value) -> tuple[Value, Value]:
        """Fixed-priority arbiter over ``names``: the mask of the port granted in the previous cycle, and whether one is granted now."""
        masks: list[Value] = []
        granted: Value = Const(0)
        for name in names:
            port = getattr(self, name)
            grant = Signal(name=f"{name}_grant")
            grantable = port.valid & ~(port.mask & blocked).any()
            m.d.sync += grant.eq(arbitrate & grantable & ~granted)
            m.d.comb += port.ready.eq(grant & ~self.clear)
            masks.append(Mux(port.valid & port.ready, port.mask, 0))
            granted = granted | grantable
        mask = Signal(SEMAPHORES, name=f"{names[0]}_moved")
        m.d.comb += mask.eq(reduce(or_, masks))
        return mask, granted
