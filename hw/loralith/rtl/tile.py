"""What the sequencer tells the drain about a finished tile, and what travels with each of its columns."""

from amaranth.hdl import unsigned
from amaranth.lib import data

from loralith.spec.commands import SEMAPHORES, OutMode, ScaleMode

__all__ = ["CommandFlags", "Plan", "Step", "Tile"]


class CommandFlags(data.Struct):
    """The COMPUTE fields that the result path needs, as in the command set."""

    acc_read: 1
    acc_write: 1
    out_mode: unsigned(OutMode.INT32.bit_length())
    to_out: 1
    to_left: 1
    stochastic: 1
    scale_mode: unsigned(ScaleMode.COLUMN.bit_length())
    stat_enable: 1
    stat_clear: 1
    stat_slot: unsigned(8)
    scale_m: unsigned(16)
    scale_n: unsigned(6)
    key0: unsigned(32)
    key1: unsigned(32)
    index_row_stride: unsigned(32)
    index_col_stride: unsigned(32)
    signal: unsigned(SEMAPHORES)


class Tile(data.Struct):
    """One tile of results.

    Attributes:
        flags: of its command.
        fold_log2: of its command.
        rows, cols: valid outputs, 1..R and 1..C / f.
        first, last: of its command.
        n: output column of the tile's first column.
        out_row, result_row: memory row of the row block in the output buffer and the left scratchpad.
        acc_word: accumulate buffer word of the tile's first column.
        scale_word: scale word of the row block (ROW) or of column 0 (COLUMN).
        index: hash index of the tile's first element.
    """

    flags: CommandFlags
    fold_log2: unsigned(4)
    rows: unsigned(8)
    cols: unsigned(8)
    first: unsigned(1)
    last: unsigned(1)
    n: unsigned(16)
    out_row: unsigned(16)
    result_row: unsigned(16)
    acc_word: unsigned(16)
    scale_word: unsigned(16)
    index: unsigned(32)


class Plan(data.Struct):
    """A checked COMPUTE command whose tokens were taken; fields as in the command set.

    Attributes:
        steps0, steps1: of the array, of each segment: k over the fold, rounded up.
    """

    flags: CommandFlags
    fold_log2: unsigned(4)
    chained: unsigned(1)
    shift: unsigned(5)
    segment_wait: unsigned(SEMAPHORES)
    read_signal: unsigned(SEMAPHORES)
    m_rows: unsigned(16)
    n_cols: unsigned(16)
    k0: unsigned(17)
    k1: unsigned(17)
    steps0: unsigned(17)
    steps1: unsigned(17)
    left0_base: unsigned(16)
    left0_stride: unsigned(16)
    right0_base: unsigned(16)
    right0_stride: unsigned(16)
    left1_base: unsigned(16)
    left1_stride: unsigned(16)
    right1_base: unsigned(16)
    right1_stride: unsigned(16)
    out_base: unsigned(16)
    out_stride: unsigned(16)
    result_base: unsigned(16)
    result_stride: unsigned(16)
    acc_base: unsigned(16)
    acc_stride: unsigned(16)
    scale_base: unsigned(16)
    index_base: unsigned(32)


class Step(data.Struct):
    """One step of the array: what to read, and what the array does with it.

    Attributes:
        reads: operands are read (a step that only shifts reads none).
        base: array.Base of the step.
        left_position, right_position: seq position of the first element read.
        left_row, right_row: memory row of seq position 0 of the block.
        last: the tile ends with this step.
        products: useful multiply-accumulates of the step: rows * cols, and how many k.
    """

    reads: unsigned(1)
    base: unsigned(2)
    fold_log2: unsigned(4)
    left_row: unsigned(16)
    left_position: unsigned(17)
    right_row: unsigned(16)
    right_position: unsigned(17)
    last: unsigned(1)
    rows: unsigned(8)
    cols: unsigned(8)
    depth: unsigned(5)


class ResultFlags(data.Struct):
    """The COMPUTE fields that still matter once the sums are formed."""

    acc_read: 1
    acc_write: 1
    out_mode: unsigned(OutMode.INT32.bit_length())
    to_out: 1
    to_left: 1
    stochastic: 1
    scale_mode: unsigned(ScaleMode.COLUMN.bit_length())
    stat_enable: 1
    stat_clear: 1
    stat_slot: unsigned(8)
    scale_m: unsigned(16)
    scale_n: unsigned(6)
    signal: unsigned(SEMAPHORES)


class Column(data.Struct):
    """What travels with one output column.

    Attributes:
        rows: valid rows, 1..R.
        first, last: column of its command.
        n: output column.
        out_row, result_row: memory row of the row block in the output buffer and the left scratchpad.
    """

    flags: ResultFlags
    rows: unsigned(8)
    first: unsigned(1)
    last: unsigned(1)
    n: unsigned(16)
    out_row: unsigned(16)
    result_row: unsigned(16)
