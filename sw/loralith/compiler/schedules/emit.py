"""Commands from layouts and regions. No tokens here: `Emitter.finish` has `sync` find them from what the commands touch."""

from __future__ import annotations

from dataclasses import dataclass

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.storage.layout import MatrixLayout
from loralith.compiler.storage.regions import Region
from loralith.compiler.tokens.order import hoist_loads
from loralith.compiler.tokens.sync import synchronize
from loralith.spec.commands import STAT_BYTES, Command, LoadTarget, Opcode, OutMode, ScaleMode, StoreSource
from loralith.spec.config import Config
from loralith.spec.numerics import Requantization

__all__ = ["Emitter", "Exponent", "Int8", "Segment", "Stochastic"]


@dataclass(frozen=True)
class Segment:
    """One reduction: left [M, k] and right [k, N] on chip."""

    left: Region
    right: Region
    k: int


@dataclass(frozen=True)
class Stochastic:
    """Stochastic rounding: the hash's key, and its index base + m * row_stride + n * col_stride for output (m, n), modulo 2**32."""

    key: tuple[int, int]
    base: int
    row_stride: int
    col_stride: int


@dataclass(frozen=True)
class Int8:
    """An INT8 result: its scale, for all of it or as a vector in the scale memory; round half even without `rounding`."""

    scale: Requantization | Region
    per_row: bool = False
    rounding: Stochastic | None = None


@dataclass(frozen=True)
class Exponent:
    """Bounds of the t that the device makes of a statistics slot's maximum; `up`: the shift of a chain grows with t."""

    slot: int
    low: int
    high: int
    up: bool = False


class Emitter:
    """Collects commands in the order in which the list has them; that order is also one in which it is right to run them one by one."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._commands: list[Command] = []
        self._notes: list[str] = []

    def _add(self, opcode: Opcode, note: str, **fields: int) -> None:
        self._commands.append(Command.make(opcode, **fields))
        self._notes.append(note)

    def load(self, matrix: MatrixLayout, region: Region, *, transpose: bool = False, pad_rows: int = 0, note: str = "") -> None:
        """Fill a left or right region: natural (DRAM rows become seq, bytes lanes; `pad_rows` rows of zeros follow) or transposed."""
        self._add(
            Opcode.LOAD,
            note,
            target=LoadTarget[region.memory.upper()],
            transpose=int(transpose),
            pad_rows=pad_rows,
            **self._source(matrix),
            base=region.base,
            block_stride=region.stride,
        )

    def load_both(self, matrix: MatrixLayout, left: Region, right: Region, *, note: str = "") -> None:
        """Fill a left region transposed and a right region natural from one pass over the bus; for `cols` of at least `bus_bytes`."""
        self._add(
            Opcode.LOAD,
            note,
            target=LoadTarget.BOTH,
            transpose=1,
            **self._source(matrix),
            base=left.base,
            block_stride=left.stride,
            right_base=right.base,
            right_stride=right.stride,
        )

    def load_scales(self, address: int, entries: int, region: Region, *, note: str = "") -> None:
        """Fill a scale region with 4-byte entries."""
        self._add(Opcode.LOAD, note, target=LoadTarget.SCALE, rows=1, address=address, row_bytes=4 * entries, base=region.base)

    def store(self, matrix: MatrixLayout, region: Region, *, transpose: bool = False, note: str = "") -> None:
        """Write an out region to DRAM: its lanes as rows, or transposed its seq positions. Packed where the layout's rows are.

        Raises ValueError for a layout of INT4: results have whole bytes.
        """
        if matrix.packed4:
            raise ValueError("a store writes whole bytes, not INT4")
        packed = matrix.rows > 1 and matrix.stride == matrix.row_bytes < self.config.bus_bytes
        flags = {"transpose": int(transpose), "packed": int(packed)}
        self._add(Opcode.STORE, note, source=StoreSource.OUT, **flags, **self._dram(matrix), base=region.base, block_stride=region.stride)

    def store_stats(self, address: int, slot: int, slots: int, *, note: str = "") -> None:
        """Write `slots` slots of 16 bytes each to DRAM."""
        self._add(Opcode.STORE, note, source=StoreSource.STATS, rows=1, address=address, row_bytes=STAT_BYTES * slots, base=slot)

    def compute(
        self,
        M: int,
        N: int,
        segments: tuple[Segment, ...],
        *,
        fold: int = 1,
        shift: int = 0,
        out: Region | None = None,
        left_result: Region | None = None,
        int8: Int8 | None = None,
        acc: Region | None = None,
        acc_read: bool = False,
        acc_write: bool = False,
        stat_slot: int | None = None,
        stat_clear: bool = False,
        exponent: Exponent | None = None,
        note: str = "",
    ) -> None:
        """M x N outputs over one segment, or two of which the first is shifted left by `shift`.

        The result is INT8 with `int8`; else INT32 where it goes to `out`, and none where it only goes to `acc`. `acc_read` adds what `acc`
        holds, `acc_write` puts the sum there. `stat_slot` records the largest product before rounding, anew with `stat_clear`. With
        `exponent` the device sets the shift: that of the INT8 result's scale, or `shift` of two segments, of which it is the largest.
        """
        first, *more = segments
        second = more[0] if more else None
        fields: dict[str, int] = {
            "m_rows": M,
            "n_cols": N,
            "fold_log2": fold.bit_length() - 1,
            "chained": int(second is not None),
            "shift": shift,
            "out_mode": OutMode.INT8 if int8 else OutMode.INT32 if out else OutMode.NONE,
        }
        for i, segment in enumerate(s for s in (first, second) if s):
            fields |= {f"k{i}": segment.k, f"left{i}_base": segment.left.base, f"left{i}_stride": segment.left.stride}
            fields |= {f"right{i}_base": segment.right.base, f"right{i}_stride": segment.right.stride}
        if out:
            fields |= {"to_out": 1, "out_base": out.base, "out_stride": out.stride}
        if left_result:
            fields |= {"to_left": 1, "result_base": left_result.base, "result_stride": left_result.stride}
        if acc:
            fields |= {"acc_read": int(acc_read), "acc_write": int(acc_write), "acc_base": acc.base, "acc_stride": acc.stride}
        if stat_slot is not None:
            fields |= {"stat_enable": 1, "stat_clear": int(stat_clear), "stat_slot": stat_slot}
        if exponent:
            fields |= {"device_shift": 1, "exponent_slot": exponent.slot, "t_low": exponent.low, "t_high": exponent.high}
            fields |= {"shift_up": int(exponent.up and second is not None)}
        if int8:
            fields |= self._requantization(int8)
        self._add(Opcode.COMPUTE, note, **fields)

    @staticmethod
    def _requantization(int8: Int8) -> dict[str, int]:
        if isinstance(int8.scale, Requantization):
            fields = {"scale_m": int8.scale.mantissa, "scale_n": int8.scale.shift}
        else:
            fields = {"scale_mode": ScaleMode.ROW if int8.per_row else ScaleMode.COLUMN, "scale_base": int8.scale.base}
        r = int8.rounding
        if r is None:
            return fields
        strides = {"index_base": r.base, "index_row_stride": r.row_stride, "index_col_stride": r.col_stride}
        return fields | {"stochastic": 1, "key0": r.key[0], "key1": r.key[1]} | strides

    @staticmethod
    def _dram(matrix: MatrixLayout) -> dict[str, int]:
        stride = matrix.stride if matrix.rows > 1 else 0
        return {"address": matrix.address, "rows": matrix.rows, "row_bytes": matrix.loaded_bytes, "row_stride": stride}

    @classmethod
    def _source(cls, matrix: MatrixLayout) -> dict[str, int]:
        return cls._dram(matrix) | ({"packed4": 1} if matrix.packed4 else {})

    def finish(self, ahead: int = 0) -> CommandList:
        """The list, with the tokens that keep its result whatever the three queues' speeds; loads overtake up to `ahead` commands."""
        commands = CommandList(tuple(self._commands), tuple(self._notes))
        return synchronize(hoist_loads(commands, self.config, ahead) if ahead else commands, self.config)
