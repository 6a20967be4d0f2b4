"""Exact INT8 products and convolutions by torch's kernels, for the devices that multiply on the host."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import _disable_current_modes

from loralith.device.arithmetic import FLOAT32_EXACT_K, Convolutions, Float32, Int8, Int32, Kernels, Part, Result, kernels, use_kernels
from loralith.lora.convolution_windows import Window

__all__ = ["TorchKernels", "integer_product", "use_torch_kernels"]

CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
EXACT_NORM = 2.0**24 / 1.01
"""Of norms that are computed in FP32, whose own error is far below a part in a hundred."""


class Workers:
    """Threads in each of which torch computes with one. Two pools of threads that wait for each other in a loop, torch's and those of
    numpy's BLAS, cost more than all that they compute: so parts of a tensor go to these, and one library multiplies."""

    def __init__(self, count: int) -> None:
        self.count, self.process = count, os.getpid()
        self.pool = ThreadPoolExecutor(count, thread_name_prefix="loralith")
        ready = threading.Barrier(count)

        def begin(_: int) -> None:
            torch.set_num_threads(1)
            torch.get_num_threads()  # a thread takes its number from the process's at its first look, and keeps it
            ready.wait(60)

        list(self.pool.map(begin, range(count)))
        torch.set_num_threads(count)


class TorchKernels(Kernels):
    """``integer``: products of INT8 operands by torch's integer kernels."""

    def __init__(self, integer: bool) -> None:
        self.integer = integer
        self.workers: Workers | None = None

    def each(self, function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        count = torch.get_num_threads()
        if count == 1 or len(parts) < 2:  # in a worker, too
            return [function(part) for part in parts]
        if self.workers is None or (self.workers.count, self.workers.process) != (count, os.getpid()):
            if self.workers is not None and self.workers.process == os.getpid():
                self.workers.pool.shutdown(wait=False)
            self.workers = Workers(count)
        return list(self.workers.pool.map(function, parts))

    # Results are numpy's memory: it asks for large pages, torch does not.

    def floats(self, values: Int8) -> Float32:
        return _copied(values, np.float32)

    def integers(self, sums: Float32) -> Int32:
        return _copied(sums, np.int32)

    def matmul(self, left: Float32, right: Float32) -> Float32:
        out = np.empty((len(left), right.shape[1]), np.float32)
        with _apart():
            torch.matmul(torch.from_numpy(left), torch.from_numpy(right), out=torch.from_numpy(out))
        return out

    def product(self, left: Int8, right: Int8) -> Int32:
        return integer_product(left, right) if self.integer else super().product(left, right)

    def convolutions(self, window: Window, terms: int) -> Convolutions | None:
        if self.integer:  # products of copied windows are faster then
            return None
        # What cannot be split by channels must be exact as it is.
        whole = max(math.prod(window.kernel), terms if window.groups > 1 else 0)
        return FloatConvolutions() if whole <= FLOAT32_EXACT_K and _exact_convolutions() else None


class FloatConvolutions:
    """FP32 convolutions of integers, as `loralith.device.arithmetic.Convolutions` has them."""

    def convolution(self, image: Int8, weight: Int8, window: Window) -> Int32:
        with _apart():
            return _convolution(_tensor(image).float(), _tensor(weight).float(), window).numpy()

    def convolution_input(self, gradient: Int8, weight: Int8, window: Window, sizes: Sequence[int]) -> Int32:
        taken = window.output(*sizes)
        ends = [
            n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
            for n, m, s, p, d, k in zip(sizes, taken, window.stride, window.padding, window.dilation, window.kernel, strict=True)
        ]
        with _apart():
            return _convolution_input(_tensor(gradient).float(), _tensor(weight).float(), window, ends).numpy()


@contextmanager
def _apart() -> Iterator[None]:
    """Without what the caller has set for operators of its own: modes, which may count them, and autocast, which would round integers."""
    with _disable_current_modes(), torch.autocast("cpu", enabled=False), torch.no_grad():
        yield


def integer_product(left: Int8, right: Int8) -> Int32:
    """left [..., M, K] right [..., K, N] as int32, modulo 2**32. Operands may be views; none is converted, few are copied."""
    M, K, N = left.shape[-2], left.shape[-1], right.shape[-1]
    out = np.empty((*left.shape[:-2], M, N), np.int32)
    if not out.size or not K:
        out[...] = 0
        return out
    one, two = left.reshape(-1, M, K), right.reshape(-1, K, N)
    for a, b, c in zip(one, two, out.reshape(-1, M, N), strict=True):
        torch._int_mm(_tensor(a), _tensor(b), out=torch.from_numpy(c))
    return out


def _copied(values: NDArray, dtype: DTypeLike) -> NDArray:
    """``values`` of another type, in the same order in memory."""
    out = np.empty_like(values, dtype)
    torch.from_numpy(out).copy_(torch.from_numpy(values))
    return out


def _tensor(matrix: Int8) -> Tensor:
    """``matrix`` as a tensor, row by row or column by column; copied where it is neither, or where a size of 1 leaves it open which: the
    kernels then take the wrong one."""
    if 1 in matrix.shape or not (matrix.flags.c_contiguous or matrix.flags.f_contiguous):
        return torch.from_numpy(matrix.reshape(-1).copy()).view(matrix.shape)
    return torch.from_numpy(matrix)


def _halves(count: int) -> tuple[slice, slice]:
    return slice(None, count // 2), slice(count // 2, None)


def _exact(weight: Tensor, squares: Tensor, terms: int) -> bool:
    """Whether FP32 sums of ``terms`` products are exact, whatever their order: no sum of some terms is beyond 2**24.

    By Cauchy and Schwarz it is at most the norm of a filter, along ``weight``'s first dimension, times that of what a window sees, the
    squares of which ``squares`` has the sums of.
    """
    if terms <= FLOAT32_EXACT_K:
        return True
    return float(torch.linalg.vector_norm(weight.flatten(1), dim=1).max()) * math.sqrt(float(squares.max())) <= EXACT_NORM


def _convolution(x: Tensor, w: Tensor, window: Window) -> Tensor:
    run, C = CONVOLUTIONS[len(window.kernel) - 1], w.shape[1]
    where = window.stride, window.padding, window.dilation
    if window.groups == 1 and C > 1:
        squares = x.square().sum(dim=1, keepdim=True)
        if not _exact(w, run(squares, squares.new_ones(1, 1, *window.kernel), None, *where), w[0].numel()):
            first, second = (_convolution(x[:, part], w[:, part], window) for part in _halves(C))
            return first.add_(second)
    return run(x, w, None, *where, window.groups).to(torch.int32)


def _convolution_input(dy: Tensor, w: Tensor, window: Window, ends: list[int]) -> Tensor:
    run, O = TRANSPOSED[len(window.kernel) - 1], len(w)
    where = window.stride, window.padding, ends
    if window.groups == 1 and O > 1:
        squares = dy.square().sum(dim=1, keepdim=True)
        seen = run(squares, squares.new_ones(1, 1, *window.kernel), None, *where, 1, window.dilation)
        if not _exact(w.transpose(0, 1), seen, O * w[0, 0].numel()):
            first, second = (_convolution_input(dy[:, part], w[part], window, ends) for part in _halves(O))
            return first.add_(second)
    return run(dy, w, None, *where, window.groups, window.dilation).to(torch.int32)


@cache
def _integer_kernels() -> bool:
    """Whether integer kernels of this CPU are there and exact. Without VNNI or AMX an INT8 kernel adds pairs in 16 bits, which saturate."""
    if not (torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    for K in (1, 5, 64, 1111):
        left, right = np.full((33, K), -128, np.int8), np.full((K, 17), -128, np.int8)
        left[::2], right[:, ::3] = 127, 127
        for a, b in ((left, right), (np.asfortranarray(left), np.asfortranarray(right))):
            if not np.array_equal(integer_product(a, b), a.astype(np.int64) @ b.astype(np.int64)):
                return False
    return True


@cache
@_apart()
def _exact_convolutions() -> bool:
    """Whether FP32 convolutions of integers are exact here: a kernel that transforms its operands, as Winograd's does, rounds."""
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randint(-127, 128, shape, generator=generator).float() for shape in ((1, 112, 32, 32), (64, 112, 3, 3)))
    x[..., :9, :], w[:9] = 127, 127
    for stride in (1, 2):
        y = functional.conv2d(x, w, None, stride, 1)
        dx = functional.conv_transpose2d(x, w.transpose(0, 1), None, stride, 1)
        if not torch.equal(y.double(), functional.conv2d(x.double(), w.double(), None, stride, 1)):
            return False
        if not torch.equal(dx.double(), functional.conv_transpose2d(x.double(), w.double().transpose(0, 1), None, stride, 1)):
            return False
    return True


def use_torch_kernels() -> None:
    """Lets `device.arithmetic` multiply by torch from now on: by its integer kernels where this CPU has exact ones, else in FP32."""
    if not isinstance(kernels(), TorchKernels):
        use_kernels(TorchKernels(_integer_kernels()))
