"""Requests that are sent until each is answered, whatever happens on the line."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from loralith.device.link.frames import Frame, FrameReader
from loralith.device.link.line_timing import AnswerTime
from loralith.device.link.link_errors import LinkError, answer_error
from loralith.device.link.port import PortGone, SerialPort
from loralith.device.link.request import ATTEMPTS, FRAME_OVERHEAD, Request, Sent, Transmission
from loralith.spec.link import (
    DELIMITER,
    FRAME_BYTES,
    IDENTITY,
    MAGIC,
    MAX_PAYLOAD,
    ORDERED,
    PROTOCOL,
    RECEIVE_BYTES,
    WINDOW,
    Operation,
    Status,
)

__all__ = ["Connection"]

IN_FLIGHT_BYTES = RECEIVE_BYTES - FRAME_BYTES
"""Of requests. What is left takes one that is sent again."""
SMALLEST, GROWS_AFTER = 32, 16
SPLITTABLE = (Operation.READ_MEMORY, Operation.WRITE_MEMORY)


class Connection:
    """A session with a board.

    Parameters: port; patience, seconds without a sign of the board after which it is taken for dead, and a pulled cable for lost.

    Attributes:
        identity: the fields of `IDENTITY`, from `begin` on.
        interrupts: frames that told of an interrupt so far.
        resent: requests that were sent again so far.
        reader: the frames' reader, which counts damaged ones.
    """

    def __init__(self, port: SerialPort, patience: float = 5.0) -> None:
        self.port, self.patience = port, patience
        self.identity: dict[str, int] = {}
        self.interrupts = self.resent = 0
        self.reader = FrameReader()
        self._session = self._seq = self._order = 0
        self._whole = False  # all slots of the board are as this side believes
        self._size, self._streak = MAX_PAYLOAD, 0
        self._time = AnswerTime(patience / 5)
        self._answered_at = 0.0
        self._bytes = 0

    # Session.

    def begin(self) -> None:
        """Begin a new session; whatever was on its way is forgotten. Raises LinkError where no board answers that speaks this protocol."""
        self._session = 1 + int.from_bytes(os.urandom(2), "little") % 0xFFFF
        hello = Frame(Operation.HELLO, int.from_bytes(os.urandom(2), "little"), self._session)
        self._seq, self._whole = 0, True
        deadline = time.monotonic() + self.patience
        attempt, received = 0, self._bytes
        while True:
            self._transmit(hello, after_pause=True)
            until = min(deadline, time.monotonic() + self._time.limit(4 * FRAME_OVERHEAD, attempt))
            while (now := time.monotonic()) < until:
                for frame in self._receive(until - now):
                    if frame.response and (frame.operation, frame.session, frame.seq) == (hello.operation, hello.session, hello.seq):
                        self._greeted(frame)
                        return
            attempt = min(attempt + 1, 4)
            if time.monotonic() >= deadline:
                raise LinkError(self._silence(self._bytes - received))

    def _greeted(self, frame: Frame) -> None:
        head = int.from_bytes(frame.payload[:4], "little"), int.from_bytes(frame.payload[4:6], "little")
        if head[0] != MAGIC:
            raise LinkError(f"what answers on {self.port.path} is no loralith: its identity begins with {frame.payload[:8].hex(' ')}")
        if head[1] != PROTOCOL or len(frame.payload) != IDENTITY.size:
            raise LinkError(
                f"the board on {self.port.path} speaks version {head[1]} of the link's protocol, this driver version {PROTOCOL}: "
                "load a bitstream of this version, or install the bitstream's version of loralith"
            )
        self.identity = IDENTITY.unpack(frame.payload)

    def _silence(self, received: int) -> str:
        if not received:
            return (
                f"no board answers on {self.port.path}: not a byte has come within {self.patience:g} s. Is it on, is a loralith bitstream "
                "loaded, and is this its port?"
            )
        return (
            f"what is on {self.port.path} is no loralith, or runs at another baud rate: {received} bytes have come that are no answer, "
            f"such as {self.reader.strange.hex(' ') or 'the request itself'}"
        )

    # Requests.

    def exchange(self, requests: Iterable[Request], take: Callable[[Request, Frame], None] | None = None) -> list[Frame]:
        """Send the requests and wait until all are answered; the answers in order of ``index``, or each to ``take`` as it comes.

        Memory requests may be split: their answers come in parts. Raises LinkError for an error answer, after those to what was sent with
        it have come, and for a board that has fallen silent.
        """
        if not self._whole:
            self.begin()
        self._whole = False
        answers: dict[int, Frame] = {}
        failed = self._drive(iter(requests), take or (lambda request, frame: answers.__setitem__(request.index, frame)))
        self._whole = True
        if failed is not None:
            raise answer_error(self.port.path, *failed)
        return [answers[index] for index in sorted(answers)]

    def _drive(self, source: Iterator[Request], take: Callable[[Request, Frame], None]) -> tuple[Request, Frame] | None:
        """The first request that failed, and its answer."""
        waiting: dict[int, Sent] = {}
        again: deque[Request] = deque()  # what is left of requests that were split
        failed: tuple[Request, Frame] | None = None
        request: Request | None = None
        self._answered_at = time.monotonic()
        while True:
            while failed is None:
                request = request or self._next(again, source)
                if request is None or not self._fits(request, waiting):
                    break
                self._send(request, self._seq, waiting, [])
                self._seq, request = (self._seq + 1) & 0xFFFF, None
            if not waiting:
                return failed
            for frame in self._receive(max(0.0, self._deadline(waiting) - time.monotonic())):
                sent = self._answered(frame, waiting)
                if sent is None:
                    continue
                order = sent.answered_by(frame).order
                if frame.code == Status.OK:
                    take(sent.request, frame)
                else:
                    failed = failed or (sent.request, frame)
                for seq in self._in_order(waiting):
                    if waiting[seq].latest.order < order:  # the line keeps order: it, or its answer, is lost
                        self._resend(seq, waiting, again)
            self._check_time(waiting, again)

    def _next(self, again: deque[Request], source: Iterator[Request]) -> Request | None:
        if not again:
            return next(source, None)
        request = again.popleft()
        if request.length > self._size:
            request, tail = request.split(self._size)
            again.appendleft(tail)
        return request

    def _fits(self, request: Request, waiting: dict[int, Sent]) -> bool:
        if not waiting:
            return True
        oldest = max((self._seq - seq) & 0xFFFF for seq in waiting)
        in_flight = sum(sent.request.sent_bytes for sent in waiting.values())
        return oldest < WINDOW and in_flight + request.sent_bytes <= IN_FLIGHT_BYTES

    def _send(self, request: Request, seq: int, waiting: dict[int, Sent], before: list[Transmission]) -> None:
        on_way = request.both_bytes + sum(sent.request.both_bytes for sent in waiting.values())
        self._order += 1
        waiting[seq] = Sent(request, [*before, Transmission(self._order, time.monotonic(), on_way)])
        code, attempt = ORDERED if request.ordered else 0, len(before) % ATTEMPTS
        frame = Frame(request.operation, seq, self._session, code, attempt, request.length, request.value, request.payload)
        self._transmit(frame, after_pause=bool(before) or len(waiting) == 1)

    def _resend(self, seq: int, waiting: dict[int, Sent], again: deque[Request]) -> None:
        """Send a request again; of a memory request perhaps only its first part.

        That is safe: where the longer one has been executed, its answer stands for the part as well.
        """
        sent = waiting.pop(seq)
        request, self._streak = sent.request, 0
        self.resent += 1
        if request.operation in SPLITTABLE:
            if request.length >= self._size:
                self._size = max(SMALLEST, self._size // 2)
            if request.length > self._size:
                request, tail = request.split(self._size)
                again.append(tail)  # of memory requests alone
        self._send(request, seq, waiting, sent.transmissions)

    def _answered(self, frame: Frame, waiting: dict[int, Sent]) -> Sent | None:
        """The request that the frame answers, no longer waiting."""
        sent = waiting.get(frame.seq)
        if not frame.response or frame.session != self._session or sent is None or frame.operation != sent.request.operation:
            return None
        if frame.code == Status.NO_SESSION:
            raise answer_error(self.port.path, sent.request, frame)
        if frame.code == Status.OK and not sent.request.accepts(frame):
            return None  # the answer to a longer request, before it was split
        del waiting[frame.seq]
        self._answered_at = time.monotonic()
        transmission = sent.answered_by(frame)
        self._time.sample(self._answered_at - transmission.at, transmission.on_way)
        if sent.request.length >= self._size:
            self._streak += 1
            if self._streak >= GROWS_AFTER:
                self._size, self._streak = min(MAX_PAYLOAD, 2 * self._size), 0
        return sent

    def _check_time(self, waiting: dict[int, Sent], again: deque[Request]) -> None:
        now = time.monotonic()
        if waiting and now - self._answered_at > self.patience:
            raise LinkError(
                f"the board on {self.port.path} has not answered for {self.patience:g} s: {len(waiting)} requests are open, {self.resent} "
                f"were sent again, {self.reader.damaged} answers were damaged; check its power and its cable, then open the device again"
            )
        if waiting and now > self._deadline(waiting):
            self._resend(self._in_order(waiting)[0], waiting, again)  # its answer tells what else is lost

    def _in_order(self, waiting: dict[int, Sent]) -> list[int]:
        return sorted(waiting, key=lambda seq: (seq - self._seq) & 0xFFFF)

    def _deadline(self, waiting: dict[int, Sent]) -> float:
        """When the first request is sent again, unless an answer comes: while answers come, one behind the other, none is late."""
        first = waiting[self._in_order(waiting)[0]]
        frame = max(sent.request.both_bytes for sent in waiting.values())
        return max(self._answered_at, first.latest.at) + self._time.limit(frame, len(first.transmissions) - 1)

    # Memory and registers.

    def chunks(self, operation: Operation, address: int, nbytes: int, data: bytes = b"") -> Iterator[Request]:
        """Requests that read or write a stretch of memory, as long as the line can take just then."""
        at = 0
        while at < nbytes:
            size = min(self._size, nbytes - at)
            yield Request(operation, address + at, size, data[at : at + size], index=at)
            at += size

    def wait_interrupt(self, before: int, seconds: float) -> bool:
        """Whether more than ``before`` interrupts have been told of, after ``seconds`` at most."""
        deadline = time.monotonic() + seconds
        while self.interrupts == before and (now := time.monotonic()) < deadline:
            self._receive(deadline - now)
        return self.interrupts != before

    # Line.

    def _transmit(self, frame: Frame, *, after_pause: bool) -> None:
        # A delimiter first, where the line may hold a part of another frame.
        data = (bytes([DELIMITER]) if after_pause else b"") + frame.encode()
        deadline = time.monotonic() + self.patience
        while data:
            try:
                data = data[self.port.write(data, max(0.0, deadline - time.monotonic())) :]
            except PortGone:
                self.port.reopen(self.patience)
                return  # as lost: it is sent again
            if data and time.monotonic() > deadline:
                raise LinkError(f"{self.port.path} has taken no byte for {self.patience:g} s: plug the board in again")

    def _receive(self, seconds: float) -> list[Frame]:
        try:
            data = self.port.read(seconds)
        except PortGone:
            self.port.reopen(self.patience)
            self._answered_at = time.monotonic()
            return []
        self._bytes += len(data)
        frames = self.reader.feed(data)
        self.interrupts += sum(f.operation == Operation.INTERRUPT and f.session == self._session for f in frames)
        return [frame for frame in frames if frame.operation != Operation.INTERRUPT]
