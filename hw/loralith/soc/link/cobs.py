"""The delimiter coded out of a frame and back: consistent overhead byte stuffing, at most one byte more per 254."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from loralith.spec.link import DELIMITER

from .uart import LineByte

__all__ = ["CobsDecoder", "CobsEncoder", "DecodedByte", "FrameByte"]

LONGEST = 255
"""The code of a block of 254 bytes, after which there is no zero."""
BUFFER_BYTES = 2048


class FrameByte(data.Struct):
    """A byte of a frame; ``last``: its last one."""

    byte: 8
    last: 1


class DecodedByte(data.Struct):
    """A byte of a frame, or with ``end`` its end in place of one; ``damaged``, then: the frame is not whole."""

    byte: 8
    end: 1
    damaged: 1


class CobsDecoder(wiring.Component):
    """Decodes bytes as they arrive. A delimiter always ends the frame, so that the decoder resynchronizes after any error.

    Members:
        i: bytes from the line.
        o: decoded ones, in the same cycle. A pair of delimiters gives a frame of no bytes.
    """

    i: In(stream.Signature(LineByte, always_ready=True))
    o: Out(stream.Signature(DecodedByte, always_ready=True))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        remaining = Signal(8)  # bytes of the block that are still to come
        zero = Signal()  # a zero belongs between this block and the next
        broken = Signal()
        byte = self.i.payload.byte
        m.d.comb += [
            self.o.payload.byte.eq(Mux(remaining == 0, 0, byte)),
            self.o.payload.end.eq(byte == DELIMITER),
            self.o.payload.damaged.eq(broken | self.i.payload.broken | (remaining != 0)),
        ]
        with m.If(self.i.valid):
            m.d.sync += broken.eq(broken | self.i.payload.broken)
            with m.If(byte == DELIMITER):
                m.d.comb += self.o.valid.eq(1)
                m.d.sync += [remaining.eq(0), zero.eq(0), broken.eq(0)]
            with m.Elif(remaining == 0):
                m.d.comb += self.o.valid.eq(zero)
                m.d.sync += [remaining.eq(byte - 1), zero.eq(byte != LONGEST)]
            with m.Else():
                m.d.comb += self.o.valid.eq(1)
                m.d.sync += remaining.eq(remaining - 1)
        return m


class CobsEncoder(wiring.Component):
    """Encodes frames and puts the delimiter after each.

    A block's code comes before the block, and is known after it: the block waits in a memory, where the code is filled in.

    Members:
        i: frames.
        o: coded bytes. A block is sent once it is complete.
    """

    i: In(stream.Signature(FrameByte))
    o: Out(stream.Signature(8))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=8, depth=BUFFER_BYTES, init=[], attrs={"ram_style": "block", "no_rw_check": "1"})
        store, fetch = memory.write_port(), memory.read_port(transparent_for=())
        code_address = Signal(range(BUFFER_BYTES))  # where the open block's code goes: all before it may be sent
        write = Signal(range(BUFFER_BYTES), init=1)
        read = Signal(range(BUFFER_BYTES))
        code = Signal(8, init=1)  # the code, were the block to end here
        last = Signal()
        free = Signal(range(BUFFER_BYTES))
        not_full = Signal()
        # A byte may take four: itself, the codes of two blocks and the delimiter.
        m.d.comb += [free.eq(read - write), not_full.eq(free[3:].any()), store.addr.eq(write)]

        with m.FSM():
            with m.State("bytes"):
                zero = self.i.payload.byte == 0
                m.d.comb += [
                    self.i.ready.eq(not_full),
                    store.data.eq(self.i.payload.byte),
                    store.en.eq(self.i.valid & not_full & ~zero),
                ]
                with m.If(self.i.valid & not_full):
                    m.d.sync += last.eq(self.i.payload.last)
                    with m.If(~zero):
                        m.d.sync += [write.eq(write + 1), code.eq(code + 1)]
                    with m.If(zero | self.i.payload.last | (code == LONGEST - 1)):
                        m.next = "code"
                        with m.If(zero & self.i.payload.last):
                            m.next = "code of a last zero"
            with m.State("code of a last zero"):
                m.d.comb += [store.addr.eq(code_address), store.data.eq(code), store.en.eq(1)]
                m.d.sync += [code_address.eq(write), write.eq(write + 1), code.eq(1)]
                m.next = "code"
            with m.State("code"):
                m.d.comb += [store.addr.eq(code_address), store.data.eq(code), store.en.eq(1)]
                with m.If(last):
                    m.next = "delimiter"
                with m.Else():
                    m.d.sync += [code_address.eq(write), write.eq(write + 1), code.eq(1)]
                    m.next = "bytes"
            with m.State("delimiter"):
                m.d.comb += [store.data.eq(DELIMITER), store.en.eq(1)]
                m.d.sync += [code_address.eq(write + 1), write.eq(write + 2), code.eq(1)]
                m.next = "bytes"

        # A byte is fetched while none is offered: the line takes far longer than that for each.
        read_valid = Signal()
        m.d.comb += [fetch.addr.eq(read), fetch.en.eq((read != code_address) & ~read_valid & ~self.o.valid)]
        m.d.sync += read_valid.eq(fetch.en)
        with m.If(fetch.en):
            m.d.sync += read.eq(read + 1)
        with m.If(read_valid):
            m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(fetch.data)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
