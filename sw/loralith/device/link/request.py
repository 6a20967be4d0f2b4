"""Requests, and what a host remembers of those that it has sent."""

from __future__ import annotations

from dataclasses import dataclass, replace

from loralith.device.link.frames import Frame
from loralith.spec.link import FRAME_BYTES, HEADER, MAX_PAYLOAD, Operation

__all__ = ["ATTEMPTS", "FRAME_OVERHEAD", "Request", "Sent", "Transmission"]

ATTEMPTS = 1 << HEADER.fields["attempt"].width
FRAME_OVERHEAD = FRAME_BYTES - MAX_PAYLOAD + 4  # header, CRC, delimiter and what takes its place


@dataclass(frozen=True)
class Request:
    """What a frame asks for; see `loralith.spec.link`. ``index``: for whoever gets the answer."""

    operation: Operation
    value: int = 0
    length: int = 0
    payload: bytes = b""
    ordered: bool = False
    index: int = 0

    def split(self, size: int) -> tuple[Request, Request]:
        """The first ``size`` bytes, and the others."""
        head = replace(self, length=size, payload=self.payload[:size])
        tail = replace(self, value=self.value + size, length=self.length - size, payload=self.payload[size:], index=self.index + size)
        return head, tail

    @property
    def sent_bytes(self) -> int:
        """What it takes of the board's buffer."""
        return HEADER.size + len(self.payload)

    @property
    def both_bytes(self) -> int:
        """Of the request and its answer on the line, about."""
        answer = self.length if self.operation in (Operation.READ_MEMORY, Operation.ECHO) else 0
        return 2 * FRAME_OVERHEAD + len(self.payload) + answer

    def accepts(self, frame: Frame) -> bool:
        """Whether an answer without error has the payload that it must have."""
        expected = self.length if self.operation in (Operation.READ_MEMORY, Operation.ECHO) else 0
        return len(frame.payload) == frame.length == expected


@dataclass(frozen=True)
class Transmission:
    """One sending of a request.

    Attributes: order: its number among all that were sent. at: when, by the monotonic clock. on_way: bytes of open requests and of their
    answers then, its own included.
    """

    order: int
    at: float
    on_way: int


@dataclass
class Sent:
    """A request that is not answered yet; if it was split, its first part, as it was sent last."""

    request: Request
    transmissions: list[Transmission]

    @property
    def latest(self) -> Transmission:
        return self.transmissions[-1]

    def answered_by(self, frame: Frame) -> Transmission:
        """The latest one that the frame can be the answer to."""
        attempts = [n for n in range(len(self.transmissions)) if n % ATTEMPTS == frame.attempt]
        return self.transmissions[attempts[-1] if attempts else 0]
