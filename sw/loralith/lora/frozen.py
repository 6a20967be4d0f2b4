"""Frozen layers on a device: a linear layer or a convolution whose W stays as it is. Numpy only; runs on a board.

    Y = X W^T    dX = dY W

with W [O, I] stored once, two elements per byte where the scheme's W has 4 bits, and read in both orders. Nothing is saved for the
backward pass: W is there, and X is not needed again. A convolution is the same product on the columns of its windows (im2col), made
here, on the host, from the quantized X.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loralith.device.arithmetic import kernels
from loralith.device.device import Device
from loralith.device.products import Resident, product
from loralith.spec.scales import rotation_block
from loralith.spec.scheme import FQT, Role, SchemeError, hash_words

from .convolution_windows import Window
from .quantize import Float32, Int8, QuantizedWeight, Stream, dequantize, finite32, quantize
from .rotation import rotate

__all__ = ["FrozenConv", "FrozenLinear", "Input", "Output", "Window"]


@dataclass(frozen=True)
class Output:
    """A forward pass: X as it was quantized (rotated where the scheme rotates), INT8 X and its scale, the INT32 sums [T, O], and Y in the
    layer's own shape. ``clipped`` counts values of X."""

    x: Float32
    xq: Int8
    sx: float
    acc: NDArray[np.int32]
    y: Float32
    clipped: int


@dataclass(frozen=True)
class Input:
    """A backward pass: INT8 dY and its scale, the sums (int32 [T, I], for a convolution int64 of X's shape), and dX."""

    dyq: Int8
    g: float
    acc: NDArray
    dx: Float32
    clipped: int


class FrozenLinear:
    """A linear layer with frozen W.

    Parameters: ``device``; ``weight``, quantized W [O, I], copied to the device now; ``scheme``; ``layer``, its place in the host's list;
    ``resident``, the same W on the device already, which stays another's to free.
    Errors: SchemeError for values and shapes that do not fit, DoesNotFit where no block fits the scratchpads, DeviceError of the device.
    """

    def __init__(self, device: Device, weight: QuantizedWeight, scheme: FQT, layer: int, resident: Resident | None = None) -> None:
        scheme.require_device()
        self.device, self.scheme, self.layer = device, scheme, layer
        self.scale = weight.scale
        self.O, self.I = weight.q.shape
        self.block = rotation_block(scheme.rotation, self._channels())
        self.owner = resident is None
        self.weight = resident or Resident.place(device, self._matrices(weight.q), scheme.weight_bits)

    def close(self) -> None:
        """Free the layer's device memory."""
        if self.owner:
            self.weight.free(self.device)

    def replace(self, weight: QuantizedWeight) -> None:
        """Another W of the same shape from now on, in the same memory. Raises SchemeError for another shape."""
        if weight.q.shape != (self.O, self.I):
            raise SchemeError(f"W must have the shape {(self.O, self.I)}, not {weight.q.shape}")
        layout = self.weight.layout(self.device)
        self.device.write(layout.address, layout.pack(weight.q))
        self.scale = weight.scale

    def _channels(self) -> int:
        """How many are rotated together."""
        return self.I

    def _matrices(self, weight: Int8) -> Int8:
        """W as a batch of matrices."""
        return weight[None]

    def _stream(self, role: Role, step: int, call: int) -> Stream | None:
        return Stream(*hash_words(self.scheme.seed, step, self.layer, role, call)) if self.scheme.is_stochastic(role) else None

    def forward(self, x: NDArray, step: int, call: int = 0) -> Output:
        """Y [T, O] from x [T, I], float32 or float16."""
        if x.ndim != 2 or x.shape[1] != self.I:
            raise SchemeError(f"X must have the shape [T, {self.I}], not {x.shape}")
        x = rotate(finite32(x, "X"), self.block, name="X")
        xq, sx, clipped = quantize(x, stream=self._stream(Role.X, step, call))
        acc = product(self.device, xq[None], self.weight, right_transposed=True)[0]
        return Output(x, xq, sx, acc, dequantize(acc, sx * self.scale.astype(np.float64)), clipped)

    def backward(self, dy: NDArray, step: int, call: int = 0) -> Input:
        """dX [T, I] from dy [T, O]."""
        dyq, g, clipped = self._gradient(dy, (len(dy), self.O), self.scale, step, call)
        acc = product(self.device, dyq[None], self.weight)[0]
        return Input(dyq, g, acc, rotate(dequantize(acc, g), self.block), clipped)

    def _gradient(self, dy: NDArray, shape: tuple[int, ...], scale: Float32, step: int, call: int) -> tuple[Int8, float, int]:
        """dY times W's row scales, quantized; ``scale`` broadcasts with it."""
        if dy.shape != shape:
            raise SchemeError(f"dY must have the shape {shape}, not {dy.shape}")
        with np.errstate(over="ignore"):
            weighted = finite32(finite32(dy, "dY") * scale, "dY * sw")
        return quantize(weighted, stream=self._stream(Role.DY, step, call))


class FrozenConv(FrozenLinear):
    """A convolution with frozen W, given as [O, C / groups * kernel]. Quantized tensors are hashed in the order of [N, C, ...].

    A device that multiplies on the host convolves there, where the host has kernels that do. Else it has W, and the columns, in the order
    of `Window.channel_runs`: the same sums. The groups of a convolution are a batch of products; where each has one channel and one output,
    such a device adds up the window's places instead.
    """

    def __init__(self, device: Device, weight: QuantizedWeight, window: Window, scheme: FQT, layer: int) -> None:
        elements = math.prod(window.kernel)
        self.window, self.C = window, weight.q.shape[1] // elements
        terms = max(self.C, len(weight.q) // window.groups) * elements
        self.convolutions = kernels().convolutions(window, terms) if device.direct else None
        self.runs = device.direct and self.convolutions is None
        self.depthwise = self.runs and window.groups > 1 and self.C == 1 and len(weight.q) == window.groups
        super().__init__(device, self._ordered(weight), scheme, layer)

    def _channels(self) -> int:
        return self.C

    def _matrices(self, weight: Int8) -> Int8:
        return self.window.split_weight(weight)

    def replace(self, weight: QuantizedWeight) -> None:
        super().replace(self._ordered(weight) if weight.q.shape == (self.O, self.I) else weight)

    def _ordered(self, weight: QuantizedWeight) -> QuantizedWeight:
        if not self.runs:
            return weight
        kernel = math.prod(self.window.kernel)
        q = weight.q.reshape(len(weight.q), -1, kernel).transpose(0, 2, 1)
        return QuantizedWeight(np.ascontiguousarray(q).reshape(weight.q.shape), weight.scale)

    def _columns(self, x: NDArray) -> NDArray:
        return self.window.channel_runs(x) if self.runs else self.window.columns(x)

    def _stored(self) -> Int8:
        """W as the device has it, [O, C / groups * kernel]."""
        layout = self.weight.layout(self.device)
        return layout.unpack(self.device.view(layout.address, layout.nbytes), np.int8)

    def _places(self) -> NDArray[np.int32]:
        """W of a depthwise convolution as [kernel, C]."""
        return self._stored().T.astype(np.int32)

    def _filters(self) -> Int8:
        """W as [O, C / groups, *kernel]."""
        return self._stored().reshape(self.O, self.C, *self.window.kernel)

    def forward(self, x: NDArray, step: int, call: int = 0) -> Output:
        """Y [N, O, ...] from x [N, C, ...]."""
        channels = self.C * self.window.groups
        if x.ndim != 2 + len(self.window.kernel) or x.shape[1] != channels:
            sizes = {1: "L", 2: "H, W", 3: "D, H, W"}[len(self.window.kernel)]
            raise SchemeError(f"X must have the shape [N, {channels}, {sizes}], not {x.shape}")
        x = rotate(finite32(x, "X"), self.block, 1, "X")
        xq, sx, clipped = quantize(x, stream=self._stream(Role.X, step, call))
        scale = sx * self.scale.astype(np.float64)
        if self.convolutions:
            image = self.convolutions.convolution(xq, self._filters(), self.window)
            y = dequantize(image, scale.reshape(-1, *[1] * len(self.window.kernel)))
            return Output(x, xq, sx, self.window.rows_of(image), y, clipped)
        columns = self._columns(xq)
        if self.depthwise:
            acc = np.einsum("mkc,kc->mc", columns.reshape(len(columns), -1, channels), self._places())
        else:
            parts = product(self.device, self.window.split(columns, runs=self.runs), self.weight, right_transposed=True)
            acc = self.window.joined_outputs(parts)
        return Output(x, xq, sx, acc, self.window.shaped(dequantize(acc, scale), x.shape), clipped)

    def backward(self, dy: NDArray, step: int, call: int = 0, *, shape: tuple[int, ...] | None = None) -> Input:
        """dX of ``shape`` [N, C, ...] from dy [N, O, ...]."""
        assert shape is not None
        wanted = (shape[0], self.O, *self.window.output(*shape[2:]))
        scale = self.scale.reshape(-1, *[1] * len(self.window.kernel))
        dyq, g, clipped = self._gradient(dy, wanted, scale, step, call)
        if self.convolutions:
            acc = self.convolutions.convolution_input(dyq, self._filters(), self.window, shape[2:])
            return Input(dyq, g, acc, rotate(dequantize(acc, g), self.block, 1), clipped)
        tokens = self.window.rows_of(dyq)
        if self.depthwise:
            columns = np.multiply(tokens[:, None, :], self._places()[None], dtype=np.int32)
        else:
            columns = self.window.joined(product(self.device, self.window.split_outputs(tokens), self.weight), runs=self.runs)
        acc = self.window.image(columns, shape, runs=self.runs)
        return Input(dyq, g, acc, rotate(dequantize(acc, g), self.block, 1), clipped)
