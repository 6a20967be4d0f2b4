"""Structures between the blocks of the compute unit: a checked command, a step, a tile and a column of results.

A field of the COMPUTE command has its name and width from the command's record, wherever it goes.
"""

from amaranth.hdl import Shape, unsigned
from amaranth.lib import data

from loralith.spec.commands import COMPUTE

from .array import AccumulateMode

__all__ = ["COUNT_BITS", "FOLD_BITS", "Column", "CommandFlags", "Plan", "ResultFlags", "Step", "Tile", "field"]

COUNT_BITS = 8
"""Of a number of rows or columns of the array, at most 64."""

FOLD_BITS = 5
"""Of a fold, at most 16."""


def field(name: str) -> Shape:
    """The shape of a field of the COMPUTE command."""
    return unsigned(COMPUTE.fields[name].width)


def _fields(*names: str) -> dict[str, Shape]:
    return {name: field(name) for name in names}


_RESULT_FLAGS = _fields(
    "acc_read",
    "acc_write",
    "out_mode",
    "to_out",
    "to_left",
    "stochastic",
    "scale_mode",
    "stat_enable",
    "stat_clear",
    "stat_slot",
    "scale_m",
    "scale_n",
)

CommandFlags = data.StructLayout(_RESULT_FLAGS | _fields("key0", "key1", "index_row_stride", "index_col_stride", "signal"))
"""The COMPUTE fields that the result path needs."""

ResultFlags = data.StructLayout(_RESULT_FLAGS | _fields("signal"))
"""The COMPUTE fields that still matter once the sums are formed."""

Tile = data.StructLayout(
    {
        "flags": CommandFlags,
        "fold_log2": field("fold_log2"),
        "rows": COUNT_BITS,
        "cols": COUNT_BITS,
        "first": 1,
        "last": 1,
        "n": field("n_cols"),
        "out_row": field("out_base"),
        "result_row": field("result_base"),
        "acc_word": field("acc_base"),
        "scale_word": field("scale_base"),
        "index": field("index_base"),
    }
)
"""One tile of results.

Members:
    flags, fold_log2: of its command.
    rows, cols: valid outputs, 1..R and 1..C / f.
    first, last: it is the first, the last tile of its command.
    n: output column of the tile's first column.
    out_row, result_row: memory row of the row block in the output buffer and the left scratchpad.
    acc_word: accumulate buffer word of the tile's first column.
    scale_word: scale word of the row block (ROW) or of column 0 (COLUMN).
    index: hash index of the tile's first element.
"""

Plan = data.StructLayout(
    {
        "flags": CommandFlags,
        **_fields("fold_log2", "chained", "shift", "segment_wait", "read_signal", "m_rows", "n_cols", "k0", "k1"),
        "steps0": field("k0"),
        "steps1": field("k1"),
        **_fields("left0_base", "left0_stride", "right0_base", "right0_stride"),
        **_fields("left1_base", "left1_stride", "right1_base", "right1_stride"),
        **_fields("out_base", "out_stride", "result_base", "result_stride", "acc_base", "acc_stride", "scale_base", "index_base"),
    }
)
"""A checked COMPUTE command whose tokens were taken; fields as in the command set.

Members:
    steps0, steps1: steps of the array in each segment: k over the fold, rounded up.
"""

Step = data.StructLayout(
    {
        "reads": 1,
        "accumulate_mode": Shape.cast(AccumulateMode),
        "fold_log2": field("fold_log2"),
        "left_row": field("left0_base"),
        "left_position": field("k0"),
        "right_row": field("right0_base"),
        "right_position": field("k0"),
        "last": 1,
        "rows": COUNT_BITS,
        "cols": COUNT_BITS,
        "depth": FOLD_BITS,
    }
)
"""One step of the array: what to read, and what the array does with it.

Members:
    reads: operands are read (a step that only shifts reads none).
    accumulate_mode: ``array.AccumulateMode`` of the step.
    fold_log2: of its command.
    left_row, right_row: memory row of seq position 0 of the block.
    left_position, right_position: seq position of the first element read.
    last: the tile ends with this step.
    depth: how many k it reduces.
    rows, cols: of its tile, a cycle after the step: useful multiply-accumulates are rows * cols * depth.
"""

Column = data.StructLayout(
    {
        "flags": ResultFlags,
        "rows": COUNT_BITS,
        "first": 1,
        "last": 1,
        "n": field("n_cols"),
        "out_row": field("out_base"),
        "result_row": field("result_base"),
    }
)
"""What travels with one output column.

Members:
    flags: of its command.
    rows: valid rows, 1..R.
    first, last: column of its command.
    n: output column.
    out_row, result_row: memory row of the row block in the output buffer and the left scratchpad.
"""
