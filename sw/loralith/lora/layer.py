"""One LoRA layer on a device: its memory, its lists, and what they return. Numpy only; runs on a board."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from loralith.compiler.emit import Emitter, Exponent
from loralith.compiler.gradient import Gradient, compile_gradient
from loralith.compiler.layout import MatrixLayout, int_layout, row_major
from loralith.compiler.order import AHEAD
from loralith.compiler.passes import MEASURED_SLOT, SKINNY_STATS_BYTES, Pass, compile_pass
from loralith.compiler.skinny import SkinnyShape, skinny_shape
from loralith.device.base import Device
from loralith.spec.commands import STAT_BYTES
from loralith.spec.device_shift import DeviceShift
from loralith.spec.numerics import Requantization
from loralith.spec.scheme import FQT, Chain, Role, SchemeError

from .quantize import Float32, Quantized, QuantizedWeight, Stream
from .step import BackwardPlan, ForwardPlan, LayerNumerics

__all__ = ["Activation", "DeviceLayer", "Saved"]

TIMEOUT = 600.0
"""Seconds that one list may take; a simulated device is slow."""


@dataclass(eq=False)
class Activation:
    """INT8 X on a device, shared by the layers that read the same tensor; freed when the last of its ``holders`` lets go."""

    device: Device
    layout: MatrixLayout
    scale: float
    clipped: int
    holders: int = 1

    @classmethod
    def place(cls, device: Device, x: Quantized) -> Activation:
        """Copies X [T, I] to the device; the caller is its first holder."""
        layout = row_major(x.q.shape[0], x.q.shape[1], device.config)
        layout = layout.at(device.alloc(layout.nbytes + 64))  # the bus reads whole words past the last row
        device.write(layout.address, layout.pack(x.q))
        return cls(device, layout, x.scale, x.clipped)

    @property
    def quantized(self) -> Quantized:
        """A copy from the device."""
        q = self.layout.unpack(self.device.read(self.layout.address, self.layout.nbytes), np.int8)
        return Quantized(q, self.scale, self.clipped)

    def hold(self) -> Activation:
        self.holders += 1
        return self

    def release(self) -> None:
        self.holders -= 1
        if not self.holders:
            self.device.free(self.layout.address)


@dataclass(eq=False)
class Saved:
    """What a forward pass leaves for its backward pass: on the device INT8 X and H, on the host scales.

    Attributes:
        plan: the forward pass's numbers.
        x: X [T, I]; skinny: layout of H. addresses: to be freed.
        y: Y [T, O] float32. y_acc: the INT32 behind it.
    """

    plan: ForwardPlan
    x: Activation
    skinny: MatrixLayout
    addresses: tuple[int, ...]
    y: Float32
    y_acc: np.ndarray

    def keep(self) -> None:
        """Lets go of every array on the host; the backward pass must then be given A and B again."""
        nothing = np.empty((0, 0), np.int8)
        self.plan = replace(self.plan, operands=self.plan.operands.scales(), b_chain=nothing, y_scale=nothing.astype(np.float64))
        self.y, self.y_acc = np.empty((0, 0), np.float32), np.empty((0, 0), np.int32)

    def host_bytes(self) -> int:
        """Of the arrays that it holds on the host."""
        plan = self.plan
        holders = vars(self), vars(plan), vars(plan.operands)
        arrays = [value for values in holders for value in values.values() if isinstance(value, np.ndarray)]
        return sum(array.nbytes for array in arrays if any(array.strides))  # without strides it is one zero, repeated


@dataclass(frozen=True)
class Gradients:
    """What a backward pass returns: gradients as float32, and the INT32 behind them.

    Shapes: dx [T, I] or None, da [r, I], db [O, r]; da_acc is [I, r].
    """

    plan: BackwardPlan
    dx: Float32 | None
    da: Float32
    db: Float32
    dx_acc: np.ndarray | None
    da_acc: np.ndarray
    db_acc: np.ndarray


class DeviceLayer:
    """A linear layer with frozen W and a LoRA adapter whose products run on a device.

    Parameters: ``device``; ``weight``, quantized W [O, I], copied to the device now, two elements per byte where ``scheme.weight_bits`` is
    4; ``alpha``; ``rank``; ``scheme``; ``layer``, its place in the host's list. Errors: SchemeError for values and shapes that do not
    fit, ValueError for a value of W that 4 bits do not hold, DoesNotFit where no block fits the scratchpads, DeviceError of the device.
    """

    def __init__(self, device: Device, weight: QuantizedWeight, alpha: float, rank: int, scheme: FQT, layer: int = 0) -> None:
        self.device, self.config, self.rank = device, device.config, rank
        self.numerics = LayerNumerics(weight, alpha, scheme, layer)
        self.O, self.I = weight.q.shape
        self.skinny: SkinnyShape = skinny_shape(rank, device.config)
        self._addresses: list[int] = []
        self.weight = self._place(int_layout(self.O, self.I, scheme.weight_bits, self.config), weight.q, self._addresses)
        zeros = self.device.alloc(64)
        self.device.write(zeros, bytes(64))
        self._addresses.append(zeros)
        self.zeros = zeros
        self.saturations = {"H": 0, "dH": 0}

    def replace(self, weight: QuantizedWeight) -> None:
        """Another W of the same shape from now on, in the same memory. Raises SchemeError for another shape."""
        if weight.q.shape != (self.O, self.I):
            raise SchemeError(f"W must have the shape {(self.O, self.I)}, not {weight.q.shape}")
        self.device.write(self.weight.address, self.weight.pack(weight.q))
        self.numerics.weight = weight

    def close(self) -> None:
        """Free the layer's device memory."""
        while self._addresses:
            self.device.free(self._addresses.pop())

    # Memory.

    def _reserve(self, layout: MatrixLayout, addresses: list[int]) -> MatrixLayout:
        # Folded loads and the bus read whole words past the last row.
        address = self.device.alloc(layout.nbytes + 64)
        addresses.append(address)
        return layout.at(address)

    def _place(self, layout: MatrixLayout, values: np.ndarray, addresses: list[int]) -> MatrixLayout:
        image = layout.pack(values)
        layout = self._reserve(layout, addresses)
        self.device.write(layout.address, image)
        return layout

    def _place_skinny_right(self, values: np.ndarray, addresses: list[int]) -> MatrixLayout:
        """A or B as right operand of a reduction over their longer side: values [K, r]."""
        layout = self.skinny.right(len(values), self.config)
        return self._place(layout, self.skinny.right_image(values, self.config), addresses)

    def _read(self, layout: MatrixLayout) -> np.ndarray:
        return layout.unpack(self.device.read(layout.address, layout.nbytes), np.int32)

    def _statistics(self, address: int, index: int = 0) -> tuple[int, int]:
        """(max |p|, saturations) of the skinny product, or of the slot ``index`` behind it."""
        slot = self.device.read(address + index * STAT_BYTES, STAT_BYTES)
        return int(slot[:8].view("<u8")[0]), int(slot[8:12].view("<u4")[0])

    # Passes.

    def _measuring(
        self, left: MatrixLayout, skinny_right: MatrixLayout, base_transposed: bool, stats: int, scale: Requantization | None = None
    ) -> Pass:
        return Pass(left, self.weight, base_transposed, skinny_right, None, None, None, True, 0, scale, None, stats, self.zeros)

    def _measure(self, left: MatrixLayout, skinny_right: MatrixLayout, base_transposed: bool, stats: int) -> int:
        emitter = Emitter(self.config)
        compile_pass(emitter, self._measuring(left, skinny_right, base_transposed, stats), self.rank)
        self.device.run(emitter.finish(AHEAD), TIMEOUT)
        return self._statistics(stats)[0]

    def _pass(self, emitter: Emitter, work: Pass, bounds: DeviceShift | None) -> None:
        """Adds a pass; where the device sets its scales, a pass that measures them goes before it."""
        if bounds:
            measuring = self._measuring(work.left, work.skinny_right, work.base_transposed, work.stats, work.requantization)
            compile_pass(emitter, measuring, self.rank)
            work = replace(work, exponent=Exponent(MEASURED_SLOT, bounds.low, bounds.high, up=not bounds.base_first))
        compile_pass(emitter, work, self.rank)

    def _maximum(self, stats: int, requantization: Requantization) -> int:
        """The largest accumulator of the skinny product of the list that just ran."""
        return self.numerics.accumulator_maximum(self._statistics(stats)[0], requantization)

    def _measured(self, stats: int, scale: Requantization) -> int:
        """The largest accumulator that the measuring pass of the list that just ran has seen."""
        return self.numerics.accumulator_maximum(self._statistics(stats, 1)[0], scale)

    @staticmethod
    def _key(stream: Stream | None) -> tuple[int, int] | None:
        return stream.key if stream else None

    def forward(
        self,
        x: Float32 | Activation,
        a: Float32,
        b: Float32,
        step: int,
        call: int = 0,
        *,
        alpha: float | None = None,
        record: bool = True,
    ) -> Saved:
        """Y = X W^T + s (X A^T) B^T. x [T, I], a [r, I], b [O, r] float32; ``alpha`` of this pass, by default the layer's; ``record`` False
        leaves delayed scales as they are.

        X may be on the device already, where another layer reads the same. Its device memory stays taken until `release` (or `backward`,
        which releases it).
        """
        numerics, config = self.numerics, self.config
        operands = numerics.forward_operands(x.quantized if isinstance(x, Activation) else x, a, b, step, call, alpha)
        kept: list[int] = []
        if isinstance(x, Activation):
            activation = x.hold()
        else:
            activation = Activation.place(self.device, Quantized(operands.xq, operands.sx, operands.clipped["X"]))
        try:
            xs = activation.layout
            T = xs.rows
            skinny = self._reserve(self.skinny.packed(T, config), kept)
            with self.device.arena():
                temporary: list[int] = []
                right = self._place_skinny_right(operands.aq.T, temporary)
                stats = self.device.alloc(SKINNY_STATS_BYTES)
                bounds = plan = None
                if numerics.on_device:
                    bounds, b_chain = numerics.forward_bounds(operands)
                    chain, scale = bounds.chain(bounds.extreme), bounds.requantization(bounds.low)
                else:
                    measured = self._measure(xs, right, True, stats) if numerics.must_measure("H") else None
                    plan = numerics.forward_plan(operands, measured)
                    b_chain, chain, scale = plan.b_chain, plan.chain, plan.requantization
                adapter = self._place(row_major(self.rank, self.O, config), np.ascontiguousarray(b_chain.T), temporary)
                out = self._reserve(row_major(T, self.O, config, 4), temporary)
                emitter = Emitter(config)
                self._pass(
                    emitter,
                    Pass(
                        left=xs,
                        base=self.weight,
                        base_transposed=True,
                        skinny_right=right,
                        adapter=adapter,
                        output=out,
                        skinny=skinny,
                        base_first=chain.base_first,
                        shift=chain.shift,
                        requantization=scale,
                        stochastic=self._key(numerics.stream(Role.H, step, call)),
                        stats=stats,
                        zeros=self.zeros,
                    ),
                    bounds,
                )
                self.device.run(emitter.finish(AHEAD), TIMEOUT)
                if plan is None:
                    plan = numerics.forward_plan(operands, self._measured(stats, scale))
                acc = self._read(out)
                if record:
                    numerics.record("H", self._maximum(stats, plan.requantization))
                self.saturations["H"] += self._statistics(stats)[1]
        except BaseException:
            activation.release()
            for address in kept:
                self.device.free(address)
            raise
        return Saved(plan, activation, skinny, tuple(kept), plan.y(acc), acc)

    def release(self, saved: Saved) -> None:
        """Free what a forward pass left on the device."""
        saved.x.release()
        for address in saved.addresses:
            self.device.free(address)

    def backward(
        self,
        saved: Saved,
        dy: Float32,
        adapter: tuple[Float32, Float32] | None = None,
        *,
        need_dx: bool = True,
        record: bool = True,
        release: bool = True,
    ) -> Gradients:
        """dX, dA and dB from dY [T, O] float32; releases ``saved`` unless ``release`` is False, and does not change it. ``adapter``: the A
        and B of the forward pass, after `Saved.keep`."""
        try:
            forward = saved.plan
            if adapter is not None:
                before = forward.operands
                x = Quantized(before.xq, before.sx, before.clipped["X"])
                again = self.numerics.forward_operands(x, *adapter, before.step, before.call, before.alpha)
                forward = replace(forward, operands=again)
            return self._backward(saved, forward, dy, need_dx, record)
        finally:
            if release:
                self.release(saved)

    def _backward(self, saved: Saved, forward: ForwardPlan, dy: Float32, need_dx: bool, record: bool) -> Gradients:
        numerics, config = self.numerics, self.config
        operands = numerics.backward_operands(forward, dy)
        T = saved.x.layout.rows
        with self.device.arena():
            temporary: list[int] = []
            dys = self._place(row_major(T, self.O, config), operands.dyq, temporary)
            right = self._place_skinny_right(forward.operands.bq, temporary)
            stats = self.device.alloc(SKINNY_STATS_BYTES)
            bounds = plan = None
            chain: Chain | None
            if numerics.on_device:
                bounds, a_chain = numerics.backward_bounds(operands, need_dx=need_dx)
                chain, scale = bounds.chain(bounds.extreme), bounds.requantization(bounds.low)
            else:
                measured = self._measure(dys, right, False, stats) if numerics.must_measure("dH") else None
                plan = numerics.backward_plan(operands, measured, need_dx=need_dx)
                a_chain, chain, scale = plan.a_chain, plan.chain, plan.requantization
            skinny = self._reserve(self.skinny.packed(T, config), temporary)
            adapter = out = None
            if need_dx:
                assert a_chain is not None
                adapter = self._place(row_major(self.rank, self.I, config), a_chain, temporary)
                out = self._reserve(row_major(T, self.I, config, 4), temporary)
            db = self._reserve(row_major(self.O, self.rank, config, 4), temporary)
            da = self._reserve(row_major(self.I, self.rank, config, 4), temporary)
            emitter = Emitter(config)
            self._pass(
                emitter,
                Pass(
                    left=dys,
                    base=self.weight,
                    base_transposed=False,
                    skinny_right=right,
                    adapter=adapter,
                    output=out,
                    skinny=skinny,
                    base_first=chain.base_first if chain else True,
                    shift=chain.shift if chain else 0,
                    requantization=scale,
                    stochastic=self._key(numerics.stream(Role.DH, forward.operands.step, forward.operands.call)),
                    stats=stats,
                    zeros=self.zeros,
                ),
                bounds,
            )
            h_right = self.skinny.right(T, config).at(saved.skinny.address)
            dh_right = self.skinny.right(T, config).at(skinny.address)
            compile_gradient(emitter, Gradient(dys, h_right, db), self.rank, "dB")
            compile_gradient(emitter, Gradient(saved.x.layout, dh_right, da), self.rank, "dA")
            self.device.run(emitter.finish(AHEAD), TIMEOUT)
            if plan is None:
                plan = numerics.backward_plan(operands, self._measured(stats, scale), need_dx=need_dx)
            db_acc, da_acc = self._read(db), self._read(da)
            dx_acc = self._read(out) if out is not None else None
            if record:
                numerics.record("dH", self._maximum(stats, plan.requantization))
            self.saturations["dH"] += self._statistics(stats)[1]
        dx = plan.dx(dx_acc) if dx_acc is not None else None
        return Gradients(plan, dx, plan.da(da_acc), plan.db(db_acc), dx_acc, da_acc, db_acc)
