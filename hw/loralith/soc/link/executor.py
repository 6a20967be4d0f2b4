"""Executes requests one at a time, and sends a response to each."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.link import IDENTITY, MAX_PAYLOAD, OPERAND_BYTES, Operation, Status

from .cobs import FrameByte
from .duplicate_cache import LOOKUP_LATENCY
from .messages import Header, OperationControl, Request, Response, Source, Verdict

__all__ = ["RequestExecutor"]


class RequestExecutor(wiring.Component):
    """Takes a request, looks it up in the duplicate cache, executes it if it is new, and emits its response.

    Outputs to the units, the time-out and the decoded operation are registered: units and bus are placed around the executor, and a
    combinational path from one to another through it took 14 ns on an ECP5.

    Parameter: timeout, cycles without progress of a bus operation until the response TIMEOUT; detected two cycles later.

    Members:
        request, payload: from the parser.
        header: of the present request, for the cache; verdict and the others: see `DuplicateCache`.
        registers, memory: the units; operand: the payload's word; memory_i: payload of WRITE_MEMORY.
        response: the responses. response_payload: payload of ECHO.
        interrupt: a notification is due; interrupts: how many there have been; interrupt_sent: it is sent.
        damaged: for the response to HELLO.
    """

    def __init__(self, timeout: int) -> None:
        self._timeout = timeout
        super().__init__(
            {
                "request": In(stream.Signature(Request())),
                "payload": In(stream.Signature(FrameByte)),
                "header": Out(Header()),
                "verdict": In(Verdict),
                "stored_status": In(8),
                "stored_value": In(32),
                "session": In(16),
                "begin": Out(1),
                "record": Out(1),
                "status": Out(8),
                "value": Out(32),
                "registers": Out(OperationControl),
                "memory": Out(OperationControl),
                "operand": Out(32),
                "memory_i": Out(stream.Signature(FrameByte)),
                "response": Out(stream.Signature(Response())),
                "response_payload": Out(stream.Signature(FrameByte)),
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
        pending = Signal()  # the payload is not consumed yet
        count = Signal(range(MAX_PAYLOAD + 2))
        executes = verdict == Verdict.EXECUTE
        discard = Signal()
        lookup = Signal(range(LOOKUP_LATENCY))
        self._route_payload(m, executes, discard, pending, count)
        ready = Mux(on_registers, self.registers.ready, self.memory.ready)
        timer_enable = Signal()
        expired = self._timer(m, timer_enable)
        self._respond(m, verdict)
        m.d.sync += [getattr(unit, name).eq(0) for unit in (self.registers, self.memory) for name in ("start", "abandon")]

        with m.FSM():
            with m.State("idle"):
                m.d.comb += self.request.ready.eq(~self._interrupt_due())
                with m.If(self._interrupt_due()):
                    m.d.sync += [self.header.eq(0), self.status.eq(0), self.value.eq(self.interrupts), verdict.eq(Verdict.DROP)]
                    m.d.sync += [self.header.operation.eq(Operation.INTERRUPT), self.header.session.eq(self.session)]
                    m.d.comb += self.interrupt_sent.eq(1)
                    m.next = "response"
                with m.Elif(self.request.valid):
                    m.d.sync += [self.header.eq(self.request.payload.header), pending.eq(~self.request.payload.bare), count.eq(0)]
                    m.d.sync += lookup.eq(LOOKUP_LATENCY - 1)
                    m.next = "lookup"
            with m.State("lookup"):
                m.d.sync += lookup.eq(lookup - 1)
                with m.If(lookup == 0):
                    m.next = "decide"
            with m.State("decide"):
                m.d.sync += verdict.eq(self.verdict)
                self._decide(m)
                m.next = "collect"
            with m.State("collect"):
                # The payload of an echo or a write stays in the frame buffer until it is forwarded.
                forwards = executes & pending & (self._echo | self._write)
                m.d.comb += discard.eq(~forwards)
                with m.If(~pending | forwards):
                    m.next = "check"
            with m.State("check"):
                m.next = "response"
                with m.If(verdict == Verdict.DROP):
                    m.next = "idle"
                with m.Elif(executes):
                    check = self._check(count, pending)
                    m.d.sync += self.status.eq(check)
                    m.next = "finish"
                    with m.If(check == Status.OK):
                        m.next = "start"
                        with m.If(self._echo):
                            m.next = "record"
            with m.State("start"):
                m.d.comb += timer_enable.eq(1)
                with m.If(ready):
                    m.d.sync += [self.registers.start.eq(on_registers), self.memory.start.eq(~on_registers)]
                    m.next = "wait"
                with m.Elif(expired):
                    m.next = "expired"
            with m.State("wait"):
                m.d.comb += timer_enable.eq(1)
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
                m.d.comb += discard.eq(1)
                with m.If(~pending):
                    with m.If(self._write & (self.status == Status.OK) & (count != self.header.length)):
                        m.d.sync += self.status.eq(Status.BAD_LENGTH)
                    m.next = "record"
            with m.State("record"):
                m.d.comb += self.record.eq(1)
                m.next = "response"
            with m.State("response"):
                m.d.comb += self.response.valid.eq(1)
                with m.If(self.response.ready):
                    m.next = "idle"
        return m

    def _decide(self, m: Module) -> None:
        """Status and value of a request that is not executed, by the cache's verdict."""
        m.d.sync += [self.status.eq(Status.OK), self.value.eq(0)]
        with m.If(self.verdict == Verdict.REPEAT):
            m.d.sync += [self.status.eq(self.stored_status), self.value.eq(self.stored_value)]
        with m.If(self.verdict == Verdict.REFUSE):
            m.d.sync += [self.status.eq(Status.NO_SESSION), self.value.eq(self.session)]
        with m.If((self.verdict == Verdict.BEGIN) | (self.verdict == Verdict.HELLO_AGAIN)):
            m.d.sync += self.value.eq(self.damaged)
        m.d.comb += self.begin.eq(self.verdict == Verdict.BEGIN)

    def _interrupt_due(self) -> Value:
        return self.interrupt & (self.session != 0)

    def _timer(self, m: Module, timer_enable: Value) -> Value:
        """Whether ``timer_enable`` has been high for the time-out without progress of the bus, up to two cycles ago."""
        timer = Signal(range(self._timeout + 1))
        no_progress, expired = Signal(), Signal()
        m.d.sync += [
            no_progress.eq(timer_enable & ~self.memory.progress),
            timer.eq(Mux(no_progress, timer + 1, 0)),
            expired.eq(timer_enable & (timer == self._timeout - 1)),
        ]
        return expired

    def _route_payload(self, m: Module, executes: Value, discard: Value, pending: Signal, count: Signal) -> None:
        """The payload goes to the memory or into the response; with ``discard`` only into the operand register."""
        source = self.payload
        echoes = executes & pending & self._echo & ~discard
        writes = executes & pending & self._write & ~discard
        m.d.comb += [
            self.response_payload.valid.eq(source.valid & echoes),
            self.response_payload.payload.eq(source.payload),
            self.memory_i.valid.eq(source.valid & writes),
            self.memory_i.payload.eq(source.payload),
            source.ready.eq((discard & pending) | (echoes & self.response_payload.ready) | (writes & self.memory_i.ready)),
        ]
        with m.If(source.valid & source.ready):
            m.d.sync += [pending.eq(~source.payload.last), self.operand.eq(Cat(self.operand[8:], source.payload.byte))]
            with m.If(count != MAX_PAYLOAD + 1):
                m.d.sync += count.eq(count + 1)

    def _check(self, count: Value, pending: Value) -> Value:
        """OK if the request may be executed, else its error. The payload of echoes and writes is not counted yet."""
        operation, length = self.header.operation, self.header.length
        length_ok = {
            Operation.ECHO: (pending == (length != 0)) & (length <= MAX_PAYLOAD),
            Operation.READ_REGISTER: count == 0,
            Operation.WRITE_REGISTER: count == OPERAND_BYTES,
            Operation.READ_MEMORY: (count == 0) & (length != 0) & (length <= MAX_PAYLOAD),
            Operation.WRITE_MEMORY: pending & (length != 0) & (length <= MAX_PAYLOAD),
            Operation.FILL_MEMORY: (count == OPERAND_BYTES) & (length != 0),
            Operation.HASH_MEMORY: (count == 0) & (length != 0),
        }
        known_operation = Cat(operation == code for code in length_ok).any()
        ok = Cat((operation == code) & condition for code, condition in length_ok.items()).any()
        return Mux(ok, Status.OK, Mux(known_operation, Status.BAD_LENGTH, Status.BAD_OPERATION))

    def _respond(self, m: Module, verdict: ValueLike) -> None:
        """The response, from the request's header and its result."""
        header, source = self.response.payload.header, self.response.payload.source
        ok = (verdict == Verdict.EXECUTE) & (self.status == Status.OK)
        m.d.comb += [
            header.eq(self.header),
            header.response.eq(1),
            header.code.eq(self.status),
            header.length.eq(0),
            header.value.eq(self.value),
        ]
        with m.If((verdict == Verdict.BEGIN) | (verdict == Verdict.HELLO_AGAIN)):
            m.d.comb += [source.eq(Source.IDENTITY), header.length.eq(IDENTITY.size)]
        with m.Elif(ok & (self.header.operation == Operation.READ_MEMORY)):
            m.d.comb += [source.eq(Source.MEMORY), header.length.eq(self.header.length)]
        with m.Elif(ok & (self.header.operation == Operation.ECHO) & (self.header.length != 0)):
            m.d.comb += [source.eq(Source.PAYLOAD), header.length.eq(self.header.length)]
