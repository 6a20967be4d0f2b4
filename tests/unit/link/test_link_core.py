"""The device side of the serial link, without its UART, against integer models of the memory, of the registers and of the host."""

from __future__ import annotations

import itertools
import random
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from loralith.device.link.frames import Frame, FrameReader
from loralith.soc.link.link import LinkConfig, LinkCore
from loralith.spec.link import IDENTITY, MAGIC, MAX_PAYLOAD, ORDERED, PROTOCOL, SOC_BASE, Operation, Status
from loralith.verif.block_test import simulate

SESSION = 0x1234
CONFIG = LinkConfig(divider=4, bus_bytes=8, config_hash=0xCAFE_F00D, memory_base=0x1000, memory_bytes=1 << 16, timeout=200)
SILENT = 0xF000
"""Addresses from here on are answered long after the time-out, memory and registers alike."""
LATE = 300


@dataclass
class Board:
    """What lies behind the link, and the line to it. `memory` and `registers` answer SLVERR and DECERR where `errors` says."""

    memory: bytearray = field(default_factory=lambda: bytearray(1 << 16))
    registers: dict[int, int] = field(default_factory=dict)
    errors: dict[int, int] = field(default_factory=dict)
    register_writes: list[tuple[int, int]] = field(default_factory=list)
    longest_burst: int = 0
    reader: FrameReader = field(default_factory=FrameReader)
    received: list[Frame] = field(default_factory=list)

    def simulate(self, script) -> None:
        """Run ``script(send, ctx, link)``; ``await send(frames or bytes, answers)`` gives as many frames as come back for it, or with 0
        what comes back until the line is quiet."""
        link = LinkCore(CONFIG)
        outgoing: deque[int] = deque()

        async def host(ctx) -> None:
            # Each model is a generator that runs between two edges: what it sees and sets is what the next edge takes.
            models = [self._line(ctx, link, outgoing), self._reads(ctx, link.memory), self._writes(ctx, link.memory)]
            models += [self._register_writes(ctx, link.registers), self._register_reads(ctx, link.registers)]

            async def tick() -> None:
                for model in models:
                    next(model)
                await ctx.tick()

            async def send(frames: Frame | bytes | Iterable[Frame], answers: int = 1, patience: int = 20_000) -> list[Frame]:
                frames = [frames] if isinstance(frames, Frame) else frames
                outgoing.extend(frames if isinstance(frames, bytes) else b"".join(frame.encode() for frame in frames))
                self.received.clear()
                waited = quiet = 0
                while len(self.received) < answers or (not answers and quiet < 400):
                    await tick()
                    waited, quiet = waited + 1, 0 if outgoing else quiet + 1
                    assert waited < patience, f"{len(self.received)} of {answers} answers"
                return list(self.received)

            await script(send, ctx, link)

        simulate(link, host)

    def _line(self, ctx, link: LinkCore, outgoing: deque[int]) -> Iterator[None]:
        ctx.set(link.o.ready, 1)
        cycle = 0
        while True:
            cycle += 1
            ctx.set(link.i.valid, bool(outgoing) and cycle % 3 == 0)
            if outgoing and cycle % 3 == 0:
                ctx.set(link.i.payload.byte, outgoing.popleft())
            if ctx.get(link.o.valid):
                self.received += self.reader.feed(bytes([ctx.get(link.o.payload)]))
            yield

    def _reads(self, ctx, axi) -> Iterator[None]:
        while True:
            ctx.set(axi.arready, 1)
            while not ctx.get(axi.arvalid):
                yield
            at, beats = ctx.get(axi.araddr), ctx.get(axi.arlen) + 1
            yield
            ctx.set(axi.arready, 0)
            self.longest_burst = max(self.longest_burst, beats)
            assert at % 8 == 0
            assert at // 4096 == (at + 8 * beats - 1) // 4096
            yield from wait(LATE if at >= SILENT else 5)
            for beat in range(beats):
                word = at + 8 * beat
                ctx.set(axi.rdata, int.from_bytes(self.memory[word : word + 8], "little"))
                ctx.set(axi.rresp, self.errors.get(word, 0))
                ctx.set(axi.rlast, beat == beats - 1)
                yield from offer(ctx, axi.rvalid, axi.rready)
                yield from wait(beat % 3 == 0)

    def _writes(self, ctx, axi) -> Iterator[None]:
        while True:
            while not ctx.get(axi.awvalid):
                yield
            yield from wait(2)
            at = ctx.get(axi.awaddr)
            assert at % 8 == 0
            assert ctx.get(axi.awlen) == 0
            yield from offer(ctx, axi.awready, axi.awvalid)
            while not ctx.get(axi.wvalid):
                yield
            data, strobe = ctx.get(axi.wdata), ctx.get(axi.wstrb)
            assert ctx.get(axi.wlast)
            assert strobe
            yield from offer(ctx, axi.wready, axi.wvalid)
            yield from wait(LATE if at >= SILENT else 3)
            response = self.errors.get(at, 0)
            for i in range(8):
                if strobe >> i & 1 and not response:
                    self.memory[at + i] = data >> 8 * i & 0xFF
            ctx.set(axi.bresp, response)
            yield from offer(ctx, axi.bvalid, axi.bready)

    def _register_writes(self, ctx, axi) -> Iterator[None]:
        while True:
            while not (ctx.get(axi.awvalid) and ctx.get(axi.wvalid)):
                yield
            address, data = ctx.get(axi.awaddr), ctx.get(axi.wdata)
            yield from wait(LATE if address >= SILENT else 1)
            ctx.set(axi.awready, 1)
            yield from offer(ctx, axi.wready, axi.wvalid)
            ctx.set(axi.awready, 0)
            self.register_writes.append((address, data))
            self.registers[address] = data
            ctx.set(axi.bresp, self.errors.get(address, 0))
            yield from offer(ctx, axi.bvalid, axi.bready)

    def _register_reads(self, ctx, axi) -> Iterator[None]:
        while True:
            while not ctx.get(axi.arvalid):
                yield
            address = ctx.get(axi.araddr)
            yield from offer(ctx, axi.arready, axi.arvalid)
            yield from wait(LATE if address >= SILENT else 4)
            ctx.set(axi.rdata, self.registers.get(address, 0))
            ctx.set(axi.rresp, self.errors.get(address, 0))
            yield from offer(ctx, axi.rvalid, axi.rready)


def wait(cycles: int) -> Iterator[None]:
    for _ in range(cycles):
        yield


def offer(ctx, ours, theirs) -> Iterator[None]:
    """Hold ``ours`` until the edge at which ``theirs`` is high too."""
    ctx.set(ours, 1)
    while not ctx.get(theirs):
        yield
    yield
    ctx.set(ours, 0)


def request(operation: Operation, seq: int, **fields) -> Frame:
    return Frame(operation, seq, SESSION, **fields)


HELLO = Frame(Operation.HELLO, 77, SESSION)


def word(value: int) -> bytes:
    return value.to_bytes(4, "little")


def test_every_operation() -> None:
    board = Board()
    board.memory[0x2000:0x4000] = random.Random(1).randbytes(0x2000)
    block = bytes(range(256)) + bytes(20)

    async def script(send, ctx, link) -> None:
        (answer,) = await send(HELLO)
        identity = IDENTITY.unpack(answer.payload)
        assert identity == {
            "magic": MAGIC,
            "protocol": PROTOCOL,
            "bus_bytes": 8,
            "config_hash": 0xCAFE_F00D,
            "clock_hz": 100_000_000,
            "memory_base": 0x1000,
            "memory_bytes": 1 << 16,
        }
        assert (answer.response, answer.operation, answer.seq, answer.session) == (True, Operation.HELLO, 77, SESSION)

        requests = [
            request(Operation.ECHO, 0, length=5, payload=b"\0\0abc"),
            request(Operation.WRITE_REGISTER, 1, value=0x24, length=4, payload=word(0xDEAD_BEEF)),
            request(Operation.READ_REGISTER, 2, value=0x24),
            request(Operation.WRITE_REGISTER, 3, value=SOC_BASE + 8, length=4, payload=word(7)),
            request(Operation.READ_REGISTER, 4, value=SOC_BASE + 8),
            request(Operation.WRITE_MEMORY, 5, value=0x1003, length=len(block), payload=block),
            request(Operation.READ_MEMORY, 6, value=0x1003, length=len(block)),
            request(Operation.READ_MEMORY, 7, value=0x2FF5, length=1),
            request(Operation.READ_MEMORY, 8, value=0x2FF5, length=MAX_PAYLOAD),
            request(Operation.HASH_MEMORY, 9, value=0x2003, length=2001),
            request(Operation.FILL_MEMORY, 10, value=0x1806, length=77, payload=b"WXYZ"),
            request(Operation.ECHO, 11),
        ]
        answers = await send(requests, len(requests))
        assert [(a.response, a.operation, a.seq, a.session, a.code) for a in answers] == [
            (True, r.operation, r.seq, SESSION, Status.OK) for r in requests
        ]
        memory = board.memory
        assert answers[0].payload == b"\0\0abc"
        assert (answers[2].value, answers[4].value) == (0xDEAD_BEEF, 7)
        assert board.register_writes == [(0x24, 0xDEAD_BEEF), (SOC_BASE + 8, 7)]
        assert memory[0x1003 : 0x1003 + len(block)] == block
        assert memory[:0x1003] == bytes(0x1003)
        assert memory[0x1003 + len(block) : 0x1806] == bytes(0x1806 - 0x1003 - len(block))
        assert answers[6].payload == block
        assert answers[7].payload == memory[0x2FF5:0x2FF6]
        assert answers[8].payload == memory[0x2FF5 : 0x2FF5 + MAX_PAYLOAD]
        assert answers[9].value == zlib.crc32(memory[0x2003 : 0x2003 + 2001])
        assert memory[0x1806 : 0x1806 + 80] == (b"YZWX" * 20)[:77] + bytes(3)
        assert [len(a.payload) for a in answers] == [a.length for a in answers]
        assert board.longest_burst == 16

    board.simulate(script)


def test_a_request_is_executed_once_and_answered_as_often_as_it_comes() -> None:
    board = Board()

    async def script(send, ctx, link) -> None:
        await send(HELLO)
        write = request(Operation.WRITE_REGISTER, 0, value=0x10, length=4, payload=word(1))
        first, again = await send([write, replace(write, attempt=9)], 2)
        assert replace(first, attempt=9) == again
        assert board.register_writes == [(0x10, 1)]
        read = request(Operation.READ_REGISTER, 1, value=0x10)
        (before,) = await send(read)
        board.registers[0x10] = 99
        (after,) = await send(read)
        assert before == after
        # Within the window in any order; a known one is answered whenever it comes.
        answers = await send([request(Operation.ECHO, 15), request(Operation.ECHO, 2), write], 3)
        assert [a.seq for a in answers] == [15, 2, 0]
        # Past the window, and from before it: nothing.
        dropped = [request(Operation.WRITE_REGISTER, seq, value=0x14, length=4, payload=word(5)) for seq in (19, 32, 65535, 48)]
        assert await send(dropped, 0) == []
        assert board.register_writes == [(0x10, 1)]
        (answer,) = await send(request(Operation.WRITE_REGISTER, 16, value=0x14, length=4, payload=word(5)))
        assert answer.code == Status.OK
        assert await send(write, 0) == []  # its slot has gone on

    board.simulate(script)


def test_an_ordered_request_waits_for_the_one_before() -> None:
    board = Board()

    async def script(send, ctx, link) -> None:
        await send(HELLO)
        first, second, third = (
            request(Operation.WRITE_REGISTER, seq, code=ORDERED, value=0x10, length=4, payload=word(seq)) for seq in range(3)
        )
        assert await send([second, third], 0) == []
        assert [a.seq for a in await send([first, third, second], 2)] == [0, 1]
        assert [a.seq for a in await send([third], 1)] == [2]
        assert board.register_writes == [(0x10, 0), (0x10, 1), (0x10, 2)]

    board.simulate(script)


def test_sessions() -> None:
    board = Board()

    async def script(send, ctx, link) -> None:
        (answer,) = await send(request(Operation.READ_REGISTER, 0, value=0))
        assert (answer.code, answer.value) == (Status.NO_SESSION, 0)
        (answer,) = await send(replace(HELLO, session=0))
        assert answer.code == Status.NO_SESSION
        await send(HELLO)
        write = request(Operation.WRITE_REGISTER, 0, value=0x10, length=4, payload=word(1))
        await send(write)
        await send(HELLO)  # the same session: nothing is forgotten
        await send(write)
        assert board.register_writes == [(0x10, 1)]
        await send(replace(HELLO, session=5))
        (answer,) = await send(write)
        assert (answer.code, answer.value, answer.session) == (Status.NO_SESSION, 5, SESSION)
        await send(replace(write, session=5))
        assert board.register_writes == [(0x10, 1), (0x10, 1)]

    board.simulate(script)


def bad(operation: int, **fields) -> Frame:
    return Frame(operation, 0, SESSION, **fields)


ERRORS = [
    (bad(Operation.READ_REGISTER, value=0x44), Status.SLAVE_ERROR, 0x44),
    (bad(Operation.WRITE_REGISTER, value=0x48, length=4, payload=word(0)), Status.DECODE_ERROR, 0x48),
    (bad(Operation.READ_MEMORY, value=0x3004, length=100), Status.SLAVE_ERROR, 0x3028),
    (bad(Operation.HASH_MEMORY, value=0x3000, length=5000), Status.SLAVE_ERROR, 0x3028),
    (bad(Operation.WRITE_MEMORY, value=0x3021, length=99, payload=bytes(99)), Status.SLAVE_ERROR, 0x3028),
    (bad(Operation.FILL_MEMORY, value=0x3401, length=99, payload=bytes(4)), Status.DECODE_ERROR, 0x3410),
    (bad(Operation.READ_REGISTER, value=SILENT), Status.TIMEOUT, SILENT),
    (bad(Operation.WRITE_REGISTER, value=SILENT, length=4, payload=word(0)), Status.TIMEOUT, SILENT),
    (bad(Operation.READ_MEMORY, value=SILENT, length=8), Status.TIMEOUT, SILENT),
    (bad(Operation.HASH_MEMORY, value=SILENT, length=800), Status.TIMEOUT, SILENT),
    (bad(Operation.WRITE_MEMORY, value=SILENT, length=99, payload=bytes(99)), Status.TIMEOUT, SILENT),
    (bad(Operation.FILL_MEMORY, value=SILENT, length=99, payload=bytes(4)), Status.TIMEOUT, SILENT),
    (bad(0), Status.BAD_OPERATION, 0),
    (bad(Operation.INTERRUPT), Status.BAD_OPERATION, 0),
    (bad(127, payload=bytes(9)), Status.BAD_OPERATION, 0),
    (bad(Operation.READ_MEMORY, value=0x1000, length=0), Status.BAD_LENGTH, 0),
    (bad(Operation.READ_MEMORY, value=0x1000, length=MAX_PAYLOAD + 1), Status.BAD_LENGTH, 0),
    (bad(Operation.READ_MEMORY, value=0x1000, length=1, payload=b"x"), Status.BAD_LENGTH, 0),
    (bad(Operation.WRITE_MEMORY, value=0x1000, length=3), Status.BAD_LENGTH, 0),
    (bad(Operation.WRITE_MEMORY, value=0x1000, length=0, payload=bytes(3)), Status.BAD_LENGTH, 0),
    (bad(Operation.WRITE_MEMORY, value=0x1000, length=4, payload=bytes(3)), Status.BAD_LENGTH, 0),
    (bad(Operation.WRITE_REGISTER, value=0, length=4, payload=bytes(3)), Status.BAD_LENGTH, 0),
    (bad(Operation.WRITE_REGISTER, value=0), Status.BAD_LENGTH, 0),
    (bad(Operation.FILL_MEMORY, value=0x1000, length=0, payload=bytes(4)), Status.BAD_LENGTH, 0),
    (bad(Operation.FILL_MEMORY, value=0x1000, length=9, payload=bytes(5)), Status.BAD_LENGTH, 0),
    (bad(Operation.HASH_MEMORY, value=0x1000, length=0), Status.BAD_LENGTH, 0),
    (bad(Operation.ECHO, length=0, payload=b"x"), Status.BAD_LENGTH, 0),
    (bad(Operation.ECHO, length=4), Status.BAD_LENGTH, 0),
]


def test_each_error_is_told_and_the_next_request_works() -> None:
    board = Board(errors={0x44: 2, 0x48: 3, 0x3028: 2, 0x3410: 3})
    board.memory[0x2000:0x2100] = bytes(range(256))

    async def script(send, ctx, link) -> None:
        await send(HELLO)
        numbers = itertools.count()
        for fault, status, value in ERRORS:
            fault = replace(fault, seq=next(numbers))
            first, again = await send([fault, fault], 2)
            assert (first.code, first.value, first.seq, first.payload) == (status, value, fault.seq, b""), fault
            assert first == again or fault.operation == Operation.READ_MEMORY
            if status == Status.TIMEOUT:
                await send(b"", 0)  # what was late comes
            board.memory[0x1801:0x1804] = bytes(3)
            then = [
                request(Operation.WRITE_MEMORY, next(numbers), value=0x1801, length=3, payload=b"xyz"),
                request(Operation.HASH_MEMORY, next(numbers), value=0x2005, length=20),
            ]
            written, hashed = await send(then, 2)
            assert (written.code, hashed.code) == (Status.OK, Status.OK), fault
            assert board.memory[0x1800:0x1805] == b"\0xyz\0", fault
            assert hashed.value == zlib.crc32(bytes(range(5, 25))), fault

    board.simulate(script)


def test_garbage_between_frames_costs_at_most_the_frames_that_it_touches() -> None:
    board, draw = Board(), random.Random(3)

    async def script(send, ctx, link) -> None:
        await send(HELLO)
        echoes = [request(Operation.ECHO, seq, length=9, payload=draw.randbytes(9)).encode() for seq in range(12)]
        junk = b"".join(echo + bytes([0]) * (i % 3) + draw.randbytes(draw.randrange(1, 30)) + b"\0" for i, echo in enumerate(echoes))
        assert [a.seq for a in await send(junk, 12)] == list(range(12))
        # A host that is killed in the middle of a frame; the next one begins with a delimiter.
        half = request(Operation.WRITE_MEMORY, 12, value=0x1000, length=400, payload=bytes(400)).encode()[:200]
        (answer,) = await send(half + b"\0" + replace(HELLO, session=9).encode())
        assert (answer.operation, answer.session) == (Operation.HELLO, 9)
        assert answer.value == 13  # damaged frames: those told apart from frames of no bytes

    board.simulate(script)


def test_an_interrupt_is_a_frame_of_its_own() -> None:
    board = Board()

    async def script(send, ctx, link) -> None:
        ctx.set(link.irq, 1)
        await ctx.tick().repeat(50)
        ctx.set(link.irq, 0)
        answers = await send(HELLO, 2)  # not before there is a session
        assert [(a.operation, a.value, a.session) for a in answers] == [(Operation.HELLO, 0, SESSION), (Operation.INTERRUPT, 1, SESSION)]
        board.received.clear()
        ctx.set(link.irq, 1)
        (echo, told) = await send(request(Operation.ECHO, 0), 2)
        if echo.operation == Operation.INTERRUPT:
            echo, told = told, echo
        assert (echo.seq, told.operation, told.value, told.length) == (0, Operation.INTERRUPT, 2, 0)
        assert await send(b"\0", 0) == []  # a level that stays is told once

    board.simulate(script)
