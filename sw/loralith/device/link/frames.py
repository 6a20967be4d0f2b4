"""Frames as bytes: header, payload and CRC, with the delimiter coded out of them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

from loralith.spec.link import CRC_BYTES, DELIMITER, FRAME_BYTES, HEADER, MIN_FRAME_BYTES

__all__ = ["Frame", "FrameReader", "cobs_decode", "cobs_encode"]

LONGEST = 254
"""Bytes without a zero that one code covers."""


def cobs_encode(data: bytes) -> bytes:
    """``data`` without zeros: each run of other bytes after a code, its length plus 1; a zero follows the run unless it has 254 bytes."""
    coded = bytearray()
    for run in data.split(b"\0"):
        while len(run) >= LONGEST:
            coded += b"\xff" + run[:LONGEST]
            run = run[LONGEST:]
        coded += bytes([len(run) + 1]) + run
    return bytes(coded)


def cobs_decode(coded: bytes) -> bytes | None:
    """What `cobs_encode` had; None for bytes that are no such code."""
    data = bytearray()
    at, zero = 0, False
    while at < len(coded):
        code = coded[at]
        if code == 0 or at + code > len(coded):
            return None
        data += (b"\0" if zero else b"") + coded[at + 1 : at + code]
        at, zero = at + code, code != LONGEST + 1
    return bytes(data)


@dataclass(frozen=True)
class Frame:
    """A frame's header, see `loralith.spec.link.HEADER`, and its payload."""

    operation: int
    seq: int = 0
    session: int = 0
    code: int = 0
    attempt: int = 0
    length: int = 0
    value: int = 0
    payload: bytes = b""
    response: bool = False

    def encode(self) -> bytes:
        """The bytes on the wire, the delimiter at their end."""
        names = ("operation", "response", "code", "attempt", "seq", "session", "length", "value")
        content = HEADER.pack({name: int(getattr(self, name)) for name in names}) + self.payload
        crc = zlib.crc32(content).to_bytes(CRC_BYTES, "little")
        return cobs_encode(content + crc) + bytes([DELIMITER])

    @classmethod
    def decode(cls, coded: bytes) -> Frame | None:
        """The frame of the bytes before a delimiter; None where they are none, or have been damaged."""
        content = cobs_decode(coded)
        if content is None or not MIN_FRAME_BYTES <= len(content) <= FRAME_BYTES:
            return None
        if zlib.crc32(content[:-CRC_BYTES]).to_bytes(CRC_BYTES, "little") != content[-CRC_BYTES:]:
            return None
        header = HEADER.unpack(content[: HEADER.size])
        response = bool(header.pop("response"))
        return cls(**header, response=response, payload=content[HEADER.size : -CRC_BYTES])


@dataclass
class FrameReader:
    """Finds frames in what comes off the line, in pieces of any size.

    Attributes:
        damaged: stretches between delimiters that were no frame.
        strange: the first bytes of the last such stretch, for messages.
    """

    damaged: int = 0
    strange: bytes = b""
    _rest: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes."""
        self._rest += data
        *pieces, rest = self._rest.split(bytes([DELIMITER]))
        frames = []
        for piece in pieces:
            if not piece:
                continue
            frame = Frame.decode(bytes(piece))
            if frame is None:
                self.damaged, self.strange = self.damaged + 1, bytes(piece[:16])
            else:
                frames.append(frame)
        if len(rest) > 2 * FRAME_BYTES:  # no frame is so long
            self.damaged, self.strange, rest = self.damaged + 1, bytes(rest[:16]), rest[-1:]
        self._rest = bytearray(rest)
        return frames
