"""The vector unit's function tables in block RAM."""

from __future__ import annotations

from amaranth.hdl import Module, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, Signature

from loralith.spec.vector.program import Function
from loralith.spec.vector.tables import EXP2_TABLE, PHI_TABLE, RECIP_TABLE, RSQRT_TABLE, SEGMENT_BITS, SLOPE_BITS, VALUE_BITS, Segment

__all__ = ["POSITION_BITS", "FunctionTable", "TableSignature", "table_number"]

POSITION_BITS = 13
"""Bits of a position in a segment: of 2^x and Phi all, of 1 / sqrt(x) the 9 high ones, of 1 / x 8 below the highest one."""
SEGMENTS = 1 << SEGMENT_BITS

TABLE_BITS = 2

SegmentLayout = data.StructLayout({"value": VALUE_BITS, "slope": SLOPE_BITS + 1})
"""The slope is in two's complement, so that no subtractor is needed."""

TableSignature = Signature({"address": Out(TABLE_BITS + SEGMENT_BITS), "segment": In(SegmentLayout)})
"""A reader of the tables: ``segment`` is that of ``address`` a cycle earlier."""


def table_number(function: Value) -> Value:
    """High bits of an address: where a function's table is."""
    return function[:TABLE_BITS]


def _content() -> list[int]:
    """The memory's words. 1 / x has positions of half the width, so that its slopes count twice; the octaves of 1 / sqrt(x) alternate."""
    half = SEGMENTS // 2
    tables: dict[Function, list[Segment]] = {
        Function.EXP2: list(EXP2_TABLE),
        Function.RECIPROCAL: [(value, -2 * slope) for value, slope in RECIP_TABLE],
        Function.RSQRT: [(value, -slope) for pair in zip(RSQRT_TABLE[:half], RSQRT_TABLE[half:], strict=True) for value, slope in pair],
        Function.PHI: list(PHI_TABLE),
    }
    words = [0] * (SEGMENTS << TABLE_BITS)
    for function, table in tables.items():
        start = (function % (1 << TABLE_BITS)) * SEGMENTS
        for at, (value, slope) in enumerate(table):
            words[start + at] = value | (slope % (2 << SLOPE_BITS)) << VALUE_BITS
    return words


class FunctionTable(wiring.Component):
    """All segments of ``loralith.spec.vector.tables`` in one memory with two read ports, each for one lane.

    Members: readers: see ``TableSignature``.
    """

    def __init__(self) -> None:
        super().__init__({"readers": In(TableSignature).array(2)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shape = unsigned(VALUE_BITS + SLOPE_BITS + 1)
        memory = Memory(shape=shape, depth=SEGMENTS << TABLE_BITS, init=_content(), attrs={"ram_style": "block"})
        m.submodules.memory = memory
        for reader in self.readers:
            port = memory.read_port()
            m.d.comb += [port.addr.eq(reader.address), reader.segment.eq(port.data)]
        return m
