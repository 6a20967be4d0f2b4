"""Requests out of frames: the header at once, the payload byte by byte."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.link import HEADER

from .cobs import FrameByte
from .messages import Request

__all__ = ["RequestParser"]


class RequestParser(wiring.Component):
    """Splits frames, which are never shorter than a header.

    Members:
        i: frames.
        request: the header of each.
        payload: the bytes after it, once the request has been taken; of a bare request there are none. They must be taken to the last.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "i": In(stream.Signature(FrameByte)),
                "request": Out(stream.Signature(Request())),
                "payload": Out(stream.Signature(FrameByte)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        header = Signal(8 * HEADER.size)
        count = Signal(range(HEADER.size))
        entry = self.i.payload
        m.d.comb += [
            self.request.payload.header.eq(header),
            self.payload.payload.eq(entry),
        ]
        with m.FSM():
            with m.State("header"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += [header.eq(Cat(header[8:], entry.byte)), count.eq(count + 1)]
                    with m.If(count == HEADER.size - 1):
                        m.d.sync += [count.eq(0), self.request.payload.bare.eq(entry.last)]
                        m.next = "request"
            with m.State("request"):
                m.d.comb += self.request.valid.eq(1)
                with m.If(self.request.ready):
                    m.next = "payload"
                    with m.If(self.request.payload.bare):
                        m.next = "header"
            with m.State("payload"):
                m.d.comb += [self.payload.valid.eq(self.i.valid), self.i.ready.eq(self.payload.ready)]
                with m.If(self.i.valid & self.i.ready & entry.last):
                    m.next = "header"
        return m
