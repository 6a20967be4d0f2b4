"""Responses as frames: header, payload and CRC."""

from collections.abc import Mapping

from amaranth.hdl import Array, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from loralith.spec.link import CRC_BYTES, HEADER, IDENTITY

from .cobs import FrameByte
from .crc import Crc32
from .messages import Response, Source

__all__ = ["ResponseWriter", "HalfRateRegister", "CrcAppender"]


class ResponseWriter(wiring.Component):
    """Sends a response's header, then its payload from the source that the response names.

    Parameter: identity, the fields of `IDENTITY`.

    Members:
        i: responses; taken with their last byte.
        payload, memory: sources of payloads; each marks its last byte.
        o: the frame.
    """

    def __init__(self, identity: Mapping[str, int]) -> None:
        self._identity = IDENTITY.pack(identity)
        byte_stream = stream.Signature(FrameByte)
        super().__init__(
            {"i": In(stream.Signature(Response())), "payload": In(byte_stream), "memory": In(byte_stream), "o": Out(byte_stream)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = Signal(range(max(HEADER.size, IDENTITY.size)))
        source = self.i.payload.source
        out = self.o.payload
        transfer = self.o.valid & self.o.ready
        identity = Array(Const(byte, 8) for byte in self._identity)
        with m.If(transfer):
            m.d.sync += count.eq(count + 1)

        with m.FSM():
            with m.State("header"):
                last = count == HEADER.size - 1
                m.d.comb += [
                    self.o.valid.eq(self.i.valid),
                    out.byte.eq(self.i.payload.header.as_value().word_select(count, 8)),
                    out.last.eq(last & (source == Source.NONE)),
                ]
                with m.If(transfer & last):
                    m.d.sync += count.eq(0)
                    with m.If(source == Source.NONE):
                        m.d.comb += self.i.ready.eq(1)
                    with m.Else():
                        m.next = "payload"
            with m.State("payload"):
                with m.Switch(source):
                    with m.Case(Source.IDENTITY):
                        m.d.comb += [self.o.valid.eq(1), out.byte.eq(identity[count]), out.last.eq(count == IDENTITY.size - 1)]
                    with m.Case(Source.PAYLOAD):
                        m.d.comb += [self.o.valid.eq(self.payload.valid), out.eq(self.payload.payload), self.payload.ready.eq(self.o.ready)]
                    with m.Case(Source.MEMORY):
                        m.d.comb += [self.o.valid.eq(self.memory.valid), out.eq(self.memory.payload), self.memory.ready.eq(self.o.ready)]
                with m.If(transfer & out.last):
                    m.d.sync += count.eq(0)
                    m.d.comb += self.i.ready.eq(1)
                    m.next = "header"
        return m


class CrcAppender(wiring.Component):
    """Appends the CRC, low byte first, to each frame.

    Members: i, o: frames.
    """

    i: In(stream.Signature(FrameByte))
    o: Out(stream.Signature(FrameByte))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = Crc32()
        count = Signal(range(CRC_BYTES))
        m.d.comb += crc.byte.eq(self.i.payload.byte)
        with m.FSM():
            with m.State("frame"):
                m.d.comb += [
                    self.o.valid.eq(self.i.valid),
                    self.o.payload.byte.eq(self.i.payload.byte),
                    self.i.ready.eq(self.o.ready),
                    crc.en.eq(self.i.valid & self.o.ready),
                ]
                with m.If(crc.en & self.i.payload.last):
                    m.next = "crc"
            with m.State("crc"):
                last = count == CRC_BYTES - 1
                m.d.comb += [
                    self.o.valid.eq(1),
                    self.o.payload.byte.eq(~crc.register.word_select(count, 8)),
                    self.o.payload.last.eq(last),
                ]
                with m.If(self.o.ready):
                    m.d.sync += count.eq(count + 1)
                    with m.If(last):
                        m.d.comb += crc.clear.eq(1)
                        m.next = "frame"
        return m


class HalfRateRegister(wiring.Component):
    """Pipeline register for data and handshake, one byte every two cycles: a byte takes 40 cycles or more on the line.

    Members: i, o: frames.
    """

    i: In(stream.Signature(FrameByte))
    o: Out(stream.Signature(FrameByte))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.i.ready.eq(~self.o.valid)
        with m.If(self.o.valid):
            m.d.sync += self.o.valid.eq(~self.o.ready)
        with m.Else():
            m.d.sync += [self.o.valid.eq(self.i.valid), self.o.payload.eq(self.i.payload)]
        return m
