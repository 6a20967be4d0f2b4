"""One LoRA layer on a device: its memory, its lists, and what they return. Numpy only; runs on a board."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from loralith.compiler.storage.layout import MatrixLayout, SkinnyShape, int_layout, operand_bytes, row_major, skinny_shape
from loralith.device.device import Device
from loralith.spec.scheme import FQT, SchemeError

from .direct_passes import DirectPasses
from .layer_step import BackwardPlan, ForwardPlan, LayerNumerics
from .listed_passes import ListedPasses
from .pass_interface import LayerMemory, Passes
from .quantize import Float32, Quantized, QuantizedWeight

__all__ = ["Activation", "DeviceLayer", "Saved"]


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
        layout = layout.at(device.alloc(operand_bytes(layout, device.config)))
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

    def drop_host_arrays(self) -> None:
        """Frees every array on the host; the caller must then pass A and B to the backward pass."""
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
        memory = LayerMemory(device, self.weight, zeros, rank, self.skinny)
        self.passes: Passes = (DirectPasses if device.direct else ListedPasses)(memory, self.numerics)
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
        address = self.device.alloc(operand_bytes(layout, self.config))
        addresses.append(address)
        return layout.at(address)

    def _place(self, layout: MatrixLayout, values: np.ndarray, addresses: list[int]) -> MatrixLayout:
        image = layout.pack(values)
        layout = self._reserve(layout, addresses)
        self.device.write(layout.address, image)
        return layout

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
        numerics = self.numerics
        operands = numerics.forward_operands(x.quantized if isinstance(x, Activation) else x, a, b, step, call, alpha)
        addresses: list[int] = []
        if isinstance(x, Activation):
            activation = x.hold()
        else:
            activation = Activation.place(self.device, Quantized(operands.xq, operands.sx, operands.clipped["X"]))
        try:
            xs = activation.layout
            h = self._reserve(self.skinny.packed(xs.rows, self.config), addresses)
            result = self.passes.forward(operands, xs, h)
            if record:
                numerics.record("H", result.maximum)
            self.saturations["H"] += result.saturated
        except BaseException:
            activation.release()
            for address in addresses:
                self.device.free(address)
            raise
        return Saved(result.plan, activation, h, tuple(addresses), result.plan.y(result.y), result.y)

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
        and B of the forward pass, after `Saved.drop_host_arrays`."""
        try:
            forward = saved.plan
            if adapter is not None:
                before = forward.operands
                x = Quantized(before.xq, before.sx, before.clipped["X"])
                requantized = self.numerics.forward_operands(x, *adapter, before.step, before.call, before.alpha)
                forward = replace(forward, operands=requantized)
            return self._backward(saved, forward, dy, need_dx, record)
        finally:
            if release:
                self.release(saved)

    def _backward(self, saved: Saved, forward: ForwardPlan, dy: Float32, need_dx: bool, record: bool) -> Gradients:
        operands = self.numerics.backward_operands(forward, dy)
        result = self.passes.backward(operands, saved.x.layout, saved.skinny, need_dx=need_dx)
        if record:
            self.numerics.record("dH", result.maximum)
        self.saturations["dH"] += result.saturated
        plan = result.plan
        dx = None if result.dx is None else plan.dx(result.dx)
        return Gradients(plan, dx, plan.da(result.da), plan.db(result.db), result.dx, result.da, result.db)
