"""Frozen layers whose X has two INT8 words, forward only. Numpy only; runs on a board.

    x = sx (2^8 high + low),    Y = sx sw (2^8 high Wq^T + low Wq^T),

one chained product: the sums of the high words shift left by 8 in the array, exactly, before the low words' are added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loralith.device.device import Device
from loralith.device.products import wide_product
from loralith.spec.scales import scale_of, vanishes
from loralith.spec.scheme import FQT, SchemeError

from .frozen import FrozenConv, FrozenLinear, Input, Output, Window
from .quantize import Float32, Int8, QuantizedWeight, dequantize, finite32, largest

__all__ = ["Q16_MAX", "WideConv", "WideLinear", "Words", "parts_needed", "quantize_words"]

Q16_MAX = 127 * 256 + 127
"""Largest value whose high word is INT8 and not -128."""
INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Words:
    """q = 2^8 high + low of x = scale * q; high in -127..127, low in -128..127, both int8 of x's shape."""

    high: Int8
    low: Int8
    scale: float


def quantize_words(x: Float32) -> Words:
    """16 bits to nearest, half to even, with a scale per tensor: fl(max|x| / 32639), as `quantize` has it for 8 bits."""
    maximum = largest(x)
    scale = scale_of(maximum, Q16_MAX)
    if vanishes(maximum, Q16_MAX):
        return Words(np.zeros(x.shape, np.int8), np.zeros(x.shape, np.int8), scale)
    q = np.clip(np.rint(x / np.float32(scale)), -Q16_MAX, Q16_MAX).astype(np.int32)
    high = (q + 128) >> 8
    return Words(high.astype(np.int8), (q - (high << 8)).astype(np.int8), scale)


def parts_needed(weight: Int8) -> bool:
    """Whether INT32 may not hold the sums of some row of ``weight`` [O, I], whatever X is: then the host adds blocks of I."""
    return int(np.abs(weight.astype(np.int64)).sum(axis=1).max()) * Q16_MAX > INT32_MAX


class WideLinear(FrozenLinear):
    """A frozen linear layer, forward only. `Output.xq` has the high words; sums are int32, or int64 where they leave in parts."""

    def __init__(self, device: Device, weight: QuantizedWeight, scheme: FQT, layer: int) -> None:
        scheme.require_unrotated("layers whose X has two words")
        super().__init__(device, weight, scheme, layer)
        self.apart = parts_needed(weight.q)

    def replace(self, weight: QuantizedWeight) -> None:
        super().replace(weight)
        self.apart = parts_needed(weight.q)

    def forward(self, x: NDArray, step: int, call: int = 0) -> Output:
        """Y [T, O] from x [T, I]."""
        if x.ndim != 2 or x.shape[1] != self.I:
            raise SchemeError(f"X must have the shape [T, {self.I}], not {x.shape}")
        words = quantize_words(finite32(x, "X"))
        acc = wide_product(self.device, words.high, words.low, self.weight, apart=self.apart)
        return Output(x, words.high, words.scale, acc, dequantize(acc, words.scale * self.scale.astype(np.float64)), 0)

    def backward(self, dy: NDArray, step: int, call: int = 0) -> Input:
        raise SchemeError("a layer with wide activations runs forward only")


class WideConv(FrozenConv):
    """A frozen convolution, forward only; see `WideLinear`. X has its words before windows are cut from it."""

    def __init__(self, device: Device, weight: QuantizedWeight, window: Window, scheme: FQT, layer: int) -> None:
        scheme.require_unrotated("layers whose X has two words")
        if window.groups != 1 or len(window.kernel) != 2:
            raise SchemeError(f"a convolution whose X has two words must be 2-D and have one group, not {window}")
        super().__init__(device, weight, window, scheme, layer)
        self.apart = parts_needed(weight.q)

    def replace(self, weight: QuantizedWeight) -> None:
        super().replace(weight)
        self.apart = parts_needed(weight.q)

    def forward(self, x: NDArray, step: int, call: int = 0) -> Output:
        """Y [N, O, H', W'] from x [N, C, H, W]."""
        if x.ndim != 4 or x.shape[1] != self.C:
            raise SchemeError(f"X must have the shape [N, {self.C}, H, W], not {x.shape}")
        words = quantize_words(finite32(x, "X"))
        columns = [self._columns(word) for word in (words.high, words.low)]
        acc = wide_product(self.device, columns[0], columns[1], self.weight, apart=self.apart)
        height, width = self.window.output(*x.shape[2:])
        y = dequantize(acc, words.scale * self.scale.astype(np.float64)).reshape(len(x), height, width, self.O)
        return Output(x, words.high, words.scale, acc, np.ascontiguousarray(y.transpose(0, 3, 1, 2)), 0)

    def backward(self, dy: NDArray, step: int, call: int = 0, *, shape: tuple[int, int, int, int] | None = None) -> Input:
        raise SchemeError("a layer with wide activations runs forward only")
