"""Registers and memory of a board over its link, before anything is known of the accelerator behind it."""

from __future__ import annotations

import zlib

from loralith.device.link.connection import Connection
from loralith.device.link.port import SerialPort
from loralith.device.link.request import Request
from loralith.spec.link import MAX_SPAN, Operation

__all__ = ["SPAN", "RawLink"]

SPAN = MAX_SPAN + 1 - 4096
"""Bytes of a fill or a hash at most: a multiple of every bus word."""


class RawLink:
    """A session with a board of which nothing but the link has to work.

    Parameters: port, see `SerialPort`; patience, see `Connection`. All calls raise DeviceError (LinkError for an answer with an error).
    """

    def __init__(self, path: str, baud: int, patience: float) -> None:
        self.path = path
        self.port = SerialPort(path, baud)
        self.link = Connection(self.port, patience)

    def begin(self) -> dict[str, int]:
        """Begin the session; returns the fields of `IDENTITY`."""
        self.link.begin()
        return self.link.identity

    def echo(self, payload: bytes) -> bytes:
        """What the board sends back."""
        return self.link.exchange([Request(Operation.ECHO, 0, len(payload), payload)])[0].payload

    def read_register(self, address: int) -> int:
        return self.link.exchange([Request(Operation.READ_REGISTER, address, ordered=True)])[0].value

    def write_register(self, address: int, value: int) -> None:
        word = (value & 0xFFFF_FFFF).to_bytes(4, "little")
        self.link.exchange([Request(Operation.WRITE_REGISTER, address, 4, word, ordered=True)])

    def write(self, address: int, data: bytes) -> None:
        self.link.exchange(self.link.chunks(Operation.WRITE_MEMORY, address, len(data), data))

    def read(self, address: int, nbytes: int) -> bytes:
        data = bytearray(nbytes)

        def take(request: Request, frame) -> None:
            data[request.index : request.index + request.length] = frame.payload

        self.link.exchange(self.link.chunks(Operation.READ_MEMORY, address, nbytes), take)
        return bytes(data)

    def fill(self, address: int, nbytes: int, pattern: int) -> None:
        """A 32-bit pattern on at most `SPAN` bytes from a multiple of 4 on."""
        self.link.exchange([Request(Operation.FILL_MEMORY, address, nbytes, pattern.to_bytes(4, "little"))])

    def holds(self, address: int, data: bytes) -> bool:
        """Whether at most `SPAN` bytes from ``address`` on are ``data``, by their CRC-32, which the board computes."""
        answer = self.link.exchange([Request(Operation.HASH_MEMORY, address, len(data))])[0]
        return answer.value == zlib.crc32(data)

    def close(self) -> None:
        self.port.close()
