"""The life of a list: what the masters' proofs assume about ``stop`` and ``clear``."""

from __future__ import annotations

from amaranth.hdl import Cat

from loralith.rtl.controller import Controller
from loralith.verif.mutation import Change

from ..harness import Harness
from ..proof import Method, Mutant, Proof

__all__ = ["PROOFS"]


def controller(h: Harness) -> None:
    dut = h.block(Controller())
    units = (dut.fetch, dut.load, dut.compute, dut.store)
    quiet = ~Cat(dut.bus_busy, *(unit.busy for unit in units)).any()
    began, ended = dut.busy & ~h.past(dut.busy), ~dut.busy & h.past(dut.busy)
    h.always("clear", "everything is cleared in the first cycle of a list, and in no other", dut.clear == began)
    h.always(
        "quiet",
        "a list ends a cycle after one in which no unit is busy and the bus owes nothing; as an error, one after the stop",
        ~ended | (h.past(h.past(quiet)) & (~dut.error | h.past(h.past(dut.stop)))),
    )
    h.always(
        "stop",
        "once it stops, a list does until it is cleared; it ends as done without a stop, or with one as an error",
        (~h.past(dut.stop & ~dut.clear) | dut.stop) & (~ended | ((dut.error == dut.stop) & (dut.done == ~dut.stop))),
    )
    h.always(
        "events",
        "one event for every list: of its outcome, as it ends",
        ((dut.done_event & dut.error_event) == 0)
        & (h.past(dut.done_event | dut.error_event) == ended)
        & (~ended | (h.past(dut.done_event) == dut.done)),
    )
    h.reach("stopped", "a list is stopped and the next one begins", began & h.past(dut.error))

    state = h.inside(dut, "state")
    h.invariant(h.inside(dut, "quiet_run") == h.past(quiet))
    h.invariant(~h.inside(dut, "quiet_drain") | (h.past(quiet) & h.past(dut.stop)))
    h.invariant((dut.busy == (state != 0)) & (dut.clear == (state == 1)))
    h.invariant((state <= 4) & ((state != 4) | dut.stop) & ((state != 3) | ~dut.stop) & ((state != 2) | ~dut.stop))
    h.invariant((state == 0) | ~(dut.done | dut.error))


MUTANTS = (
    Mutant("clear", Change("Controller", "self.clear", "(_a == _b) & _c", "_c", "A doorbell clears the units while a list runs.")),
    Mutant(
        "quiet", Change("Controller", "if error_event", "m.If(_a)", "m.If(~self.bus_busy)", "A stopped list ends while units are busy.")
    ),
    Mutant("quiet", Change("Controller", "if done_event", "_a & _b", "_b", "A list ends with its last command while units are busy.")),
    Mutant("stop", Change("Controller", "self.stop", "0", "self.stop", "A list begins stopped after one that was.")),
    Mutant("events", Change("Controller", "error_event", "1", "0", "A stopped list ends without an event.")),
)

PROOFS = (Proof("controller", "controller", controller, Method.induction(2), MUTANTS, search=16),)
