"""What a VECTOR command says, as the unit takes it."""

from amaranth.hdl import unsigned
from amaranth.lib import data

from loralith.spec.vector.program import PROGRAM_INSTRUCTIONS, REGIONS

__all__ = ["ADDRESS_BITS", "COUNT_BITS", "INSTRUCTION_BITS", "RegionLayout", "VectorCommand"]

ADDRESS_BITS = 16
COUNT_BITS = 16
INSTRUCTION_BITS = (PROGRAM_INSTRUCTIONS - 1).bit_length()

RegionLayout = data.StructLayout({"base": ADDRESS_BITS, "outer_stride": ADDRESS_BITS, "inner_stride": ADDRESS_BITS})
"""The word of iteration (outer, inner) is at base + outer * outer_stride + inner * inner_stride, modulo 2^ADDRESS_BITS."""


class VectorCommand(data.Struct):
    """Members:
    first, count: instructions ``first`` .. ``first`` + ``count`` - 1, at least one.
    outer, inner: iterations of the loops, at least one.
    regions: see ``RegionLayout``.
    lanes: bit i: lane i of a partial word is of the tensor. partial_inner: partial are the last words of the inner loops, otherwise all
        words of the last outer iteration. An instruction that runs once has no last word of the inner loop.
    key0, key1, index_base, index_outer, index_inner: of the hash of stochastic rounding, see docs/vector_unit.md.
    """

    first: unsigned(INSTRUCTION_BITS)
    count: unsigned(INSTRUCTION_BITS + 1)
    outer: unsigned(COUNT_BITS)
    inner: unsigned(COUNT_BITS)
    regions: data.ArrayLayout(RegionLayout, REGIONS)
    lanes: unsigned(64)
    partial_inner: unsigned(1)
    key0: unsigned(32)
    key1: unsigned(32)
    index_base: unsigned(32)
    index_outer: unsigned(32)
    index_inner: unsigned(32)
