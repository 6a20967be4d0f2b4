"""The four operations on memory."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from loralith.rtl.axi import Axi4ReadSignature, Axi4Signature, Axi4WriteSignature
from loralith.spec.link import Operation, Status

from .cobs import FrameByte
from .crc import Crc32
from .memory_read import MemoryReader
from .memory_write import MemoryWriter
from .messages import OperationControl

__all__ = ["MemoryUnit"]


class MemoryUnit(wiring.Component):
    """Reads, writes, fills and hashes.

    Parameter: data_bytes of the bus.

    Members:
        axi: the bus.
        control: ``value`` of a hash is the CRC-32; see MemoryReader and MemoryWriter.
        operation, address, length, operand: of the request, stable from the cycle before ``start`` to ``done``.
        i: write data of WRITE_MEMORY.
        o: read data of READ_MEMORY, complete at ``done``.
    """

    def __init__(self, data_bytes: int) -> None:
        self._data_bytes = data_bytes
        super().__init__(
            {
                "axi": Out(Axi4Signature(data_bytes)),
                "control": In(OperationControl),
                "operation": In(7),
                "address": In(32),
                "length": In(16),
                "operand": In(32),
                "i": In(stream.Signature(FrameByte)),
                "o": Out(stream.Signature(FrameByte)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        control = self.control
        m.submodules.reader = reader = MemoryReader(self._data_bytes)
        m.submodules.writer = writer = MemoryWriter(self._data_bytes)
        m.submodules.crc = crc = Crc32()
        for master, signature in ((reader, Axi4ReadSignature(self._data_bytes)), (writer, Axi4WriteSignature(self._data_bytes))):
            for name, member in signature.members.items():
                ours, theirs = getattr(self.axi, name), getattr(master.axi, name)
                m.d.comb += ours.eq(theirs) if member.flow is Out else theirs.eq(ours)
        # Registered so that no enable has the decoding of seven bits in its path.
        fills, writes, hashes = Signal(), Signal(), Signal()
        m.d.sync += [
            fills.eq(self.operation == Operation.FILL_MEMORY),
            writes.eq((self.operation == Operation.FILL_MEMORY) | (self.operation == Operation.WRITE_MEMORY)),
            hashes.eq(self.operation == Operation.HASH_MEMORY),
        ]
        m.d.comb += [
            reader.address.eq(self.address),
            reader.length.eq(self.length),
            reader.control.start.eq(control.start & ~writes),
            reader.control.abandon.eq(control.abandon),
            writer.address.eq(self.address),
            writer.control.start.eq(control.start & writes),
            writer.control.abandon.eq(control.abandon),
            control.ready.eq(reader.control.ready & writer.control.ready),
            control.progress.eq(reader.control.progress | writer.control.progress | crc.en),
        ]

        # Write data: the payload, or the operand repeated.
        lane, remaining = Signal(2), Signal(16)
        m.d.comb += [
            writer.i.valid.eq(fills | self.i.valid),
            writer.i.payload.eq(self.i.payload),
            self.i.ready.eq(writer.i.ready & ~fills),
        ]
        with m.If(fills):
            m.d.comb += [
                writer.i.payload.byte.eq(self.operand.word_select(lane, 8)),
                writer.i.payload.last.eq(remaining == 1),
            ]
        with m.If(control.start):
            m.d.sync += [lane.eq(self.address), remaining.eq(self.length)]
        with m.Elif(writer.i.ready):  # counts for fills alone, which always have a byte
            m.d.sync += [lane.eq(lane + 1), remaining.eq(remaining - 1)]

        # Read data goes into the response, or into the CRC.
        hash_done = Signal()
        m.d.comb += [
            self.o.valid.eq(reader.o.valid & ~hashes),
            self.o.payload.eq(reader.o.payload),
            reader.o.ready.eq(hashes | self.o.ready),
            crc.clear.eq(control.start),
            crc.byte.eq(reader.o.payload.byte),
            crc.en.eq(reader.o.valid & hashes & (reader.control.status == Status.OK)),
        ]
        m.d.sync += hash_done.eq(crc.en & reader.o.payload.last & ~control.abandon)
        failed = reader.control.done & (reader.control.status != Status.OK)
        m.d.comb += [
            control.done.eq(Mux(writes, writer.control.done, Mux(hashes, hash_done | failed, reader.control.done))),
            control.status.eq(Mux(writes, writer.control.status, reader.control.status)),
            control.value.eq(Mux(writes, writer.control.value, reader.control.value)),
        ]
        with m.If(hashes & (reader.control.status == Status.OK)):
            m.d.comb += control.value.eq(~crc.register)
        return m
