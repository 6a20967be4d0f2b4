"""Trained layers on a device: a linear layer or a convolution whose W changes from step to step. Numpy only; runs on a board.

    Y = X W^T    dX = dY W    dW = dY^T X

X, W and dY have one scale each (docs/numerics.md, section 7). INT8 X and W of a pass stay on the device for its backward pass; a
convolution keeps X itself, and cuts its windows from that once more for dW.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loralith.device.device import Device
from loralith.device.products import Resident, product
from loralith.spec.numerics import K_LIMIT
from loralith.spec.scales import rotation_block
from loralith.spec.scheme import FQT, Role, SchemeError, hash_words

from .convolution_windows import Window
from .layer import Activation
from .quantize import Float32, Int8, Quantized, Stream, dequantize, finite32, quantize
from .rotation import rotate

__all__ = ["TrainedConv", "TrainedGradients", "TrainedLinear", "TrainedPass"]


@dataclass(eq=False)
class TrainedPass:
    """A forward pass, and what its backward pass needs.

    Attributes:
        x: INT8 X on the device, with its scale; w: INT8 W [1, O, K], sw its scale.
        shape: of X; step and call: its place.
        xq, wq: the INT8 operands; acc: the INT32 sums [T, O]; y: Y in the layer's own shape. None after `drop_host_arrays`.
    """

    x: Activation
    w: Resident
    sw: float
    shape: tuple[int, ...]
    step: int
    call: int
    clipped: dict[str, int]
    xq: Int8 | None
    wq: Int8 | None
    acc: NDArray[np.int32] | None
    y: Float32 | None

    def drop_host_arrays(self) -> None:
        """Frees every array on the host."""
        self.xq = self.wq = self.acc = self.y = None


@dataclass(frozen=True)
class TrainedGradients:
    """A backward pass: INT8 dY, its scale, and dX and dW with the integer sums behind them, None where they were not asked for.

    Shapes: dx and dx_acc of X, dw of W; dw_acc [O, K].
    """

    dyq: Int8
    g: float
    clipped: int
    dx_acc: NDArray | None
    dx: Float32 | None
    dw_acc: NDArray | None
    dw: Float32 | None


class TrainedLinear:
    """A linear layer. ``layer``: its place in the host's list. Errors: SchemeError for values and shapes that do not fit, DoesNotFit where
    no block fits the scratchpads, DeviceError of the device."""

    def __init__(self, device: Device, scheme: FQT, layer: int) -> None:
        scheme.require_device()
        self.device, self.scheme, self.layer = device, scheme, layer

    def close(self) -> None:
        """There is no memory beside that of passes."""

    # What a linear layer and a convolution have of their own.

    def check(self, x: tuple[int, ...], w: tuple[int, ...]) -> None:
        """Raises SchemeError where X does not fit W."""
        if len(x) != 2 or x[1] != w[1]:
            raise SchemeError(f"X must have the shape [T, {w[1]}], not {x}")

    axis = -1
    """Of X's and W's channels."""

    def rotated(self, tensor: Float32, channels: int, name: str = "") -> Float32:
        """X, W, dX or dW rotated along the channels, as the scheme has it; ``channels`` of W."""
        return rotate(tensor, rotation_block(self.scheme.rotation, channels), self.axis, name)

    def rows(self, xq: Int8) -> Int8:
        """INT8 X as the left operands [1, T, K], or of a convolution's groups."""
        return xq[None]

    def matrices(self, wq: Int8) -> Int8:
        """INT8 W [O, K] as [1, O, K], or of a convolution's groups."""
        return wq[None]

    def outputs(self, acc: NDArray) -> NDArray:
        """Sums of Y as [T, O]."""
        return acc[0]

    def shaped(self, y: Float32, shape: tuple[int, ...]) -> Float32:
        """Y in the layer's own shape, from [T, O]; ``shape`` of X."""
        return y

    def flat(self, dyq: Int8) -> Int8:
        """INT8 dY as [1, T, O], or of a convolution's groups."""
        return dyq[None]

    def image(self, sums: NDArray, shape: tuple[int, ...]) -> NDArray:
        """Sums of dX in X's shape."""
        return sums[0]

    # Passes.

    def _stream(self, role: Role, step: int, call: int) -> Stream | None:
        return Stream(*hash_words(self.scheme.seed, step, self.layer, role, call)) if self.scheme.is_stochastic(role) else None

    def forward(self, x: NDArray, w: NDArray, step: int, call: int = 0, *, shared: Activation | None = None) -> TrainedPass:
        """Y of x [T, I] and w [O, I], float32. ``shared``: INT8 X, where it is on the device already. `release` frees what it keeps."""
        self.check(x.shape, w.shape)
        if shared is None:
            xq, sx, clipped = quantize(self.rotated(finite32(x, "X"), w.shape[1], "X"), stream=self._stream(Role.X, step, call))
        else:
            xq, sx, clipped = shared.quantized.q.reshape(x.shape), shared.scale, shared.clipped
        wq, sw, clipped_w = quantize(self.rotated(finite32(w, "W"), w.shape[1], "W"), stream=self._stream(Role.A, step, call))
        wq = wq.reshape(len(wq), -1)
        activation = shared.hold() if shared else Activation.place(self.device, Quantized(xq.reshape(-1, x.shape[-1]), sx, clipped))
        resident = None
        try:
            resident = Resident.place(self.device, self.matrices(wq))
            acc = self.outputs(product(self.device, self.rows(xq), resident, right_transposed=True))
        except BaseException:
            activation.release()
            if resident is not None:
                resident.free(self.device)
            raise
        y = self.shaped(dequantize(acc, sx * sw), x.shape)
        return TrainedPass(activation, resident, sw, x.shape, step, call, {"X": clipped, "W": clipped_w}, xq, wq, acc, y)

    def release(self, saved: TrainedPass) -> None:
        """Free what a forward pass keeps."""
        saved.x.release()
        saved.w.free(self.device)

    def backward(self, saved: TrainedPass, dy: NDArray, w_shape: tuple[int, ...], *, need_x: bool, need_w: bool) -> TrainedGradients:
        """dX and dW, where they are asked for, from dY in Y's shape."""
        dyq, g, clipped = quantize(finite32(dy, "dY"), stream=self._stream(Role.DY, saved.step, saved.call))
        rows = self.flat(dyq)
        dx_acc = dx = dw_acc = dw = None
        if need_x:
            dx_acc = self.image(product(self.device, rows, saved.w), saved.shape)
            dx = self.rotated(dequantize(dx_acc, g * saved.sw), w_shape[1])
        if need_w:
            dw_acc = self.weight_sums(rows, saved)
            dw = self.rotated(dequantize(dw_acc, g * saved.x.scale).reshape(w_shape), w_shape[1])
        return TrainedGradients(dyq, g, clipped, dx_acc, dx, dw_acc, dw)

    def weight_sums(self, rows: Int8, saved: TrainedPass) -> NDArray:
        """dY^T X. A reduction that INT32 does not hold is made in parts, which the host adds."""
        length = rows.shape[1]
        if length <= K_LIMIT:
            sums = product(self.device, rows, self.kept(saved), left_transposed=True)
        else:
            x = self.rows(saved.x.quantized.q.reshape(saved.shape))
            starts = range(0, length, K_LIMIT)
            parts = [product(self.device, rows[:, i : i + K_LIMIT], x[:, i : i + K_LIMIT], left_transposed=True) for i in starts]
            sums = np.stack(parts).sum(axis=0, dtype=np.int64)
        return sums.reshape(-1, sums.shape[2])

    def kept(self, saved: TrainedPass) -> Resident | Int8:
        """INT8 X of a pass as [1, T, K]."""
        layout = saved.x.layout
        return Resident(layout.address, 1, layout.rows, layout.cols)


class TrainedConv(TrainedLinear):
    """A convolution; x [N, C, ...], w [O, C / groups, kernel]. Tensors are hashed in their own order."""

    def __init__(self, device: Device, window: Window, scheme: FQT, layer: int) -> None:
        super().__init__(device, scheme, layer)
        self.window = window

    axis = 1

    def check(self, x: tuple[int, ...], w: tuple[int, ...]) -> None:
        channels = w[1] * self.window.groups
        if len(x) != 2 + len(self.window.kernel) or x[1] != channels:
            sizes = {1: "L", 2: "H, W", 3: "D, H, W"}[len(self.window.kernel)]
            raise SchemeError(f"X must have the shape [N, {channels}, {sizes}], not {x}")

    def rows(self, xq: Int8) -> Int8:
        return self.window.split(self.window.columns(xq))

    def matrices(self, wq: Int8) -> Int8:
        return self.window.split_weight(wq)

    def outputs(self, acc: NDArray) -> NDArray:
        return self.window.joined_outputs(acc)

    def shaped(self, y: Float32, shape: tuple[int, ...]) -> Float32:
        return self.window.shaped(y, shape)

    def flat(self, dyq: Int8) -> Int8:
        return self.window.split_outputs(self.window.rows_of(dyq))

    def image(self, sums: NDArray, shape: tuple[int, ...]) -> NDArray:
        return self.window.image(self.window.joined(sums), shape)

    def kept(self, saved: TrainedPass) -> Resident | Int8:
        return self.rows(saved.x.quantized.q.reshape(saved.shape))
