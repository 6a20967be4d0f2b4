"""Structures between the blocks of the link: headers, parsed requests, responses, and the control of a unit that uses a bus."""

from __future__ import annotations

from amaranth.hdl import Mux, Value, unsigned
from amaranth.lib import data, enum
from amaranth.lib.wiring import In, Out, Signature

from loralith.spec.link import HEADER, Status

__all__ = ["Response", "Header", "Request", "Source", "OperationControl", "Verdict", "bus_status"]


class Header(data.FlexibleLayout):
    """`HEADER` of the frame's declaration."""

    def __init__(self) -> None:
        super().__init__(8 * HEADER.size, {f.name: data.Field(unsigned(f.width), f.offset) for f in HEADER.fields.values()})


class Request(data.StructLayout):
    """A request's header; ``bare``: there is no payload."""

    def __init__(self) -> None:
        super().__init__({"header": Header(), "bare": 1})


class Source(enum.Enum, shape=2):
    """Where a response's payload comes from."""

    NONE = 0
    IDENTITY = 1
    PAYLOAD = 2
    MEMORY = 3


class Response(data.StructLayout):
    """A response's header, and where its payload comes from."""

    def __init__(self) -> None:
        super().__init__({"header": Header(), "source": Source})


class Verdict(enum.Enum, shape=3):
    """What to do with a request."""

    DROP = 0
    """Discard it: its predecessor has not been executed, or it is older than the window."""
    EXECUTE = 1
    REPEAT = 2
    """It has been executed: send the stored response again."""
    REFUSE = 3
    """It is not of this session."""
    BEGIN = 4
    """Begin its session."""
    HELLO_AGAIN = 5
    """A HELLO of the present session again: respond, change nothing."""


OperationControl = Signature(
    {
        "start": Out(1),  # one cycle, only while ready
        "abandon": Out(1),  # one cycle: the executor has given up; a later response of the bus is dropped
        "ready": In(1),
        "progress": In(1),  # restarts the time-out
        "done": In(1),  # one cycle
        "status": In(8),  # from done on, as is value
        "value": In(32),
    }
)
"""The executor's view of a unit."""


def bus_status(response: Value) -> Value:
    """Status of an AXI response, by its two bits."""
    return Mux(response[1], Mux(response[0], Status.DECODE_ERROR, Status.SLAVE_ERROR), Status.OK)
