"""Torch's operators in the device's numbers: a dispatch mode that computes each one, forward and backward, as docs/step.md defines it.

An operator that has no definition here raises SchemeError with its name, so that nothing slips through in FP32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from loralith.spec.numerics import Q8_MAX
from loralith.spec.scheme import SchemeError
from loralith.spec.step import StepScheme

from . import programs
from .format import VectorFormat, round_to
from .step_products import Q16_MAX, Operands, power_scale

__all__ = ["StepMode"]

aten = torch.ops.aten

MOVES = {
    *("view", "_unsafe_view", "reshape", "t", "transpose", "permute", "expand", "slice", "split", "unsqueeze", "squeeze", "select"),
    *("detach", "alias", "clone", "copy_", "fill_", "cat", "index", "where", "embedding", "upsample_nearest2d", "_to_copy", "lift_fresh"),
    *("empty", "new_empty_strided", "zeros", "ones", "full", "zeros_like", "ones_like", "new_zeros", "scalar_tensor", "lt", "any"),
}
"""Operators that move values and round nothing."""

HOST = {
    "arange",
    "exp",
    "cos",
    "sin",
    "pow",
    "cumprod",
    "rand",
    "randint",
    "randn",
    "randperm",
    "rsub",
    "clamp",
    "item",
    "_local_scalar_dense",
}
"""Operators of the batch and of the timestep's embedding, which the host computes."""


FROM_BATCH = MOVES | HOST | {"add", "sub", "mul", "div"}
"""Operators that keep what is made of the batch alone close to it."""


class StepMode(TorchDispatchMode):
    """While it is on, torch computes in the numbers of ``operands.scheme``. Float32 tensors only."""

    def __init__(self, operands: Operands) -> None:
        super().__init__()
        self.operands = operands
        self.scheme: StepScheme = operands.scheme
        self.v = VectorFormat(self.scheme.fraction_bits)
        self.backward = False
        self._batch = False

    def begin(self, step: int) -> None:
        """Start of a step, or of a forward pass alone."""
        self.backward = False
        self.operands.begin(step)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        compute = _TABLE.get(name)
        tensors = [a for a in args if isinstance(a, Tensor) and a.is_floating_point()]
        self._batch = name in FROM_BATCH and all(self.operands.is_batch(a) for a in tensors)
        if compute is None or not tensors:
            result = func(*args, **kwargs)
            if compute is None and name not in MOVES and name not in HOST and isinstance(result, Tensor) and result.is_floating_point():
                raise SchemeError(f"the step on the device has no operator {func}")
            outputs = result if isinstance(result, (tuple, list)) else (result,)
            taken = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
            for out in outputs:
                if isinstance(out, Tensor) and out.is_floating_point() and out.untyped_storage().data_ptr() not in taken:
                    self.operands.made(out, self.backward, self._batch)
            return result
        return compute(self, *args, **kwargs)

    def store(self, x: Tensor) -> Tensor:
        """A result as it lies in memory until the next operator reads it."""
        if self.scheme.storage == "bf16":
            x = round_to(x.double(), min(7, self.scheme.fraction_bits)).float()
        elif self.scheme.storage == "int16":
            scale = power_scale(x.abs().amax(), 32767) if x.numel() else torch.ones(())
            x = self.v.round(torch.round(x.double() / scale) * scale)
        return self.keep(x)

    def keep(self, x: Tensor) -> Tensor:
        self.operands.made(x, self.backward, self._batch)
        return x

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """a [..., M, K] b [..., K, N] from INT8 operands and exact sums, float64."""
        fold_a, key_a = self.operands.units(b, -2)
        fold_b, key_b = self.operands.units(a, -1)
        qa = self.operands.quantized(a, None if fold_a is None else fold_a.transpose(-1, -2), key_a)
        qb = self.operands.quantized(b, None if fold_b is None else fold_b.transpose(-1, -2), key_b)
        exact = torch.float32 if a.shape[-1] * Q8_MAX * Q8_MAX < 1 << 24 else torch.float64
        acc = torch.matmul(qa.q.to(exact), qb.q.to(exact)).double() * (qa.scale * qb.scale)
        if fold_b is None and qa.unit is not None:
            acc = acc * qa.unit.narrow(-1, 0, 1)
        if fold_a is None and qb.unit is not None:
            acc = acc * qb.unit.narrow(-2, 0, 1)
        return acc


def _mm(mode: StepMode, a: Tensor, b: Tensor) -> Tensor:
    return mode.store(mode.v.round(mode.product(a, b)))


def _addmm(mode: StepMode, bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return mode.store(mode.v.add(mode.v.round(mode.product(a, b)), bias))


def _baddbmm(mode: StepMode, base: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    result = mode.v.mul(mode.v.round(mode.product(a, b)), _scalar(mode, alpha))
    return mode.store(result if beta == 0 else mode.v.add(result, mode.v.mul(base, beta)))


def _scalar(mode: StepMode, value: float) -> float:
    return float(mode.v.round(torch.tensor(float(value), dtype=torch.float64)))


def _convolution(mode: StepMode, x: Tensor, w: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    two_words = mode.scheme.batch_words == 2 and mode.operands.is_batch(x)
    xq = mode.operands.quantized(x, None, None, Q16_MAX if two_words else Q8_MAX)
    wq = mode.operands.quantized(w, None, None)
    assert wq.unit is not None
    acc = aten.convolution(xq.q.double(), wq.q.double(), None, *geometry)
    result = mode.v.round(acc * xq.scale * wq.unit[:, 0, 0, 0].reshape(1, -1, 1, 1))
    return mode.store(result if bias is None else mode.v.add(result, bias.reshape(1, -1, 1, 1)))


def _convolution_backward(mode: StepMode, grad: Tensor, x: Tensor, w: Tensor, bias_sizes: Any, *geometry: Any) -> tuple[Tensor | None, ...]:
    *shape, mask = geometry
    if mask[1] or mask[2]:
        raise SchemeError("the step on the device trains no convolution: its weight and bias must be frozen")
    wq = mode.operands.quantized(w, None, None)
    assert wq.unit is not None
    gq = mode.operands.quantized(grad, wq.unit[:, 0, 0, 0].reshape(1, -1, 1, 1), w.untyped_storage().data_ptr())
    acc, _, _ = aten.convolution_backward(gq.q.double(), x.double(), wq.q.double(), bias_sizes, *shape, [True, False, False])
    return mode.store(mode.v.round(acc * gq.scale)), None, None


def _softmax(mode: StepMode, z: Tensor, dim: int, half: bool) -> Tensor:
    if dim not in (-1, z.ndim - 1):
        raise SchemeError(f"softmax on the device runs over the last dimension, not over {dim} of {z.ndim}")
    q, total = programs.softmax(mode.v, z)
    p = mode.v.div(q, total)
    mode.operands.made_rows(p, q.contiguous(), 1.0 / total.double())
    return p


def _group_norm(mode: StepMode, x: Tensor, w: Tensor | None, b: Tensor | None, n: int, c: int, hw: int, groups: int, eps: float) -> Any:
    parts = x.reshape(n, groups, c // groups, hw)
    shape = (1, groups, c // groups, 1)
    y, mean, rstd = programs.norm(
        mode.v, parts, (2, 3), None if w is None else w.reshape(shape), None if b is None else b.reshape(shape), eps
    )
    return mode.store(y.reshape(x.shape)), mode.keep(mean.reshape(n, groups)), mode.keep(rstd.reshape(n, groups))


def _group_norm_backward(
    mode: StepMode, grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, w: Tensor | None, n: int, c: int, hw: int, groups: int, mask: Any
) -> Any:
    whole, one = (n, groups, c // groups, hw), (n, groups, 1, 1)
    weight = None if w is None else w.reshape(1, groups, c // groups, 1)
    dx = programs.norm_backward(mode.v, grad.reshape(whole), x.reshape(whole), mean.reshape(one), rstd.reshape(one), (2, 3), weight)
    return mode.store(dx.reshape(x.shape)), None, None


def _layer_norm(mode: StepMode, x: Tensor, shape: Any, w: Tensor | None, b: Tensor | None, eps: float) -> Any:
    y, mean, rstd = programs.norm(mode.v, x, tuple(range(-len(shape), 0)), w, b, eps)
    return mode.store(y), mode.keep(mean), mode.keep(rstd)


def _layer_norm_backward(
    mode: StepMode, grad: Tensor, x: Tensor, shape: Any, mean: Tensor, rstd: Tensor, w: Tensor | None, b: Tensor | None, mask: Any
) -> Any:
    return mode.store(programs.norm_backward(mode.v, grad, x, mean, rstd, tuple(range(-len(shape), 0)), w)), None, None


def _elementwise(op: Callable[[VectorFormat, Tensor, Any], Tensor]) -> Callable[..., Tensor]:
    def compute(mode: StepMode, x: Any, y: Any, *, alpha: float = 1) -> Tensor:
        if alpha != 1:
            raise SchemeError(f"the step on the device adds without a factor, not with alpha = {alpha}")
        if not isinstance(x, Tensor):
            x = torch.tensor(float(x))
        return mode.store(op(mode.v, x, y if isinstance(y, Tensor) else _scalar(mode, y)))

    return compute


def _upsample_backward(mode: StepMode, grad: Tensor, size: Any, input_size: Any, *factors: Any) -> Tensor:
    n, c, h, w = input_size
    parts = grad.reshape(n, c, h, grad.shape[2] // h, w, grad.shape[3] // w)
    return mode.store(mode.v.sum(parts, (3, 5)).reshape(n, c, h, w))


def _mse(mode: StepMode, x: Tensor, target: Tensor, reduction: int = 1) -> Tensor:
    if reduction != 1:
        raise SchemeError("the step on the device has the mean squared error only as a mean")
    mode.backward = True  # what follows in a training step are gradients
    return mode.keep(programs.mse(mode.v, x, target))


def _exactly(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def compute(mode: StepMode, *args: Any, **kwargs: Any) -> Tensor:
        return mode.store(op(mode.v, *args))

    return compute


_TABLE: dict[str, Callable[..., Any]] = {
    "mm": _mm,
    "bmm": _mm,
    "addmm": _addmm,
    "baddbmm": _baddbmm,
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "_softmax": _softmax,
    "_softmax_backward_data": lambda mode, grad, p, dim, dtype: mode.store(programs.softmax_backward(mode.v, grad, p)),
    "native_group_norm": _group_norm,
    "native_group_norm_backward": _group_norm_backward,
    "native_layer_norm": _layer_norm,
    "native_layer_norm_backward": _layer_norm_backward,
    "silu": _exactly(programs.silu),
    "silu_backward": _exactly(programs.silu_backward),
    "gelu": _exactly(programs.gelu),
    "gelu_backward": _exactly(programs.gelu_backward),
    "mse_loss": _mse,
    "mse_loss_backward": lambda mode, grad, x, target, reduction: mode.store(programs.mse_backward(mode.v, grad, x, target)),
    "add": _elementwise(VectorFormat.add),
    "sub": _elementwise(VectorFormat.sub),
    "mul": _elementwise(VectorFormat.mul),
    "div": _elementwise(VectorFormat.div),
    "upsample_nearest2d_backward": _upsample_backward,
}
