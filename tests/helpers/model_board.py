"""A board that answers by docs/link.md, in Python, behind a pseudo terminal; and one with an accelerator and defects."""

from __future__ import annotations

import os
import select
import threading
import time
import tty
import zlib
from collections.abc import Callable
from dataclasses import replace

from loralith.device.link.frames import Frame, FrameReader
from loralith.device.reference import ReferenceDevice
from loralith.spec.config import PRESETS
from loralith.spec.link import IDENTITY, MAGIC, ORDERED, PROTOCOL, SOC_BASE, WINDOW, Operation, Status
from loralith.spec.registers import ID, REGISTERS
from loralith.spec.soc import SOC_ID, SOC_REGISTERS
from loralith.spec.version import VERSION

CONFIG = PRESETS["tiny"]
BASE, SIZE = 0x1000, 1 << 16


class Terminal:
    """A pseudo terminal with a thread at its other end, which calls `receive` with what comes and sends what that returns."""

    def __init__(self, receive: Callable[[bytes], bytes]) -> None:
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        self.path = os.ttyname(self.slave)
        self._receive, self._ended = receive, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            if select.select([self.master], [], [], 0.02)[0]:
                answer = self._receive(os.read(self.master, 4096))
                while answer:
                    answer = answer[os.write(self.master, answer) :]

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        os.close(self.master)
        os.close(self.slave)


class ModelBoard:
    """A board by docs/link.md: sessions, slots, registers and memory. `lose`: whether a frame, request or answer, gets lost."""

    def __init__(self, lose: Callable[[Frame], bool] = lambda frame: False) -> None:
        self.lose = lose
        self.identity = {"magic": MAGIC, "protocol": PROTOCOL, "bus_bytes": 8, "config_hash": CONFIG.hash, "clock_hz": 100_000_000}
        self.identity |= {"memory_base": BASE, "memory_bytes": SIZE}
        self.registers = {REGISTERS["ID"].offset: ID, REGISTERS["CONFIG_HASH"].offset: CONFIG.hash}
        self.registers[REGISTERS["VERSION"].offset] = VERSION[0] << 16 | VERSION[1] << 8 | VERSION[2]
        self.memory = bytearray(SIZE)
        self.executed: list[Frame] = []
        self.errors: dict[int, Status] = {}
        self.session, self.hello = 0, 0
        self.slots: dict[int, tuple[int, Frame]] = {}
        self.reader = FrameReader()
        self.longest_window = 0

    def receive(self, data: bytes) -> bytes:
        requests = [frame for frame in self.reader.feed(data) if not self.lose(frame)]
        answers = [answer for request in requests if (answer := self.answer(request)) is not None]
        return b"".join(answer.encode() for answer in answers if not self.lose(answer))

    def answer(self, request: Frame) -> Frame | None:
        def told(code: Status = Status.OK, value: int = 0, payload: bytes = b"") -> Frame:
            return Frame(
                request.operation, request.seq, request.session, code, request.attempt, len(payload), value, payload, response=True
            )

        if request.operation == Operation.HELLO:
            if (request.session, request.seq) != (self.session, self.hello):
                self.session, self.hello, self.slots = request.session, request.seq, {}
            return told(payload=IDENTITY.pack(self.identity))
        if request.session != self.session:
            return told(Status.NO_SESSION, self.session)
        number, known = self.slots.get(request.seq % WINDOW, (request.seq % WINDOW - WINDOW, None))
        again = known is not None and number == request.seq
        if again and request.operation != Operation.READ_MEMORY:
            return replace(known, attempt=request.attempt)
        before = self.slots.get((request.seq - 1) % WINDOW, (-1, None))[0]
        if not again and ((number + WINDOW) & 0xFFFF != request.seq or (request.code & ORDERED and before != request.seq - 1)):
            return None
        self.executed.append(request)
        answer = self.execute(request, told)
        self.slots[request.seq % WINDOW] = (request.seq, answer)
        return answer

    def execute(self, request: Frame, told: Callable[..., Frame]) -> Frame:
        at = request.value - BASE
        if request.value in self.errors:
            return told(self.errors[request.value], request.value)
        if request.operation == Operation.READ_REGISTER:
            return told(value=self.registers.get(request.value, 0))
        if request.operation == Operation.WRITE_REGISTER:
            self.registers[request.value] = int.from_bytes(request.payload, "little")
        elif request.operation == Operation.READ_MEMORY:
            return told(payload=bytes(self.memory[at : at + request.length]))
        elif request.operation == Operation.WRITE_MEMORY:
            self.memory[at : at + request.length] = request.payload
        elif request.operation == Operation.HASH_MEMORY:
            return told(value=zlib.crc32(self.memory[at : at + request.length]))
        elif request.operation == Operation.FILL_MEMORY:
            self.memory[at : at + request.length] = bytes(
                request.payload[a % 4] for a in range(request.value, request.value + request.length)
            )
        return told()


SOC = {register.name: SOC_BASE + register.offset for register in SOC_REGISTERS}


class WorkingBoard(ModelBoard):
    """With the system's registers and an accelerator, the reference device, whose lists end at once.

    ``address_of``: where an access to an offset of memory goes, for address lines with defects. ``data_of``: what comes of a 16-bit word
    that is written. ``list_defect``: what becomes of memory after a list. ``hz``: of the cycle counter.
    """

    def __init__(self) -> None:
        super().__init__()
        self.base, self.size = 0x4000_0000, 1 << 20
        self.identity |= {"memory_base": self.base, "memory_bytes": self.size, "clock_hz": 80_000_000}
        self.registers |= {SOC["ID"]: SOC_ID, SOC["STATUS"]: 1, SOC["CYCLES"]: 0}
        self.memory = bytearray(self.size)
        self.address_of: Callable[[int], int] = lambda offset: offset
        self.data_of: Callable[[int], int] = lambda word: word
        self.list_defect: Callable[[bytearray], None] = lambda memory: None
        self.hz = 80_000_000.0

    def _at(self, at: int) -> int:
        """Of a byte's offset: the word's place, and which of its two bytes."""
        return self.address_of(at & ~1) | (at & 1)

    def execute(self, request: Frame, told: Callable[..., Frame]) -> Frame:
        operation, at = request.operation, request.value - self.base
        if operation == Operation.READ_REGISTER and request.value == SOC["CYCLES"]:
            self.registers[SOC["CYCLES"]] = int(self.hz * time.monotonic()) & 0xFFFF_FFFF
        if operation in (Operation.READ_REGISTER, Operation.WRITE_REGISTER, Operation.ECHO) or request.value in self.errors:
            if operation == Operation.ECHO:
                return told(payload=request.payload)
            answer = super().execute(request, told)
            if operation == Operation.WRITE_REGISTER and request.value == REGISTERS["CONTROL"].offset and request.payload[0] & 1:
                self._list()
            return answer
        places = range(at, at + request.length)
        if operation == Operation.WRITE_MEMORY:
            for offset, byte in zip(places, request.payload, strict=True):
                self._put(offset, byte)
            return told()
        if operation == Operation.FILL_MEMORY:
            for offset in places:
                self._put(offset, request.payload[offset % 4])
            return told()
        data = bytes(self.memory[self._at(offset)] for offset in places)
        return told(payload=data) if operation == Operation.READ_MEMORY else told(value=zlib.crc32(data))

    def _put(self, offset: int, byte: int) -> None:
        word = self.data_of(byte << 8 * (offset & 1))
        self.memory[self._at(offset)] = word >> 8 * (offset & 1) & 0xFF

    def _list(self) -> None:
        registers = {name: self.registers.get(REGISTERS[name].offset, 0) for name in ("LIST_BASE", "LIST_LENGTH")}
        with ReferenceDevice(CONFIG, self.size, self.base) as device:
            device.write(self.base, bytes(self.memory))
            device.run_at(registers["LIST_BASE"], registers["LIST_LENGTH"])
            self.memory[:] = device.read(self.base, self.size).tobytes()
        self.list_defect(self.memory)
