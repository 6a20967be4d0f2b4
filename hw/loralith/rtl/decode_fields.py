"""The checks of a COMPUTE command's fields that need no memory's size (docs/machine.md, Checks)."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from loralith.spec.commands import COMPUTE, OutMode, ScaleMode
from loralith.spec.config import Config
from loralith.spec.numerics import K_LIMIT, MANTISSA_MIN, SHIFT_MAX

from .interfaces import record_layout

__all__ = ["FieldCheck"]

SHIFT_LIMIT = 16


class FieldCheck(wiring.Component):
    """Checks reserved bits, values and sizes in two cycles, since the command's bits are placed far apart.

    Members:
        command: held from ``stage0`` on.
        stage0, stage1: the first and the second cycle of the check.
        reserved_ok, values_ok, sizes_ok: from the cycle after ``stage1`` on: reserved bits are zero; each value is one that the field can
            have; lengths and the scale are in range.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "command": In(record_layout(COMPUTE)),
                "stage0": In(1),
                "stage1": In(1),
                "reserved_ok": Out(1),
                "values_ok": Out(1),
                "sizes_ok": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        command, raw = self.command, self.command.as_value()
        reserved = [raw[b] for b in range(len(raw)) if COMPUTE.reserved_mask >> b & 1]
        int8 = command.out_mode == OutMode.INT8
        tensor_scale = int8 & (command.scale_mode == ScaleMode.TENSOR)
        legal = (
            command.fold_log2 <= ceil_log2(self.config.max_fold),
            command.shift <= SHIFT_LIMIT,
            command.out_mode <= OutMode.INT32,
            command.scale_mode <= ScaleMode.COLUMN,
            command.chained | ((command.shift == 0) & (command.segment_wait == 0)),
            ~command.to_left | int8,
            ~command.to_out | (command.out_mode != OutMode.NONE),
        )
        reserved_zero = Signal(-(-len(reserved) // 16))
        legal_r = Signal(len(legal))
        shifted = Signal(34)
        span = Signal.like(command.t_high)
        bounds_ok = Signal()
        with m.If(self.stage0):
            m.d.sync += [
                reserved_zero.eq(Cat(~Cat(reserved[at : at + 16]).any() for at in range(0, len(reserved), 16))),
                legal_r.eq(Cat(legal)),
                shifted.eq(command.k0 << command.shift),
                span.eq(command.t_high - command.t_low),
                bounds_ok.eq((command.t_low <= command.t_high) & (command.t_high <= SHIFT_MAX)),
            ]
        length = Signal(35)
        legal_ok = Signal()
        span_ok = Signal()
        counts_ok = Signal()
        with m.If(self.stage1):
            m.d.sync += [
                self.reserved_ok.eq(reserved_zero.all()),
                legal_ok.eq(legal_r.all()),
                length.eq(shifted + command.k1),
                span_ok.eq(~command.device_shift | (bounds_ok & Mux(command.chained, span <= command.shift, tensor_scale))),
                counts_ok.eq(
                    (command.m_rows != 0)
                    & (command.n_cols != 0)
                    & (command.k0 != 0)
                    & ((command.k1 != 0) == command.chained)
                    & (~tensor_scale | ((command.scale_m >= MANTISSA_MIN) & (command.scale_n <= SHIFT_MAX)))
                ),
            ]
        m.d.comb += [self.values_ok.eq(legal_ok & span_ok), self.sizes_ok.eq(counts_ok & (length <= K_LIMIT))]
        return m
