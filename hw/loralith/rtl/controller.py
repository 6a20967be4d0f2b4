"""The life of a list, from the doorbell to its status."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.enum import Enum
from amaranth.lib.wiring import In, Out

from loralith.spec.status import Check, Code, Unit

from .interfaces import FaultSignature, UnitControl

__all__ = ["Controller"]

UNITS = (Unit.FETCH, Unit.LOAD, Unit.COMPUTE, Unit.STORE)
"""The units in the order in which one cycle's faults win; after them the host, and the vector unit where there is one."""


class State(Enum, shape=3):
    IDLE = 0
    CLEAR = 1
    START = 2
    RUN = 3
    DRAIN = 4


class Controller(wiring.Component):
    """Doorbell, clear, run; then done, or a fault, stop and drain.

    A list is done when as many commands are complete as it has, no unit is busy and the bus is quiet. The first fault, an
    abort, or ``watchdog`` cycles without progress stop it: ``stop`` rises, and the list ends when every unit and the bus are
    quiet. ``stop`` stays until the next list's ``clear``.

    Parameter: vector, whether there is a vector unit.

    Members:
        start, abort: from the host; start is ignored while ``busy``, abort while not.
        list_length, watchdog: registers.
        fetch, load, compute, store, and with a vector unit vector: the units. fetch_fault and so on: their faults.
        bus_busy, bus_progress: outstanding responses; a beat, address or response moved.
        clear: the units' clear, for the blocks between them. stop: the same. begin: one-cycle pulse that starts the fetch.
        running: cycles count (from the doorbell to the end of the list).
        busy, done, error, draining, code, detail, unit, error_command, error_address, commands_done: status.
        done_event, error_event: one-cycle pulses at the end of a list.
    """

    def __init__(self, vector: bool = False) -> None:
        self.units = (*UNITS, *((Unit.VECTOR,) if vector else ()))
        units = {unit.name.lower(): Out(UnitControl) for unit in self.units}
        faults = {f"{unit.name.lower()}_fault": In(FaultSignature) for unit in self.units}
        inputs = {"start": 1, "abort": 1, "list_length": 32, "watchdog": 32, "bus_busy": 1, "bus_progress": 1}
        outputs = {"clear": 1, "stop": 1, "begin": 1, "running": 1}
        status = {"busy": 1, "done": 1, "error": 1, "draining": 1, "code": 8, "detail": 8, "unit": 8}
        status |= {"error_command": 32, "error_address": 64, "commands_done": 32, "done_event": 1, "error_event": 1}
        super().__init__(
            units | faults | {name: In(width) for name, width in inputs.items()} | {n: Out(w) for n, w in (outputs | status).items()}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        names = [unit.name.lower() for unit in self.units]
        units = [getattr(self, name) for name in names]
        faults = [getattr(self, f"{name}_fault") for name in names]
        state = Signal(State)
        quiet = Signal()
        fault = Signal()
        progress = Signal()
        expired = Signal()
        # Pipeline registers for what the units report. ``quiet_drain`` covers all of them after ``stop``, and after what a master let out
        # in its first cycle, as ``stop`` comes to the masters a cycle later.
        quiet_run = Signal()
        drains = Signal()
        quiet_drain = Signal()
        all_done = Signal()
        progress_r = Signal()
        completed = Signal(3)
        cycles_remaining = Signal(32)
        abort = Signal()
        early_abort = Signal()
        any_fault = Cat(f.valid for f in faults).any()

        m.d.comb += [
            self.busy.eq(self.running),
            self.draining.eq(state == State.DRAIN),
            self.begin.eq(state == State.START),
            quiet.eq(~Cat(unit.busy for unit in units).any() & ~self.bus_busy),
            progress.eq(self.bus_progress | Cat(unit.progress | unit.complete for unit in units).any()),
            fault.eq(any_fault | abort | expired),
            abort.eq(self.abort | early_abort),
        ]
        for unit in units:
            m.d.comb += [unit.clear.eq(self.clear), unit.stop.eq(self.stop)]

        complete = sum((unit.complete for unit in units[1:]), units[0].complete)
        m.d.sync += [
            self.clear.eq((state == State.IDLE) & self.start),
            quiet_run.eq(quiet),
            drains.eq(state == State.DRAIN),
            quiet_drain.eq(quiet & drains & (state == State.DRAIN)),
            all_done.eq((self.commands_done == self.list_length) & (self.commands_done != 0)),
            progress_r.eq(progress),
            expired.eq(cycles_remaining == 0),
            completed.eq(Mux(state == State.RUN, complete, 0)),
            self.commands_done.eq(self.commands_done + completed),
        ]
        with m.Switch(state):
            with m.Case(State.IDLE):
                with m.If(self.start):
                    m.d.sync += [
                        state.eq(State.CLEAR),
                        self.running.eq(1),
                        *(getattr(self, name).eq(0) for name in ("done", "error", "code", "detail", "unit")),
                        *(getattr(self, name).eq(0) for name in ("error_command", "error_address", "commands_done")),
                    ]
            with m.Case(State.CLEAR):
                m.d.sync += [state.eq(State.START), cycles_remaining.eq(self.watchdog), self.stop.eq(0), early_abort.eq(self.abort)]
            with m.Case(State.START):
                m.d.sync += [state.eq(State.RUN), early_abort.eq(abort)]
            with m.Case(State.RUN):
                m.d.sync += cycles_remaining.eq(Mux(progress_r, self.watchdog, cycles_remaining - 1))
                with m.If(fault):
                    m.d.sync += [state.eq(State.DRAIN), self.stop.eq(1)]
                    self._latch(m, faults, abort)
                with m.Elif(quiet_run & all_done):
                    m.d.sync += [state.eq(State.IDLE), self.running.eq(0), self.done.eq(1)]
                    m.d.comb += self.done_event.eq(1)
            with m.Case(State.DRAIN):
                with m.If(quiet_drain):
                    m.d.sync += [state.eq(State.IDLE), self.running.eq(0), self.error.eq(1)]
                    m.d.comb += self.error_event.eq(1)
        return m

    def _latch(self, m: Module, faults: list, abort: Signal) -> None:
        """Keep the fault of the lowest unit; the watchdog and the host count after all units."""
        with m.If(abort):
            m.d.sync += [self.code.eq(Code.HOST_ABORT), self.detail.eq(Check.NONE), self.unit.eq(Unit.HOST)]
        with m.Else():
            m.d.sync += [self.code.eq(Code.WATCHDOG), self.detail.eq(Check.NONE), self.unit.eq(Unit.NONE)]
        for unit, fault in reversed(list(zip(self.units, faults, strict=True))):
            with m.If(fault.valid & ~abort if unit > Unit.HOST else fault.valid):
                m.d.sync += [
                    self.code.eq(fault.code),
                    self.detail.eq(fault.detail),
                    self.unit.eq(unit),
                    self.error_command.eq(fault.command),
                    self.error_address.eq(fault.address),
                ]
