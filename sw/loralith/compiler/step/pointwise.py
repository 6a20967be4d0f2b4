"""Convolutions of 1 x 1 as products of pixels and channels, without padded images: the operand is read as it lies, and the result lies with
its channels along the lanes, as an image does, or with its pixels, as the matrix that is made of it does."""

from __future__ import annotations

import math
from collections.abc import Sequence

from loralith.compiler.step.emitter import Emitter
from loralith.compiler.step.products import Epilogue, matmul
from loralith.compiler.step.views import Buffer, View, expand, permute, reshape
from loralith.spec.graph import Node, Op

__all__ = ["pointwise_convolution"]

NHWC = (0, 2, 3, 1)
NCHW = (0, 3, 1, 2)


def pointwise_convolution(
    e: Emitter, name: str, planes: Sequence[View], kernel: Buffer, node: Node, epilogue: Epilogue, across: bool, top: bool
) -> tuple[View, View | None] | None:
    """[N, O, H, W] of ``planes`` [N, C, H, W] and W [O, C, 1, 1] in `kernel_layout`; with ``top`` its largest magnitude, if that was taken.
    ``across``: pixels lie along the lanes. None, and nothing is written, for an operand of several planes, and where no strides make a
    matrix of what is read."""
    n, channels, h, w = node.shape
    x = None if len(planes) > 1 else _matrix(planes[0])
    views = [_matrix(expand(view, node.shape)) for view in epilogue.views]
    if x is None or any(view is None for view in views) or epilogue.prepared:
        return None
    backward = node.op is Op.CONVOLUTION_INPUT
    sizes = (x.shape[1], channels)
    weights = View(kernel, sizes, (kernel.pitch, 1) if backward else (1, kernel.pitch))
    own = Epilogue(epilogue.steps, [view for view in views if view is not None], epilogue.format)
    if across:
        view, largest, _ = matmul(e, name, permute(weights, (1, 0)), permute(x, (1, 0)), own.seen(lambda view: permute(view, (1, 0))), top)
        view = permute(view, (1, 0))
    else:
        view, largest, _ = matmul(e, name, x, weights, own, top)
    pixels = reshape(view, (n, h, w, channels))
    assert pixels is not None
    return permute(pixels, NCHW), largest


def _matrix(image: View) -> View | None:
    """[N, C, H, W] as [N H W, C]."""
    n, c, h, w = image.shape
    return reshape(permute(image, NHWC), (math.prod((n, h, w)), c))
