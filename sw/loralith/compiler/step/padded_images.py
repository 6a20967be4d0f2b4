"""Where a convolution's operands lie in memory: padded images, and the weights as their LOADs read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loralith.compiler.step.copies import copy
from loralith.compiler.step.emitter import Emitter
from loralith.compiler.step.views import Buffer, View
from loralith.spec.commands import VectorFormat

__all__ = ["PaddedImage", "PaddedImages", "kernel_layout"]


def kernel_layout(bus: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Of a frozen W [O, C, h, w]: (O, h, w, C up to a multiple of ``bus``), as the host writes it; the rest is zero."""
    o, c, h, w = shape
    return o, h, w, -(-c // bus) * bus


@dataclass(frozen=True)
class PaddedImage:
    """A padded operand. buffers: one for each plane of a tensor in several bytes; sizes: [N, H, W] with the border; pitch: bytes of a
    pixel."""

    buffers: tuple[Buffer, ...]
    sizes: tuple[int, int, int]
    pitch: int
    channels: int


class PaddedImages:
    """Padded buffers by their geometry: each is written where its tensor lies and zero elsewhere, for as long as the step runs."""

    def __init__(self, e: Emitter) -> None:
        self.e = e
        self._made: dict[tuple[int, ...], Buffer] = {}

    def fill(self, planes: Sequence[View], sizes: tuple[int, int], before: tuple[int, int], step: tuple[int, int]) -> PaddedImage:
        """``planes`` [N, C, H, W] into padded images of ``sizes``."""
        e = self.e
        n, c, h, w = planes[0].shape
        H, W = sizes
        pitch = -(-c // e.config.bus_bytes) * e.config.bus_bytes
        buffers = []
        for plane, view in enumerate(planes):
            key = (n, H, W, c, pitch, *before, h, w, *step, plane)
            if key not in self._made:
                # A transposed LOAD of whole rows reads past the last pixel by as much as the kernel is wide.
                buffer = e.buffer(
                    f"padded images {n} x {H} x {W} x {c}", VectorFormat.INT8, (n * H + 1) * W * pitch + 64 * pitch, fresh=True
                )
                e.static[buffer.address] = bytes(buffer.nbytes)
                self._made[key] = buffer
            buffer = self._made[key]
            strides = (H * W * pitch, 1, step[0] * W * pitch, step[1] * pitch)
            copy(e, view, View(buffer, view.shape, strides, (before[0] * W + before[1]) * pitch))
            buffers.append(buffer)
        return PaddedImage(tuple(buffers), (n, H, W), pitch, c)
