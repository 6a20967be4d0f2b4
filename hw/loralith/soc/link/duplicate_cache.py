"""Cache of executed requests and their responses, so that a request that arrives again is not executed again."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.spec.link import ORDERED, WINDOW, Operation, Status

from .messages import Header, Verdict

__all__ = ["LOOKUP_LATENCY", "DuplicateCache"]

LOOKUP_LATENCY = 2
"""Cycles from a header to its verdict."""

SLOT_BITS = exact_log2(WINDOW)
EPOCH_BITS = 16 - SLOT_BITS


class DuplicateCache(wiring.Component):
    """Duplicate request cache: a slot for each number modulo the window holds the last executed request's epoch and response.

    A request is new if its number is the slot's plus the window; it is a duplicate if its number is the slot's. Others are dropped.
    Duplicate reads of memory and echoes are executed again, since payloads are not stored.

    Two pipeline registers, behind the memories and behind the comparisons: without them the path took 18 ns on an ECP5.

    Members:
        header: the request; the outputs are valid `LOOKUP_LATENCY` cycles later.
        verdict: what to do with it. status, value: the stored response of a duplicate.
        session: the present one, 0 for none.
        begin: make the request's session the present one, with all slots empty.
        record: the request has been executed, with result_status and result_value.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "header": In(Header()),
                "verdict": Out(Verdict),
                "status": Out(8),
                "value": Out(32),
                "session": Out(16),
                "begin": In(1),
                "record": In(1),
                "result_status": In(8),
                "result_value": In(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        results = data.StructLayout({"status": 8, "value": 32})
        m.submodules.epochs = epochs = Memory(shape=EPOCH_BITS, depth=WINDOW, init=[])
        m.submodules.stored_results = stored_results = Memory(shape=results, depth=WINDOW, init=[])
        epoch_read, previous_epoch_read, result_read = (
            epochs.read_port(domain="comb"),
            epochs.read_port(domain="comb"),
            stored_results.read_port(domain="comb"),
        )
        epoch_write, result_write = epochs.write_port(), stored_results.write_port()
        valid = Signal(WINDOW)  # the slot holds a request of this session
        slot, epoch = self.header.seq[:SLOT_BITS], self.header.seq[SLOT_BITS:]
        previous = Signal(16)
        m.d.comb += [
            previous.eq(self.header.seq - 1),
            epoch_read.addr.eq(slot),
            result_read.addr.eq(slot),
            previous_epoch_read.addr.eq(previous[:SLOT_BITS]),
            epoch_write.addr.eq(slot),
            epoch_write.data.eq(epoch),
            epoch_write.en.eq(self.record),
            result_write.addr.eq(slot),
            result_write.data.status.eq(self.result_status),
            result_write.data.value.eq(self.result_value),
            result_write.en.eq(self.record),
        ]
        with m.If(self.record):
            m.d.sync += valid.bit_select(slot, 1).eq(1)
        hello = Signal(16)  # number of the HELLO that began the session: with the session's own, 32 bits that no two hosts draw alike
        with m.If(self.begin):
            m.d.sync += [valid.eq(0), self.session.eq(self.header.session), hello.eq(self.header.seq)]

        slot_epoch, previous_epoch = Signal(EPOCH_BITS), Signal(EPOCH_BITS)  # of both slots
        slot_valid, previous_valid = Signal(), Signal()
        stored = Signal(results)
        m.d.sync += [
            *(slot_epoch.eq(epoch_read.data), previous_epoch.eq(previous_epoch_read.data), stored.eq(result_read.data)),
            *(slot_valid.eq(valid.bit_select(slot, 1)), previous_valid.eq(valid.bit_select(previous[:SLOT_BITS], 1))),
        ]

        known, new, in_order, hello_again, session_ok = (
            Signal(name=name) for name in ("known", "new", "in_order", "hello_again", "session_ok")
        )
        first = (self.header.seq == 0) & ~previous_valid
        m.d.sync += [
            known.eq(slot_valid & (slot_epoch == epoch)),
            new.eq(epoch == Mux(slot_valid, (slot_epoch + 1)[:EPOCH_BITS], 0)),
            in_order.eq(first | (previous_valid & (previous_epoch == previous[SLOT_BITS:]))),
            hello_again.eq(self.header.seq == hello),
            session_ok.eq((self.header.session == self.session) & (self.session != 0)),
            self.status.eq(stored.status),
            self.value.eq(stored.value),
        ]
        m.d.comb += self.verdict.eq(self._verdict(known, new & (in_order | ~(self.header.code & ORDERED).any()), hello_again, session_ok))
        return m

    def _verdict(self, known: Value, allowed: Value, hello_again: Value, session_ok: Value) -> Value:
        operation = self.header.operation
        repeatable = (operation == Operation.READ_MEMORY) | (operation == Operation.ECHO)
        known_verdict = Mux(repeatable & (self.status == Status.OK), Verdict.EXECUTE, Verdict.REPEAT)
        verdict = Mux(session_ok, Mux(known, known_verdict, Mux(allowed, Verdict.EXECUTE, Verdict.DROP)), Verdict.REFUSE)
        hello = Mux(self.header.session == 0, Verdict.REFUSE, Mux(session_ok & hello_again, Verdict.HELLO_AGAIN, Verdict.BEGIN))
        return Mux(operation == Operation.HELLO, hello, verdict)
