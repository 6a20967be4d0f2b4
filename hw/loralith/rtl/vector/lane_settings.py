"""Control fields that an instruction sets in all lanes."""

from amaranth.hdl import unsigned
from amaranth.lib import data, enum

from loralith.spec.vector.numbers import EXPONENT_BITS

__all__ = ["LaneSettings", "OperandSelect", "XSelect", "YSelect"]


class XSelect(enum.Enum, shape=unsigned(2)):
    """Where X comes from. CONSTANT: the same word in all lanes."""

    V0 = 0
    V1 = 1
    INTEGER = 2
    CONSTANT = 3


class YSelect(enum.Enum, shape=unsigned(2)):
    ZERO = 0
    V0 = 1
    V1 = 2


class OperandSelect(enum.Enum, shape=unsigned(2)):
    """A stage's second operand: an element's, or a constant of the instruction that the lane holds."""

    CONSTANT = 0
    X = 1
    Y = 2


class LaneSettings(data.Struct):
    """Members: x, y: see ``XSelect`` and ``YSelect``; a, b, c, d: see ``OperandSelect``. a_negate, b_negate, d_negate: see ``Multiply`` and
    ``Add``. function, packing, scale, summing: see ``FunctionUnit`` and ``Pack``; comparing: results are compared with the maximum;
    signed: by value, not by magnitude. When each is sampled: ``LaneTiming.settings``.
    """

    x: XSelect
    y: YSelect
    a: OperandSelect
    b: OperandSelect
    c: OperandSelect
    d: OperandSelect
    a_negate: 1
    b_negate: 1
    d_negate: 1
    function: 3
    packing: 2
    summing: 1
    comparing: 1
    signed: 1
    scale: EXPONENT_BITS
