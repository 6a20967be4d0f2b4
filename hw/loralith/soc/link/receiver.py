"""Frames from decoded bytes: length and CRC are checked, and bad frames are dropped."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from loralith.spec.link import CRC_BYTES, CRC_RESIDUE, FRAME_BYTES, MIN_FRAME_BYTES, RECEIVE_BYTES

from .cobs import DecodedByte, FrameByte
from .crc import Crc32

__all__ = ["CheckedByte", "FrameBuffer", "FrameCheck"]


class CheckedByte(data.Struct):
    """A byte of a frame without its CRC. ``last``: the frame ends here; ``good``, then: all its bytes are what was sent."""

    byte: 8
    last: 1
    good: 1


class FrameCheck(wiring.Component):
    """Strips the CRC from a frame; at the frame's end it reports whether CRC and length are right.

    Members:
        i: decoded bytes.
        o: the bytes before the CRC, delayed by its length. Bytes of a bad frame are undefined.
        damaged: bad frames so far, empty ones not counted; saturates.
    """

    i: In(stream.Signature(DecodedByte, always_ready=True))
    o: Out(stream.Signature(CheckedByte, always_ready=True))
    damaged: Out(16)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = Crc32()
        shift_register = Signal(8 * (CRC_BYTES + 1))
        count = Signal(range(FRAME_BYTES + 2))
        byte, ends = self.i.payload.byte, self.i.payload.end
        length_ok = (count >= MIN_FRAME_BYTES) & (count <= FRAME_BYTES) & ~self.i.payload.damaged
        m.d.comb += [
            crc.byte.eq(byte),
            crc.en.eq(self.i.valid & ~ends),
            crc.clear.eq(self.i.valid & ends),
            self.o.payload.byte.eq(shift_register[:8]),
            self.o.payload.last.eq(ends),
            self.o.payload.good.eq(length_ok & (crc.register == CRC_RESIDUE)),
            self.o.valid.eq(self.i.valid & (ends | (count > CRC_BYTES))),
        ]
        with m.If(self.i.valid & ends):
            m.d.sync += count.eq(0)
            with m.If(~self.o.payload.good & (count != 0) & ~self.damaged.all()):
                m.d.sync += self.damaged.eq(self.damaged + 1)
        with m.Elif(self.i.valid):
            m.d.sync += shift_register.eq(Cat(shift_register[8:], byte))
            with m.If(count != FRAME_BYTES + 1):
                m.d.sync += count.eq(count + 1)
        return m


class FrameBuffer(wiring.Component):
    """FIFO of frames. A frame that is bad, or for which there is no space, is dropped as a whole.

    Members:
        i: checked bytes; always ready.
        o: good frames, each one once it is complete.
    """

    i: In(stream.Signature(CheckedByte, always_ready=True))
    o: Out(stream.Signature(FrameByte))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=9, depth=RECEIVE_BYTES, init=[], attrs={"ram_style": "block", "no_rw_check": "1"})
        store, fetch = memory.write_port(), memory.read_port(transparent_for=())
        write, committed, read = (Signal(range(RECEIVE_BYTES), name=name) for name in ("write", "committed", "read"))
        overflow = Signal()
        next_write = (write + 1)[: len(write)]
        not_full = (next_write != read) & ~overflow
        entry = self.i.payload
        m.d.comb += [store.addr.eq(write), store.data.eq(Cat(entry.byte, entry.last)), store.en.eq(self.i.valid)]
        with m.If(self.i.valid & entry.last):
            m.d.sync += overflow.eq(0)
            with m.If(entry.good & not_full):
                m.d.sync += [write.eq(next_write), committed.eq(next_write)]
            with m.Else():
                m.d.sync += write.eq(committed)
        with m.Elif(self.i.valid):
            with m.If(not_full):
                m.d.sync += write.eq(next_write)
            with m.Else():
                m.d.sync += overflow.eq(1)

        fetched = Signal()
        m.d.comb += [fetch.addr.eq(read), fetch.en.eq((read != committed) & ~fetched & ~self.o.valid)]
        m.d.sync += fetched.eq(fetch.en)
        with m.If(fetch.en):
            m.d.sync += read.eq(read + 1)
        with m.If(fetched):
            m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(fetch.data)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
