"""What a step's tensors look like in device memory: bytes to write for values, values of bytes that were read."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from loralith.compiler.step.views import Buffer, View
from loralith.spec.commands import VectorFormat
from loralith.spec.numerics import hash_key

__all__ = ["image", "kernel_image", "key_image", "values"]

_TYPES = {VectorFormat.FP32: np.dtype("<f4"), VectorFormat.BF16: np.dtype("<u2"), VectorFormat.INT8: np.dtype("i1")}
HIGH = 256
"""What the first byte of an integer in several bytes counts."""


def image(view: View, array: np.ndarray) -> np.ndarray:
    """The bytes of ``view``'s whole buffer, which it fills, as uint8: words as FP32 or integers as INT8."""
    kind = _TYPES[view.buffer.format]
    flat = np.zeros(view.buffer.elements, kind)
    strides = tuple(s * kind.itemsize for s in view.strides)
    as_strided(flat[view.offset :], view.shape, strides)[...] = array.reshape(view.shape)
    return flat.view(np.uint8)


def kernel_image(buffer: Buffer, layout: Sequence[int], array: np.ndarray) -> np.ndarray:
    """The bytes of a convolution's W [O, C, h, w] as [O, h, w, C] with zeros after the last channel."""
    c = array.shape[1]
    out = np.zeros(tuple(layout), np.int8)
    out[..., :c] = array.transpose(0, 2, 3, 1)
    assert out.nbytes == buffer.nbytes
    return out.reshape(-1).view(np.uint8)


def key_image(seed: int, step: int) -> bytes:
    """The 8 bytes that the host writes before step ``step``."""
    return struct.pack("<II", *hash_key(seed, step, 0))


def values(views: Sequence[View], raw: Sequence[np.ndarray]) -> np.ndarray:
    """What tensors hold, float32 or, of integers, int32; ``raw``: the bytes of each view's buffer. Several views are one integer."""
    found = []
    for view, data in zip(views, raw, strict=True):
        flat = data.view(_TYPES[view.buffer.format])
        strides = tuple(s * flat.itemsize for s in view.strides)
        part = as_strided(flat[view.offset :], view.shape, strides)
        if view.buffer.format is VectorFormat.BF16:
            part = (part.astype(np.uint32) << 16).view(np.float32)
        found.append(part.astype(np.int32) if view.buffer.format is VectorFormat.INT8 else np.array(part, np.float32))
    return found[0] if len(found) == 1 else found[0] * HIGH + sum(found[1:])
