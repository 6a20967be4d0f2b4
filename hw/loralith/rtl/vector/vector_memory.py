"""The vector scratchpads."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Member, Out

from loralith.rtl.memories import block_memory
from loralith.spec.vector.numbers import WORD_BITS

from .command import ADDRESS_BITS

__all__ = ["VectorMemory", "transfer_ports"]


def transfer_ports(lanes: int, number: str = "") -> dict[str, Member]:
    """A scratchpad's ports for LOAD and STORE, see ``VectorMemory``; ``number`` is put after their names."""
    write = data.StructLayout({"address": ADDRESS_BITS, "data": lanes * WORD_BITS})
    ports = {
        "load": In(stream.Signature(write)),
        "store": In(stream.Signature(ADDRESS_BITS)),
        "stored": Out(1),
        "read_data": Out(lanes * WORD_BITS),
    }
    return {name + number: port for name, port in ports.items()}


class VectorMemory(wiring.Component):
    """``depth`` words of ``lanes`` numbers with one write and one read port, which the vector unit has first.

    Members:
        write_en, write_address, write_data: the unit's write. read_en, read_address: the unit's read.
        load: writes of LOAD, taken in cycles without a write of the unit's. store: addresses that STORE reads, likewise.
        stored: the word of an address that ``store`` took is on ``read_data``.
        read_data: ``delay`` cycles after a read.
    """

    delay = 2

    def __init__(self, lanes: int, depth: int) -> None:
        self.lanes, self.depth = lanes, depth
        super().__init__(
            {
                "write_en": In(1),
                "write_address": In(ADDRESS_BITS),
                "write_data": In(lanes * WORD_BITS),
                "read_en": In(1),
                "read_address": In(ADDRESS_BITS),
                **transfer_ports(lanes),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = (self.depth - 1).bit_length()
        m.submodules.memory = memory = block_memory(self.lanes * WORD_BITS, self.depth)
        write, read = memory.write_port(), memory.read_port(transparent_for=())
        found, stored = Signal(), Signal()
        m.d.comb += [
            self.load.ready.eq(~self.write_en),
            self.store.ready.eq(~self.read_en),
            write.en.eq(self.write_en | self.load.valid),
            write.addr.eq(Mux(self.write_en, self.write_address, self.load.payload.address)[:bits]),
            write.data.eq(Mux(self.write_en, self.write_data, self.load.payload.data)),
            read.en.eq(self.read_en | self.store.valid),
            read.addr.eq(Mux(self.read_en, self.read_address, self.store.payload)[:bits]),
        ]
        m.d.sync += [found.eq(read.en), stored.eq(self.store.valid & self.store.ready), self.stored.eq(stored)]
        with m.If(found):
            m.d.sync += self.read_data.eq(read.data)
        return m
