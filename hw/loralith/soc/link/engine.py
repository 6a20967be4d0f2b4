"""Executes requests, one after the other, and answers each."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.link import IDENTITY, MAX_PAYLOAD, OPERAND_BYTES, Operation, Status

from .cobs import FrameByte
from .messages import Answer, Header, OperationControl, Request, Source, Verdict
from .slots import LOOK_CYCLES

__all__ = ["Engine"]


class Engine(wiring.Component):
    """Takes a request, asks the slot table what to do with it, does that, and hands on the answer.

    What goes to the units, and what tells that time has run out, are registers, as is what the operation is: the units and the bus lie
    around the engine, and a path from one to another through the engine took 14 ns on an ECP5.

    Parameter: timeout, cycles that a bus operation may take without an end before it is answered with TIMEOUT; it is seen two later.

    Members:
        request, payload: from the parser.
        header: of the present request, for the slot table; verdict and the others: see `SlotTable`.
        registers, memory: the units; operand: the payload's word; memory_i: payload of WRITE_MEMORY.
        answer: the answers. answer_payload: payload of ECHO.
        interrupt: one is to be told; interrupts: how many there have been; interrupt_sent: it has been told.
        damaged: for the answer to HELLO.
    """

    def __init__(self, timeout: int) -> None:
        self._timeout = timeout
        super().__init__(
            {
                "request": In(stream.Signature(Request())),
                "payload": In(stream.Signature(FrameByte)),
                "header": Out(Header()),
                "verdict": In(Verdict),
                "known_status": In(8),
                "known_value": In(32),
                "session": In(16),
                "begin": Out(1),
                "record": Out(1),
                "status": Out(8),
                "value": Out(32),
                "registers": Out(OperationControl),
                "memory": Out(OperationControl),
                "operand": Out(32),
                "memory_i": Out(stream.Signature(FrameByte)),
                "answer": Out(stream.Signature(Answer())),
                "answer_payload": Out(stream.Signature(FrameByte)),
                "interrupt": In(1),
                "interrupts": In(16),
                "interrupt_sent": Out(1),
                "damaged": In(16),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        operation = self.header.operation
        self._echo, self._write, on_registers = (Signal(name=name) for name in ("echo", "write", "on_registers"))
        m.d.sync += [
            self._echo.eq(operation == Operation.ECHO),
            self._write.eq(operation == Operation.WRITE_MEMORY),
            on_registers.eq((operation == Operation.READ_REGISTER) | (operation == Operation.WRITE_REGISTER)),
        ]
        verdict = Signal(Verdict)
        pending = Signal()  # payload that has not been taken
        count = Signal(range(MAX_PAYLOAD + 2))
        executes = verdict == Verdict.EXECUTE
        drain = Signal()
        look = Signal(range(LOOK_CYCLES))
        self._route_payload(m, executes, drain, pending, count)
        ready = Mux(on_registers, self.registers.ready, self.memory.ready)
        timing = Signal()
        expired = self._timer(m, timing)
        self._answer(m, verdict)
        m.d.sync += [getattr(unit, name).eq(0) for unit in (self.registers, self.memory) for name in ("start", "abandon")]

        with m.FSM():
            with m.State("idle"):
                m.d.comb += self.request.ready.eq(~self._notice())
                with m.If(self._notice()):
                    m.d.sync += [self.header.eq(0), self.status.eq(0), self.value.eq(self.interrupts), verdict.eq(Verdict.DROP)]
                    m.d.sync += [self.header.operation.eq(Operation.INTERRUPT), self.header.session.eq(self.session)]
                    m.d.comb += self.interrupt_sent.eq(1)
                    m.next = "answer"
                with m.Elif(self.request.valid):
                    m.d.sync += [self.header.eq(self.request.payload.header), pending.eq(~self.request.payload.bare), count.eq(0)]
                    m.d.sync += look.eq(LOOK_CYCLES - 1)
                    m.next = "look"
            with m.State("look"):
                m.d.sync += look.eq(look - 1)
                with m.If(look == 0):
                    m.next = "judge"
            with m.State("judge"):
                m.d.sync += verdict.eq(self.verdict)
                self._judge(m)
                m.next = "collect"
            with m.State("collect"):
                # Echoes and writes keep their payload in the buffer until it is passed on.
                passes = executes & pending & (self._echo | self._write)
                m.d.comb += drain.eq(~passes)
                with m.If(~pending | passes):
                    m.next = "check"
            with m.State("check"):
                m.next = "answer"
                with m.If(verdict == Verdict.DROP):
                    m.next = "idle"
                with m.Elif(executes):
                    refusal = self._refusal(count, pending)
                    m.d.sync += self.status.eq(refusal)
                    m.next = "finish"
                    with m.If(refusal == Status.OK):
                        m.next = "start"
                        with m.If(self._echo):
                            m.next = "record"
            with m.State("start"):
                m.d.comb += timing.eq(1)
                with m.If(ready):
                    m.d.sync += [self.registers.start.eq(on_registers), self.memory.start.eq(~on_registers)]
                    m.next = "wait"
                with m.Elif(expired):
                    m.next = "expired"
            with m.State("wait"):
                m.d.comb += timing.eq(1)
                with m.If(Mux(on_registers, self.registers.done, self.memory.done)):
                    m.d.sync += [
                        self.status.eq(Mux(on_registers, self.registers.status, self.memory.status)),
                        self.value.eq(Mux(on_registers, self.registers.value, self.memory.value)),
                    ]
                    m.next = "finish"
                with m.Elif(expired):
                    m.d.sync += [self.registers.abandon.eq(1), self.memory.abandon.eq(1)]
                    m.next = "expired"
            with m.State("expired"):
                m.d.sync += [self.status.eq(Status.TIMEOUT), self.value.eq(self.header.value)]
                m.next = "finish"
            with m.State("finish"):
                m.d.comb += drain.eq(1)
                with m.If(~pending):
                    with m.If(self._write & (self.status == Status.OK) & (count != self.header.length)):
                        m.d.sync += self.status.eq(Status.BAD_LENGTH)
                    m.next = "record"
            with m.State("record"):
                m.d.comb += self.record.eq(1)
                m.next = "answer"
            with m.State("answer"):
                m.d.comb += self.answer.valid.eq(1)
                with m.If(self.answer.ready):
                    m.next = "idle"
        return m

    def _judge(self, m: Module) -> None:
        """The answer of a request that is not executed, by the slot table's verdict."""
        m.d.sync += [self.status.eq(Status.OK), self.value.eq(0)]
        with m.If(self.verdict == Verdict.REPEAT):
            m.d.sync += [self.status.eq(self.known_status), self.value.eq(self.known_value)]
        with m.If(self.verdict == Verdict.REFUSE):
            m.d.sync += [self.status.eq(Status.NO_SESSION), self.value.eq(self.session)]
        with m.If((self.verdict == Verdict.BEGIN) | (self.verdict == Verdict.GREET)):
            m.d.sync += self.value.eq(self.damaged)
        m.d.comb += self.begin.eq(self.verdict == Verdict.BEGIN)

    def _notice(self) -> Value:
        return self.interrupt & (self.session != 0)

    def _timer(self, m: Module, timing: Value) -> Value:
        """Whether ``timing`` has been high for the time-out, with no sign of the bus, up to two cycles ago."""
        timer = Signal(range(self._timeout + 1))
        quiet, expired = Signal(), Signal()
        m.d.sync += [
            quiet.eq(timing & ~self.memory.progress),
            timer.eq(Mux(quiet, timer + 1, 0)),
            expired.eq(timing & (timer == self._timeout - 1)),
        ]
        return expired

    def _route_payload(self, m: Module, executes: Value, drain: Value, pending: Signal, count: Signal) -> None:
        """The payload goes to the memory or into the answer, or with ``drain`` into the operand and no further."""
        source = self.payload
        echoes = executes & pending & self._echo & ~drain
        writes = executes & pending & self._write & ~drain
        m.d.comb += [
            self.answer_payload.valid.eq(source.valid & echoes),
            self.answer_payload.payload.eq(source.payload),
            self.memory_i.valid.eq(source.valid & writes),
            self.memory_i.payload.eq(source.payload),
            source.ready.eq((drain & pending) | (echoes & self.answer_payload.ready) | (writes & self.memory_i.ready)),
        ]
        with m.If(source.valid & source.ready):
            m.d.sync += [pending.eq(~source.payload.last), self.operand.eq(Cat(self.operand[8:], source.payload.byte))]
            with m.If(count != MAX_PAYLOAD + 1):
                m.d.sync += count.eq(count + 1)

    def _refusal(self, count: Value, pending: Value) -> Value:
        """Status of a request that is not executed: OK where it may be. Of echoes and writes the payload has not been counted yet."""
        operation, length = self.header.operation, self.header.length
        fits = {
            Operation.ECHO: (pending == (length != 0)) & (length <= MAX_PAYLOAD),
            Operation.READ_REGISTER: count == 0,
            Operation.WRITE_REGISTER: count == OPERAND_BYTES,
            Operation.READ_MEMORY: (count == 0) & (length != 0) & (length <= MAX_PAYLOAD),
            Operation.WRITE_MEMORY: pending & (length != 0) & (length <= MAX_PAYLOAD),
            Operation.FILL_MEMORY: (count == OPERAND_BYTES) & (length != 0),
            Operation.HASH_MEMORY: (count == 0) & (length != 0),
        }
        known = Cat(operation == code for code in fits).any()
        fine = Cat((operation == code) & condition for code, condition in fits.items()).any()
        return Mux(fine, Status.OK, Mux(known, Status.BAD_LENGTH, Status.BAD_OPERATION))

    def _answer(self, m: Module, verdict: ValueLike) -> None:
        """The answer, from the request's header and what has come of it."""
        header, source = self.answer.payload.header, self.answer.payload.source
        fine = (verdict == Verdict.EXECUTE) & (self.status == Status.OK)
        m.d.comb += [
            header.eq(self.header),
            header.answer.eq(1),
            header.code.eq(self.status),
            header.length.eq(0),
            header.value.eq(self.value),
        ]
        with m.If((verdict == Verdict.BEGIN) | (verdict == Verdict.GREET)):
            m.d.comb += [source.eq(Source.IDENTITY), header.length.eq(IDENTITY.size)]
        with m.Elif(fine & (self.header.operation == Operation.READ_MEMORY)):
            m.d.comb += [source.eq(Source.MEMORY), header.length.eq(self.header.length)]
        with m.Elif(fine & (self.header.operation == Operation.ECHO) & (self.header.length != 0)):
            m.d.comb += [source.eq(Source.PAYLOAD), header.length.eq(self.header.length)]
