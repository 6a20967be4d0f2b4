"""The vector unit's function tables in block RAM."""

from __future__ import annotations

from amaranth.hdl import Module, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import ceil_log2

from loralith.spec.vector.program import Function
from loralith.spec.vector.tables import EXP2_TABLE, PHI_TABLE, RECIP_TABLE, RSQRT_TABLE, SEGMENT_BITS, SLOPE_BITS, VALUE_BITS

__all__ = ["FunctionTable", "TableSignature", "table_number"]

_TABLES = {Function.EXP2: EXP2_TABLE, Function.RECIPROCAL: RECIP_TABLE, Function.RSQRT: RSQRT_TABLE, Function.PHI: PHI_TABLE}
_NUMBER_BITS = ceil_log2(len(_TABLES))

SegmentLayout = data.StructLayout({"value": VALUE_BITS, "slope": SLOPE_BITS})

TableSignature = Signature({"address": Out(_NUMBER_BITS + SEGMENT_BITS), "segment": In(SegmentLayout)})
"""A reader of the tables: ``segment`` is that of ``address`` a cycle earlier."""


def table_number(function: Value) -> Value:
    """High bits of an address: where a function's table is."""
    return function[:_NUMBER_BITS]


class FunctionTable(wiring.Component):
    """All segments of ``loralith.spec.vector.tables`` in one memory with two read ports, each for one lane.

    Members: readers: see ``TableSignature``.
    """

    def __init__(self) -> None:
        super().__init__({"readers": In(TableSignature).array(2)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        size = 1 << SEGMENT_BITS
        content = [0] * (size << _NUMBER_BITS)
        for function, table in _TABLES.items():
            start = (function % len(_TABLES)) * size
            content[start : start + size] = [value | slope << VALUE_BITS for value, slope in table]
        memory = Memory(shape=unsigned(VALUE_BITS + SLOPE_BITS), depth=len(content), init=content, attrs={"ram_style": "block"})
        m.submodules.memory = memory
        for reader in self.readers:
            port = memory.read_port()
            m.d.comb += [port.addr.eq(reader.address), reader.segment.eq(port.data)]
        return m
