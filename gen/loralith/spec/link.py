"""The serial link between a host and a board: frame layout, operations, status codes and sizes. docs/link.md explains them."""

from __future__ import annotations

from enum import IntEnum

from .fields import Field, Record

__all__ = [
    "ACCELERATOR_BASE",
    "CRC_BYTES",
    "CRC_RESIDUE",
    "DELIMITER",
    "FRAME_BYTES",
    "HEADER",
    "IDENTITY",
    "MAGIC",
    "MAX_PAYLOAD",
    "MAX_SPAN",
    "MIN_FRAME_BYTES",
    "OPERAND_BYTES",
    "ORDERED",
    "PROTOCOL",
    "RECEIVE_BYTES",
    "REGISTER_ADDRESS_BITS",
    "SOC_BASE",
    "WINDOW",
    "Operation",
    "Status",
    "divider",
]

PROTOCOL = 1
"""Version of everything on this page. HELLO, and the first two words of its response, are the same in every version."""
MAGIC = 0x4B4E494C
"""'LINK' in ASCII: the first word of the identity."""
DELIMITER = 0
"""The byte that ends a frame and occurs nowhere in it."""
MAX_PAYLOAD = 512
"""Bytes of payload in a frame at most."""
MAX_SPAN = 0xFFFF
"""Bytes that one FILL_MEMORY or HASH_MEMORY covers at most."""
OPERAND_BYTES = 4
"""Payload of WRITE_REGISTER and FILL_MEMORY: one word, little endian."""
WINDOW = 16
"""Requests that a host may have sent without having the response. A power of two: a request takes slot `seq % WINDOW` of the board."""
RECEIVE_BYTES = 4096
"""Bytes of requests (headers and payloads) that the board holds until it has executed them."""
CRC_BYTES = 4
CRC_RESIDUE = 0xDEBB20E3
"""The CRC register after a frame and its CRC, before the final inversion."""
ORDERED = 1
"""Bit of a request's `code`: drop it unless the request before it has been executed."""
REGISTER_ADDRESS_BITS = 16
"""Width of the AXI4-Lite port's addresses."""
ACCELERATOR_BASE = 0x0000
"""The accelerator's registers on the AXI4-Lite port."""
SOC_BASE = 0x8000
"""The system's own registers on the AXI4-Lite port."""


class Operation(IntEnum):
    """What a request asks for. A response has the operation of its request."""

    HELLO = 1
    """Begin the session named in the header, and answer with the identity. All slots are empty then. `seq` is any number; the same session
    and `seq` once more give only the response. `value` of the response: damaged frames that the board has received so far."""
    ECHO = 2
    """Answer with the request's payload."""
    READ_REGISTER = 3
    """Answer `value` is the 32-bit register at address `value`."""
    WRITE_REGISTER = 4
    """Write the payload's word to the register at address `value`."""
    READ_MEMORY = 5
    """Answer with `length` bytes of memory from address `value` on, 1 to 512."""
    WRITE_MEMORY = 6
    """Write the payload to memory from address `value` on; `length` is its size, 1 to 512."""
    FILL_MEMORY = 7
    """Write `length` bytes (1 to 65535) from address `value` on; the byte at address a is byte a % 4 of the payload's word."""
    HASH_MEMORY = 8
    """Answer `value` is the CRC-32 of the `length` bytes (1 to 65535) from address `value` on."""
    INTERRUPT = 9
    """Sent by the board, unasked, when the accelerator's irq rises; `value` counts them. It may be lost: a host also polls."""


class Status(IntEnum):
    """`code` of a response."""

    OK = 0
    """Done."""
    BAD_OPERATION = 1
    """No such operation, or one that only the board sends. Nothing was done."""
    BAD_LENGTH = 2
    """The payload is not as long as the operation and `length` say. Only a WRITE_MEMORY has written what there was."""
    NO_SESSION = 3
    """The header's session is not the board's, which is `value`; 0: the board has been reset or configured anew. Nothing was done."""
    SLAVE_ERROR = 4
    """The bus answered SLVERR; `value` is the address of the bus word. A memory operation stopped there."""
    DECODE_ERROR = 5
    """The bus answered DECERR: nothing lies at that address; as for SLAVE_ERROR."""
    TIMEOUT = 6
    """The bus did not answer within the board's limit; `value` is the request's address."""


HEADER = Record(
    "HEADER",
    12,
    (
        Field("operation", 0, 0, 7, "see the operations"),
        Field("response", 0, 7, 1, "0: request of the host, 1: response of the board"),
        Field("code", 0, 8, 4, "request: bit 0 is ORDERED, the others are ignored; response: status"),
        Field(
            "attempt", 0, 12, 4, "how often the host had sent the request before, modulo 16; a response has that of the request it is to"
        ),
        Field("seq", 0, 16, 16, "number of the request, counted within the session; a response has its request's"),
        Field("session", 1, 0, 16, "number that the host chose for the session, never 0; a response has its request's"),
        Field("length", 1, 16, 16, "bytes that the operation covers; response: bytes of payload"),
        Field("value", 2, 0, 32, "request: address; response: result, or the address of an error"),
    ),
    "The first bytes of every frame.",
)

MIN_FRAME_BYTES = HEADER.size + CRC_BYTES
FRAME_BYTES = HEADER.size + MAX_PAYLOAD + CRC_BYTES
"""A frame at least and at most, before the delimiter is coded out of it."""

IDENTITY = Record(
    "IDENTITY",
    32,
    (
        Field("magic", 0, 0, 32, "'LINK' in ASCII"),
        Field("protocol", 1, 0, 16, "version of the protocol"),
        Field("bus_bytes", 1, 16, 16, "bytes of a word of memory"),
        Field("config_hash", 2, 0, 32, "hash of the accelerator's configuration, as its register CONFIG_HASH"),
        Field("clock_hz", 3, 0, 32, "clock of link and accelerator"),
        Field("memory_base", 4, 0, 64, "first byte of memory"),
        Field("memory_bytes", 6, 0, 64, "size of memory"),
    ),
    "Payload of the response to HELLO.",
)


def divider(clock_hz: float, baud: float) -> int:
    """Clock cycles per bit. Raises ValueError where the nearest whole number is more than 2 % off, or below 4."""
    cycles = round(clock_hz / baud)
    if cycles < 4 or abs(clock_hz / cycles / baud - 1) > 0.02:
        raise ValueError(f"{baud:g} baud cannot be made of a clock of {clock_hz:g} Hz: it must be 4 cycles a bit or more, within 2 %")
    return cycles
