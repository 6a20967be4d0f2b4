"""What LOAD and STORE check of their own fields, docs/machine.md's rules."""

from __future__ import annotations

from typing import Protocol

from amaranth.hdl import Const, Mux, Value
from amaranth.lib import data
from amaranth.utils import exact_log2

from loralith.spec.commands import STAT_BYTES, LoadTarget, Opcode, StoreSource, VectorFormat
from loralith.spec.config import Config
from loralith.spec.status import Check
from loralith.spec.vector.program import PROGRAM_INSTRUCTIONS, SCALARS

__all__ = ["LoadRules", "Region", "StoreRules", "TransferRules", "rules_of", "words"]


class Region:
    """An on-chip region: ``blocks`` blocks of lanes of ``length`` memory rows each, in a memory of ``limit`` rows. ``detail`` names it."""

    def __init__(self, blocks: Value, length: Value, limit: Value, detail: Value) -> None:
        self.blocks, self.length, self.limit, self.detail = blocks, length, limit, detail

    def unless(self, holds: Value, other: Region) -> Region:
        """This region where ``holds``, else the other one."""
        return Region(*(Mux(holds, getattr(self, name), getattr(other, name)) for name in ("blocks", "length", "limit", "detail")))


class TransferRules(Protocol):
    """The rules of one opcode, as expressions of a command's fields ``c``, in two stages: the second takes the first one's registers."""

    def flags(self, c: data.View) -> list[Value]:
        """First stage of ``meaning``."""
        ...

    def meaning(self, c: data.View, flags: Value) -> Value:
        """Whether the fields that name choices go together."""
        ...

    def shape(self, c: data.View) -> tuple[Value, Value]:
        """First stage of ``region``: lanes and seq positions; of a vector of scales, and of statistics, its bytes for seq positions."""
        ...

    def region(self, c: data.View, lanes: Value, seqs: Value, second: Value) -> Region:
        """The region; ``second``: the right one of a load into both scratchpads."""
        ...

    def row_bytes(self, c: data.View) -> Value:
        """Bytes of a row in DRAM."""
        ...


class LoadRules:
    """Of a LOAD."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def flags(self, c: data.View) -> list[Value]:
        return [c.rows == 1, c.pad_rows == 0, c.block_stride == 0]

    def meaning(self, c: data.View, flags: Value) -> Value:
        one_row, no_pad, no_stride = flags[0], flags[1], flags[2]
        plain = one_row & ~c.transpose & ~c.packed4 & no_pad & no_stride
        both_can = c.transpose & (self._config.cols >= self._config.bus_bytes)
        of_scratchpads = (
            (c.target <= LoadTarget.BOTH)
            & ~(c.format.any() | c.broadcast)
            & ~(c.transpose & ~no_pad)
            & ((c.target != LoadTarget.SCALE) | plain)
            & ((c.target != LoadTarget.BOTH) | both_can)
        )
        if not self._config.vector_lanes:
            return of_scratchpads
        halves = (c.target == LoadTarget.PROGRAM) | (c.target == LoadTarget.KEY)
        vector = (c.target == LoadTarget.V0) | (c.target == LoadTarget.V1)
        single = one_row & no_stride & ~c.format.any() & ~c.broadcast & ~Mux(halves, c.row_bytes[:3], c.row_bytes[:2]).any()
        entries = (halves | (c.target == LoadTarget.SCALARS)) & single
        of_vector_unit = no_pad & ~c.transpose & ~c.packed4 & (entries | (vector & whole_elements(c)))
        return of_scratchpads | of_vector_unit

    def shape(self, c: data.View) -> tuple[Value, Value]:
        seqs = Mux((c.target == LoadTarget.SCALE) | c.transpose, c.row_bytes, c.rows + c.pad_rows)
        if not self._config.vector_lanes:
            return Mux(c.transpose, c.rows, c.row_bytes), seqs
        vector = c.target > LoadTarget.BOTH
        return Mux(c.transpose | vector, c.rows, c.row_bytes), Mux(vector, c.row_bytes, seqs)

    def region(self, c: data.View, lanes: Value, seqs: Value, second: Value) -> Region:
        region = self._scratchpad_region(c, lanes, seqs, second)
        if not self._config.vector_lanes:
            return region
        scalars, program = c.target == LoadTarget.SCALARS, c.target == LoadTarget.PROGRAM
        length = Mux(scalars, seqs >> 2, seqs >> 3)
        limit = Mux(scalars, SCALARS, Mux(program, PROGRAM_INSTRUCTIONS, 1))
        entries = Region(lanes, length, limit, Mux(program, Check.PROGRAM, Check.SCALAR))
        v0, v1 = c.target == LoadTarget.V0, c.target == LoadTarget.V1
        unit = vector_region(self._config, c, lanes, seqs, v1).unless(v0 | v1, entries)
        return unit.unless(c.target > LoadTarget.BOTH, region)

    def _scratchpad_region(self, c: data.View, lanes: Value, seqs: Value, second: Value) -> Region:
        config = self._config
        R, C, W = config.rows, config.cols, config.bus_bytes
        scale, right = c.target == LoadTarget.SCALE, (c.target == LoadTarget.RIGHT) | second
        return Region(
            blocks=Mux(scale, 1, Mux(right, words(lanes, C), words(lanes, R))),
            length=Mux(scale, words(seqs, 4 * R), words(seqs, W)),
            limit=Mux(scale, config.scale_depth, Mux(right, config.right_depth, config.left_depth)),
            detail=Mux(scale, Check.SCALE, Mux(right, Check.RIGHT, Check.LEFT)),
        )

    def row_bytes(self, c: data.View) -> Value:
        return Mux(c.packed4, (c.row_bytes + 1) >> 1, c.row_bytes)


class StoreRules:
    """Of a STORE."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def flags(self, c: data.View) -> list[Value]:
        power = Value.cast(0)
        for log in range(exact_log2(self._config.bus_bytes)):
            power = power | (c.row_bytes == 1 << log)
        slots = c.row_bytes[: exact_log2(STAT_BYTES)] == 0
        return [c.rows == 1, c.block_stride == 0, slots, power, c.row_stride == c.row_bytes]

    def meaning(self, c: data.View, flags: Value) -> Value:
        one_row, no_stride, slots, power, dense = flags
        plain = one_row & ~c.transpose & ~c.packed & no_stride & slots
        known = (c.source <= StoreSource.STATS) & ~(c.format.any() | c.broadcast)
        of_results = known & ((c.source != StoreSource.STATS) | plain) & (~c.packed | (power & dense))
        if not self._config.vector_lanes:
            return of_results
        vector = (c.source == StoreSource.V0) | (c.source == StoreSource.V1)
        scalars = (c.source == StoreSource.SCALARS) & one_row & no_stride & ~c.format.any() & ~c.broadcast & ~c.row_bytes[:2].any()
        return of_results | (~c.transpose & ~c.packed & (scalars | (vector & whole_elements(c))))

    def shape(self, c: data.View) -> tuple[Value, Value]:
        stats = c.source == StoreSource.STATS
        return Mux(c.transpose, c.row_bytes, c.rows), Mux(c.transpose & ~stats, c.rows, c.row_bytes)

    def region(self, c: data.View, lanes: Value, seqs: Value, second: Value) -> Region:
        region = self._result_region(c, lanes, seqs)
        if not self._config.vector_lanes:
            return region
        scalars = c.source == StoreSource.SCALARS
        entries = Region(lanes, seqs >> 2, Const(SCALARS), Const(Check.SCALAR, 8))
        unit = entries.unless(scalars, vector_region(self._config, c, lanes, seqs, c.source == StoreSource.V1))
        return unit.unless(c.source > StoreSource.STATS, region)

    def _result_region(self, c: data.View, lanes: Value, seqs: Value) -> Region:
        config = self._config
        stats = c.source == StoreSource.STATS
        return Region(
            blocks=Mux(stats, 1, words(lanes, config.rows)),
            length=Mux(stats, words(seqs, STAT_BYTES), words(seqs, config.bus_bytes)),
            limit=Mux(stats, config.stat_slots, config.out_depth),
            detail=Mux(stats, Check.STAT, Check.OUT),
        )

    def row_bytes(self, c: data.View) -> Value:
        return c.row_bytes


def rules_of(config: Config, opcode: Opcode) -> TransferRules:
    """The rules of LOAD or STORE."""
    return LoadRules(config) if opcode is Opcode.LOAD else StoreRules(config)


def whole_elements(c: data.View) -> Value:
    """Whether ``format`` is known and a row has whole elements of it."""
    rest = Mux(c.format == VectorFormat.FP32, c.row_bytes[:2].any(), Mux(c.format == VectorFormat.BF16, c.row_bytes[0], 0))
    return (c.format <= VectorFormat.INT8) & ~rest


def vector_region(config: Config, c: data.View, rows: Value, row_bytes: Value, second: Value) -> Region:
    """Of a transfer of V0, or V1 where ``second``: each row of DRAM is a block of words."""
    elements = row_bytes >> Mux(c.format == VectorFormat.FP32, 2, c.format == VectorFormat.BF16)
    length = Mux(c.broadcast, elements, words(elements, config.vector_lanes))
    return Region(rows, length, Mux(second, config.v1_words, config.v0_words), Mux(second, Check.V1, Check.V0))


def words(value: Value, unit: int) -> Value:
    """ceil(value / unit), ``unit`` a power of two."""
    return (value + unit - 1) >> exact_log2(unit)
