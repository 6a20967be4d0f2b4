"""The passes of a LoRA layer as command lists, compiled once for each shape. Numpy only; runs on a board."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loralith.compiler.schedules.layer_lists import ListShape, Operand, PassShape, compile_layer, compile_measuring, placed
from loralith.compiler.schedules.passes import SKINNY_STATS_BYTES
from loralith.compiler.storage.layout import MatrixLayout, operand_bytes, row_major
from loralith.spec.commands import STAT_BYTES
from loralith.spec.device_shift import DeviceShift
from loralith.spec.numerics import Requantization
from loralith.spec.scales import Chain
from loralith.spec.scheme import Role

from .layer_step import BackwardOperands, ForwardOperands
from .pass_interface import BackwardResult, ForwardResult, Passes
from .quantize import Int8, Stream

__all__ = ["ListedPasses"]

TIMEOUT = 600.0
"""Seconds that one list may take; a simulated device is slow."""


class ListedPasses(Passes):
    """Measures in a list of its own where the host decides a scale from this pass's maximum."""

    def _shape(self, T: int, *, forward: bool) -> PassShape:
        weight = self.memory.weight
        return PassShape(T, weight.cols, weight.rows, self.memory.rank, 4 if weight.packed4 else 8, forward)

    def _place(self, layout: MatrixLayout, values: NDArray | None = None) -> MatrixLayout:
        layout = layout.at(self.device.alloc(operand_bytes(layout, self.config)))
        if values is not None:
            self.device.write(layout.address, layout.pack(values))
        return layout

    def _place_skinny_right(self, values: Int8) -> int:
        """A or B as right operand of a reduction over their longer side: values [K, r]."""
        skinny = self.memory.skinny
        return self._place(skinny.right(len(values), self.config), skinny.right_image(values, self.config)).address

    def _common(self, left: MatrixLayout, right: Int8) -> dict[Operand, int]:
        """Addresses of what every list of a pass reads, and of its statistics."""
        return {
            Operand.LEFT: left.address,
            Operand.WEIGHT: self.memory.weight.address,
            Operand.SKINNY_RIGHT: self._place_skinny_right(right),
            Operand.STATISTICS: self.device.alloc(SKINNY_STATS_BYTES),
            Operand.ZEROS: self.memory.zeros,
        }

    def _sums(self, layout: MatrixLayout) -> NDArray[np.int32]:
        return layout.unpack(self.device.read(layout.address, layout.nbytes), np.int32)

    def _statistics(self, at: dict[Operand, int], slot: int = 0) -> tuple[int, int]:
        """(max |p|, saturations) of the skinny product, or of the slot ``slot`` behind it."""
        data = self.device.read(at[Operand.STATISTICS] + slot * STAT_BYTES, STAT_BYTES)
        return int(data[:8].view("<u8")[0]), int(data[8:12].view("<u4")[0])

    def _measure(self, shape: PassShape, at: dict[Operand, int]) -> int:
        self.device.run(compile_measuring(shape, self.config).at(*placed(at)), TIMEOUT)
        return self._statistics(at)[0]

    def _run(
        self,
        shape: PassShape,
        at: dict[Operand, int],
        chain: Chain | None,
        scale: Requantization,
        stream: Stream | None,
        bounds: DeviceShift | None,
    ) -> None:
        base_first, shift = (chain.base_first, chain.shift) if chain else (True, 0)
        values = {"scale_m": scale.mantissa, "scale_n": scale.shift, "shift": shift}
        if stream:
            values |= dict(zip(("key0", "key1"), stream.key, strict=True))
        if bounds:
            values |= {"t_low": bounds.low, "t_high": bounds.high}
        of = ListShape(shape, Operand.OUTPUT in at, base_first, shift > 0 or not base_first, stream is not None, bounds is not None)
        self.device.run(compile_layer(of, self.config).at(*placed(at), **values), TIMEOUT)

    def forward(self, operands: ForwardOperands, x: MatrixLayout, h: MatrixLayout) -> ForwardResult:
        numerics = self.numerics
        shape = self._shape(x.rows, forward=True)
        with self.device.arena():
            at = self._common(x, operands.aq.T) | {Operand.SKINNY: h.address}
            bounds = plan = None
            if numerics.on_device:
                bounds, b_chain = numerics.forward_bounds(operands)
                chain, scale = bounds.chain(bounds.extreme), bounds.requantization(bounds.low)
            else:
                plan = numerics.forward_plan(operands, self._measure(shape, at) if numerics.must_measure("H") else None)
                b_chain, chain, scale = plan.b_chain, plan.chain, plan.requantization
            adapter = np.ascontiguousarray(b_chain.T)
            at[Operand.ADAPTER] = self._place(row_major(self.memory.rank, shape.O, self.config), adapter).address
            out = self._place(shape.output(self.config))
            at[Operand.OUTPUT] = out.address
            self._run(shape, at, chain, scale, numerics.stream(Role.H, operands.step, operands.call), bounds)
            if plan is None:
                plan = numerics.forward_plan(operands, numerics.accumulator_maximum(self._statistics(at, 1)[0], scale))
            largest, saturated = self._statistics(at)
            return ForwardResult(plan, self._sums(out), numerics.accumulator_maximum(largest, plan.requantization), saturated)

    def backward(self, operands: BackwardOperands, x: MatrixLayout, h: MatrixLayout, *, need_dx: bool) -> BackwardResult:
        numerics, config, rank = self.numerics, self.config, self.memory.rank
        shape = self._shape(x.rows, forward=False)
        stream = numerics.stream(Role.DH, operands.forward.operands.step, operands.forward.operands.call)
        with self.device.arena():
            at = self._common(self._place(shape.left(config), operands.dyq), operands.forward.operands.bq)
            at |= {Operand.X: x.address, Operand.H: h.address}
            bounds = plan = None
            chain: Chain | None
            if numerics.on_device:
                bounds, a_chain = numerics.backward_bounds(operands, need_dx=need_dx)
                chain, scale = bounds.chain(bounds.extreme), bounds.requantization(bounds.low)
            else:
                plan = numerics.backward_plan(operands, self._measure(shape, at) if numerics.must_measure("dH") else None, need_dx=need_dx)
                a_chain, chain, scale = plan.a_chain, plan.chain, plan.requantization
            out = None
            if a_chain is not None:
                at[Operand.ADAPTER] = self._place(row_major(rank, shape.I, config), a_chain).address
                out = self._place(shape.output(config))
                at[Operand.OUTPUT] = out.address
            at[Operand.SKINNY] = self._place(self.memory.skinny.packed(shape.T, config)).address
            db, da = (self._place(row_major(rows, rank, config, 4)) for rows in (shape.O, shape.I))
            at |= {Operand.DB: db.address, Operand.DA: da.address}
            self._run(shape, at, chain, scale, stream, bounds)
            if plan is None:
                measured = numerics.accumulator_maximum(self._statistics(at, 1)[0], scale)
                plan = numerics.backward_plan(operands, measured, need_dx=need_dx)
            largest, saturated = self._statistics(at)
            maximum = numerics.accumulator_maximum(largest, plan.requantization)
            dx = None if out is None else self._sums(out)
            return BackwardResult(plan, dx, self._sums(db), self._sums(da), maximum, saturated)
