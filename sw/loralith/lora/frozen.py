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

from loralith.device.device import Device
from loralith.device.products import Resident, product
from loralith.spec.scales import rotation_block
from loralith.spec.scheme import FQT, Role, SchemeError, hash_words

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
        self.weight = resident or Resident.place(device, weight.q[None], scheme.weight_bits)

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


@dataclass(frozen=True)
class Window:
    """Where a convolution looks: (height, width) each. Zeros surround the image."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result."""
        places = zip((height, width), self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in places)  # type: ignore[return-value]

    def _places(self, padded: NDArray, height: int, width: int) -> list[NDArray]:
        """Views [N, C, height, width] of a padded image, one for each element of the kernel, row by row."""
        (sy, sx), (dy, dx) = self.stride, self.dilation
        return [
            padded[:, :, i * dy : i * dy + sy * (height - 1) + 1 : sy, j * dx : j * dx + sx * (width - 1) + 1 : sx]
            for i in range(self.kernel[0])
            for j in range(self.kernel[1])
        ]

    def columns(self, x: NDArray) -> NDArray:
        """[N, C, H, W] to [N * H' * W', C * kernel]: a row for each place of the window, in the order of a flattened weight."""
        N, C, H, W = x.shape
        height, width = self.output(H, W)
        (py, px) = self.padding
        padded = np.zeros((N, C, H + 2 * py, W + 2 * px), x.dtype)
        padded[:, :, py : py + H, px : px + W] = x
        columns = np.stack(self._places(padded, height, width), axis=-1)  # [N, C, H', W', kernel]
        return np.ascontiguousarray(columns.transpose(0, 2, 3, 1, 4)).reshape(N * height * width, -1)

    def channel_runs(self, x: NDArray) -> NDArray:
        """`columns` in another order, [N * H' * W', kernel * C]: channels lie side by side, so that runs of them are copied."""
        N, C, H, W = x.shape
        height, width = self.output(H, W)
        (py, px) = self.padding
        padded = np.zeros((N, H + 2 * py, W + 2 * px, C), x.dtype)
        padded[:, py : py + H, px : px + W] = x.transpose(0, 2, 3, 1)
        runs = np.empty((N, height, width, math.prod(self.kernel), C), x.dtype)
        for number, place in enumerate(self._places(padded.transpose(0, 3, 1, 2), height, width)):
            runs[:, :, :, number] = place.transpose(0, 2, 3, 1)
        return runs.reshape(N * height * width, -1)

    def image(self, columns: NDArray, shape: tuple[int, int, int, int], *, runs: bool = False) -> NDArray:
        """The transpose of `columns`, or of `channel_runs`: each value added to where it came from, int64 of ``shape`` [N, C, H, W]."""
        N, C, H, W = shape
        height, width = self.output(H, W)
        (py, px) = self.padding
        padded = np.zeros((N, H + 2 * py, W + 2 * px, C), np.int64).transpose(0, 3, 1, 2)
        axes = (3, 0, 4, 1, 2) if runs else (4, 0, 3, 1, 2)
        parts = columns.reshape(N, height, width, *((-1, C) if runs else (C, -1))).transpose(axes)
        for place, part in zip(self._places(padded, height, width), parts, strict=True):
            place += part
        return padded[:, :, py : py + H, px : px + W]


class FrozenConv(FrozenLinear):
    """A convolution with frozen W, given as [O, C * kernel]. Quantized tensors are hashed in the order of [N, C, H, W].

    A device that multiplies on the host has W, and the columns, in the order of `Window.channel_runs`: the same sums.
    """

    def __init__(self, device: Device, weight: QuantizedWeight, window: Window, scheme: FQT, layer: int) -> None:
        self.window, self.runs = window, device.direct
        self.C = weight.q.shape[1] // math.prod(window.kernel)
        super().__init__(device, self._ordered(weight), scheme, layer)

    def _channels(self) -> int:
        return self.C

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

    def forward(self, x: NDArray, step: int, call: int = 0) -> Output:
        """Y [N, O, H', W'] from x [N, C, H, W]."""
        if x.ndim != 4 or x.shape[1] != self.C:
            raise SchemeError(f"X must have the shape [N, {self.C}, H, W], not {x.shape}")
        x = rotate(finite32(x, "X"), self.block, 1, "X")
        xq, sx, clipped = quantize(x, stream=self._stream(Role.X, step, call))
        height, width = self.window.output(*x.shape[2:])
        acc = product(self.device, self._columns(xq)[None], self.weight, right_transposed=True)[0]
        y = dequantize(acc, sx * self.scale.astype(np.float64)).reshape(len(x), height, width, self.O)
        return Output(x, xq, sx, acc, np.ascontiguousarray(y.transpose(0, 3, 1, 2)), clipped)

    def backward(self, dy: NDArray, step: int, call: int = 0, *, shape: tuple[int, int, int, int] | None = None) -> Input:
        """dX of ``shape`` [N, C, H, W] from dy [N, O, H', W']."""
        assert shape is not None
        wanted = (shape[0], self.O, *self.window.output(*shape[2:]))
        dyq, g, clipped = self._gradient(dy, wanted, self.scale[:, None, None], step, call)
        tokens = np.ascontiguousarray(dyq.transpose(0, 2, 3, 1)).reshape(-1, self.O)
        acc = self.window.image(product(self.device, tokens[None], self.weight)[0], shape, runs=self.runs)
        return Input(dyq, g, acc, rotate(dequantize(acc, g), self.block, 1), clipped)
