"""Whether the regions of a COMPUTE command lie inside their memories (docs/machine.md, Checks)."""

from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.commands import COMPUTE, OutMode, ScaleMode
from loralith.spec.config import Config
from loralith.spec.status import Check

from .extent import Extent
from .interfaces import record_layout
from .tile import FOLD_BITS, field

__all__ = ["RegionCheck"]

_LONGEST = field("n_cols").width + 1
"""Bits of the largest count of blocks: the ``Extent`` that takes longest."""


class _Region(NamedTuple):
    """``blocks`` times ``words`` words, ``stride`` rows apart, from row ``base`` of ``memory`` on, where ``needed``."""

    check: Check
    needed: ValueLike
    base: Value
    blocks: ValueLike
    stride: ValueLike
    words: Value
    memory: str


class RegionCheck(wiring.Component):
    """Counts blocks and steps, then words, and adds them up in an ``Extent`` for each region; checks the numbers of slots too.

    Members:
        command: without an error in its fields, held from ``stage0`` on.
        stage0, stage1, stage2: the first, second and third cycle of the check.
        steps: of the array in each segment, from the cycle after ``stage0`` on.
        done: ``delay`` cycles after ``stage0``: ``ok`` and ``detail`` are valid, until the next ``stage2``.
        ok: no region and no slot is out of its memory. detail: the first one that is, in the order of docs/machine.md.
    """

    delay = 2 + _LONGEST + 4

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "command": In(record_layout(COMPUTE)),
                "stage0": In(1),
                "stage1": In(1),
                "stage2": In(1),
                "steps": Out(data.ArrayLayout(field("k0"), 2)),
                "done": Out(1),
                "ok": Out(1),
                "detail": Out(8),
            }
        )

    def _regions(self, row_blocks: Signal, col_blocks: Signal, out_cols: Signal) -> tuple[_Region, ...]:
        """In the order of docs/machine.md."""
        c, config = self.command, self.config
        log_banks = ceil_log2(config.banks)

        def rows_of(positions: Value) -> Value:
            return (positions + (config.banks - 1)) >> log_banks

        has_scale_vector = (c.out_mode == OutMode.INT8) & (c.scale_mode != ScaleMode.TENSOR)
        col_words = (c.n_cols + (config.rows - 1)) >> ceil_log2(config.rows)
        scale_words = Mux(c.scale_mode == ScaleMode.ROW, row_blocks, col_words)
        return (
            _Region(Check.LEFT, 1, c.left0_base, row_blocks, c.left0_stride, rows_of(c.k0), "left"),
            _Region(Check.LEFT2, c.chained, c.left1_base, row_blocks, c.left1_stride, rows_of(c.k1), "left"),
            _Region(Check.RIGHT, 1, c.right0_base, col_blocks, c.right0_stride, rows_of(self.steps[0]), "right"),
            _Region(Check.RIGHT2, c.chained, c.right1_base, col_blocks, c.right1_stride, rows_of(self.steps[1]), "right"),
            _Region(Check.OUT, c.to_out, c.out_base, row_blocks, c.out_stride, rows_of(out_cols), "out"),
            _Region(Check.LEFT_RESULT, c.to_left, c.result_base, row_blocks, c.result_stride, rows_of(c.n_cols), "left"),
            _Region(Check.ACC, c.acc_read | c.acc_write, c.acc_base, row_blocks, c.acc_stride, c.n_cols, "acc"),
            _Region(Check.SCALE, has_scale_vector, c.scale_base, 1, 0, scale_words, "scale"),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        command, config = self.command, self.config
        log_rows, log_cols = ceil_log2(config.rows), ceil_log2(config.cols)
        row_blocks = Signal(len(command.m_rows) + 1 - log_rows)
        col_blocks = Signal(_LONGEST)
        out_cols = Signal(len(command.n_cols) + 2)
        fold_log2 = command.fold_log2[: ceil_log2(config.max_fold).bit_length()]  # of a command that is no error
        fold_mask = Signal(FOLD_BITS - 1)
        m.d.comb += fold_mask.eq((1 << fold_log2) - 1)
        with m.If(self.stage0):
            m.d.sync += [
                row_blocks.eq((command.m_rows + (config.rows - 1)) >> log_rows),
                col_blocks.eq(((command.n_cols + (Const(config.cols - 1, log_cols) >> fold_log2)) << fold_log2) >> log_cols),
                out_cols.eq(Mux(command.out_mode == OutMode.INT32, command.n_cols << 2, command.n_cols)),
                *(count.eq((k + fold_mask) >> fold_log2) for count, k in zip(self.steps, (command.k0, command.k1), strict=True)),
            ]

        done: list[Value] = []
        checks: list[tuple[Check, Value]] = []
        for region in self._regions(row_blocks, col_blocks, out_cols):
            name = region.check.name.lower()
            words = Signal(len(out_cols), name=f"words_{name}")
            with m.If(self.stage1):
                m.d.sync += words.eq(region.words)
            widths = {"base": len(region.base), "stride": len(command.left0_stride), "length": len(words)}
            extent = Extent(count=len(Value.cast(region.blocks)), limit=len(region.base) + 1, **widths)
            m.submodules[f"extent_{name}"] = extent
            m.d.comb += [
                extent.start.eq(self.stage2),
                extent.base.eq(region.base),
                extent.count.eq(region.blocks),
                extent.stride.eq(region.stride),
                extent.length.eq(words),
                extent.limit.eq(config.depth(region.memory)),
            ]
            done.append(extent.done)
            checks.append((region.check, extent.ok | ~Value.cast(region.needed).bool()))
        slot_ok = Signal()
        exponent_ok = Signal()
        m.d.comb += [
            slot_ok.eq(~command.stat_enable | (command.stat_slot < config.stat_slots)),
            exponent_ok.eq(~command.device_shift | (command.exponent_slot < config.stat_slots)),
            self.done.eq(Cat(done).all()),
            self.ok.eq(Cat(ok for _, ok in checks).all() & slot_ok & exponent_ok),
            self.detail.eq(Check.STAT),
        ]
        for check, ok in reversed(checks):
            with m.If(~ok):
                m.d.comb += self.detail.eq(check)
        return m
