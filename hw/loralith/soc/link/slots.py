"""Which requests have been executed, so that each is executed once however often it arrives."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from loralith.spec.link import ORDERED, WINDOW, Operation, Status

from .messages import Header, Verdict

__all__ = ["LOOK_CYCLES", "SlotTable"]

LOOK_CYCLES = 2
"""Cycles from a header to what the table says of it."""

SLOT_BITS = exact_log2(WINDOW)
EPOCH_BITS = 16 - SLOT_BITS


class SlotTable(wiring.Component):
    """A slot for each number modulo the window: the last request that was executed in it, and the answer.

    A request is new in its slot if its number is the next one, a window further on; it is known if its number is the slot's.
    Whatever else comes is dropped. Reads of memory and echoes that are known are executed again: their payload is not kept.

    Two registers, one behind the memories and one behind the comparisons, lie between the request and the verdict: in one cycle the way
    took 18 ns on an ECP5.

    Members:
        header: the request, stable for `LOOK_CYCLES` before a look at the others.
        verdict: what to do with it. status, value: the answer to a known one.
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
        m.submodules.answers = answers = Memory(shape=results, depth=WINDOW, init=[])
        present, before, answer = epochs.read_port(domain="comb"), epochs.read_port(domain="comb"), answers.read_port(domain="comb")
        store_epoch, store_answer = epochs.write_port(), answers.write_port()
        executed = Signal(WINDOW)  # the slot holds a request of this session
        slot, epoch = self.header.seq[:SLOT_BITS], self.header.seq[SLOT_BITS:]
        previous = Signal(16)
        m.d.comb += [
            previous.eq(self.header.seq - 1),
            present.addr.eq(slot),
            answer.addr.eq(slot),
            before.addr.eq(previous[:SLOT_BITS]),
            store_epoch.addr.eq(slot),
            store_epoch.data.eq(epoch),
            store_epoch.en.eq(self.record),
            store_answer.addr.eq(slot),
            store_answer.data.status.eq(self.result_status),
            store_answer.data.value.eq(self.result_value),
            store_answer.en.eq(self.record),
        ]
        with m.If(self.record):
            m.d.sync += executed.bit_select(slot, 1).eq(1)
        hello = Signal(16)  # number of the HELLO that began the session: with the session's own, 32 bits that no two hosts draw alike
        with m.If(self.begin):
            m.d.sync += [executed.eq(0), self.session.eq(self.header.session), hello.eq(self.header.seq)]

        here, earlier = Signal(EPOCH_BITS), Signal(EPOCH_BITS)  # what both slots hold
        used, used_before = Signal(), Signal()
        kept = Signal(results)
        m.d.sync += [
            *(here.eq(present.data), earlier.eq(before.data), kept.eq(answer.data)),
            *(used.eq(executed.bit_select(slot, 1)), used_before.eq(executed.bit_select(previous[:SLOT_BITS], 1))),
        ]

        known, new, follows, greeted, ours = (Signal(name=name) for name in ("known", "new", "follows", "greeted", "ours"))
        first = (self.header.seq == 0) & ~used_before
        m.d.sync += [
            known.eq(used & (here == epoch)),
            new.eq(epoch == Mux(used, (here + 1)[:EPOCH_BITS], 0)),
            follows.eq(first | (used_before & (earlier == previous[SLOT_BITS:]))),
            greeted.eq(self.header.seq == hello),
            ours.eq((self.header.session == self.session) & (self.session != 0)),
            self.status.eq(kept.status),
            self.value.eq(kept.value),
        ]
        m.d.comb += self.verdict.eq(self._verdict(known, new & (follows | ~(self.header.code & ORDERED).any()), greeted, ours))
        return m

    def _verdict(self, known: Value, allowed: Value, greeted: Value, ours: Value) -> Value:
        operation = self.header.operation
        again = (operation == Operation.READ_MEMORY) | (operation == Operation.ECHO)
        seen = Mux(again & (self.status == Status.OK), Verdict.EXECUTE, Verdict.REPEAT)
        verdict = Mux(ours, Mux(known, seen, Mux(allowed, Verdict.EXECUTE, Verdict.DROP)), Verdict.REFUSE)
        hello = Mux(self.header.session == 0, Verdict.REFUSE, Mux(ours & greeted, Verdict.GREET, Verdict.BEGIN))
        return Mux(operation == Operation.HELLO, hello, verdict)
