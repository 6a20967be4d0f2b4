"""The vector unit's instructions and what their fields mean: one declaration for hardware, reference, assembler and documents."""

from __future__ import annotations

from enum import IntEnum

from ..commands import VECTOR_REGIONS
from ..fields import Field, Record

__all__ = [
    "HASH_LANES",
    "INSTRUCTION",
    "INSTRUCTION_BYTES",
    "LANE_REGISTERS",
    "PROGRAM_INSTRUCTIONS",
    "REGIONS",
    "SCALARS",
    "Format",
    "Function",
    "Operand",
    "Reduce",
    "Source",
    "Target",
]

INSTRUCTION_BYTES = 8
PROGRAM_INSTRUCTIONS = 64
"""Instructions of the program memory."""
SCALARS = 32
"""Words of the scalar memory."""
LANE_REGISTERS = 4
"""Words that each lane keeps from instruction to instruction."""
HASH_LANES = 4
"""Neighbouring lanes whose bytes of stochastic rounding come from one hash."""
REGIONS = VECTOR_REGIONS


class Source(IntEnum):
    """Where a stream comes from."""

    NONE = 0
    """Zeros."""
    V0 = 1
    """The first vector scratchpad, words."""
    V1 = 2
    """The second vector scratchpad, words."""
    OUT32 = 3
    """INT32 sums of the output buffer, as `numbers.from_integer` makes words of them. X only."""
    ROW_MAX = 4
    """The largest INT32 sum of each row that a COMPUTE recorded. X only; lanes are rows."""
    SCALAR = 5
    """Scalar s0 in every lane. X only."""


class Operand(IntEnum):
    """The second operand of a multiplication or an addition."""

    NONE = 0
    """1 for a multiplication, 0 for an addition: the stage changes nothing."""
    X = 1
    Y = 2
    SCALAR = 3
    """s0 in the first pair of stages (a, b), s1 in the second one (c, d)."""
    L0 = 4
    L1 = 5
    L2 = 6
    L3 = 7


class Function(IntEnum):
    """Between the two pairs of stages."""

    PASS = 0
    EXP2 = 1
    RECIPROCAL = 2
    RSQRT = 3
    PHI = 4
    SCALE = 5
    """2^k, k = `numbers.quantize_shift`: the scale of an INT8 tensor whose largest magnitude the argument is."""


class Reduce(IntEnum):
    """What is made of an instruction's results, at the end of its inner loop. Lanes outside of the tensor take no part.

    It takes the chain's result before it is rounded to a format; only the sum of an INT8 result is that of the integers, times their scale.
    A lane has one sum and one maximum: beside a reduction over the outer loop no other instruction of the program has one of the same kind.
    """

    NONE = 0
    SUM_LANE = 1
    """Each lane's sum."""
    SUM_ALL = 2
    """The sum over the lanes too, in every lane."""
    MAX_LANE = 3
    """Each lane's largest magnitude."""
    MAX_ALL = 4
    TOP_LANE = 5
    """Each lane's largest value."""
    TOP_ALL = 6


class Target(IntEnum):
    """Where results go."""

    NONE = 0
    V0 = 1
    V1 = 2
    LEFT = 3
    """The left scratchpad, as INT8: lane index = lane, seq = position."""
    LANE = 4
    """Lane register ``lane``; the inner loop's last word stays. Not beside a reduction that goes to a lane register."""
    SCALAR = 5
    """Scalar s3: lane 0 of what ``LANE`` would take. Not beside a reduction that goes to a scalar."""


class Format(IntEnum):
    """How a result is rounded before it is stored. An INT8 in V0 or V1 is its lane's low byte."""

    WORD = 0
    BRAIN = 1
    """`numbers.round_brain`."""
    INT8 = 2
    """`numbers.quantize` by the scale in scalar s2, half to even. k is its exponent field - 127, whatever its other bits say."""
    INT8_STOCHASTIC = 3


INSTRUCTION = Record(
    "INSTRUCTION",
    INSTRUCTION_BYTES,
    (
        Field("x_source", 0, 0, 3, "stream X: NONE 0, V0 1, V1 2, OUT32 3, ROW_MAX 4, SCALAR 5"),
        Field("x_region", 0, 3, 2, "the command's region that X reads"),
        Field("y_source", 0, 5, 2, "stream Y: NONE 0, V0 1, V1 2; not the memory that X reads"),
        Field("y_region", 0, 7, 2, "the command's region that Y reads"),
        Field("function", 0, 9, 3, "PASS 0, EXP2 1, RECIPROCAL 2, RSQRT 3, PHI 4, SCALE 5"),
        Field("a", 0, 12, 3, "first multiplication: NONE 0, X 1, Y 2, SCALAR 3 (s0), L0 4 .. L3 7"),
        Field("a_negate", 0, 15, 1, "the first product's sign is turned"),
        Field("b", 0, 16, 3, "first addition, as a"),
        Field("b_negate", 0, 19, 1, "b is subtracted"),
        Field("c", 0, 20, 3, "second multiplication, as a (SCALAR is s1)"),
        Field("d", 0, 23, 3, "second addition, as a (SCALAR is s1)"),
        Field("d_negate", 0, 26, 1, "d is subtracted"),
        Field("once", 0, 27, 1, "1: the inner loop runs once"),
        Field("lane", 0, 28, 2, "lane register that LANE writes"),
        Field("target", 1, 0, 3, "NONE 0, V0 1, V1 2, LEFT 3, LANE 4, SCALAR 5 (s3)"),
        Field("target_region", 1, 3, 2, "the command's region that is written"),
        Field("format", 1, 5, 2, "WORD 0, BRAIN 1, INT8 2, INT8_STOCHASTIC 3"),
        Field(
            "reduce",
            1,
            7,
            3,
            "NONE 0, SUM_LANE 1, SUM_ALL 2, MAX_LANE 3, MAX_ALL 4, TOP_LANE 5, TOP_ALL 6; goes to lane register or scalar, see reduce_to",
        ),
        Field("over_outer", 1, 10, 1, "1: the reduction runs over the outer loop too and ends with the command"),
        Field("s0", 1, 11, 5, "scalar of X, a and b"),
        Field("s1", 1, 16, 5, "scalar of c and d"),
        Field("s2", 1, 21, 5, "scale of an INT8 result, or the bound of a sum's terms: terms are below the next power of two above it"),
        Field("s3", 1, 26, 5, "scalar that a reduction or SCALAR writes"),
        Field("reduce_to", 1, 31, 1, "a reduction goes to: lane register ``lane`` 0, scalar s3 1 (lane 0 of it)"),
    ),
    "One visit of every element of the command's region: y = ((f(x a + b)) c + d), stage by stage, each rounded to a word.",
)
