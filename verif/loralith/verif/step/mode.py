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
from loralith.spec.step import BATCH_MAX, StepScheme
from loralith.verif.vector.format import VectorFormat, round_to

from . import programs
from .step_products import Operands, power_scale

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


E6M9_SMALLEST, E6M9_LIMIT = 2.0**-44, 2.0**19
"""Range of the 16-bit format with 6 exponent bits: smaller magnitudes become zero."""

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
        self._forget()
        self._batch = False

    def begin(self, step: int) -> None:
        """Start of a step, or of a forward pass alone."""
        self.backward = False
        self._forget()
        self.operands.begin(step)

    def _forget(self) -> None:
        """Shapes of softmaxes; O by the storage of its P; dO by the storage of its dP."""
        self.softmaxes: set[tuple[int, ...]] = set()
        self.outs: dict[int, Tensor] = {}
        self.grad_outs: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        compute = _TABLE.get(name)
        flat = [a for x in args for a in (x if isinstance(x, (list, tuple)) else [x])]  # cat takes a list
        tensors = [a for a in flat if isinstance(a, Tensor) and a.is_floating_point()]
        self._batch = name in FROM_BATCH and all(self.operands.is_batch(a) for a in tensors)
        if compute is None or not tensors or self._batch:  # what is made of the batch alone, the host computes
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
        elif self.scheme.storage == "e6m9":
            x = round_to(x.double(), min(9, self.scheme.fraction_bits), E6M9_SMALLEST).float()
            if x.numel() and not float(x.abs().amax()) < E6M9_LIMIT:
                raise SchemeError(f"a result is too large for 6 exponent bits: {float(x.abs().amax())}, at most 2^19")
        elif self.scheme.storage == "int16":
            scale = power_scale(x.abs().amax(), 32767) if x.numel() else torch.ones(())
            x = self.v.round(torch.round(x.double() / scale) * scale)
        return self.keep(x)

    def keep(self, x: Tensor) -> Tensor:
        self.operands.made(x, self.backward, self._batch)
        return x

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """a [..., M, K] b [..., K, N] from INT8 operands and exact sums, which become words and meet their scales one by one."""
        fold_a, key_a = self.operands.units(b, -2)
        fold_b, key_b = self.operands.units(a, -1)
        qa = self.operands.quantized(a, None if fold_a is None else fold_a.transpose(-1, -2), key_a)
        qb = self.operands.quantized(b, None if fold_b is None else fold_b.transpose(-1, -2), key_b)
        exact = torch.float32 if a.shape[-1] * Q8_MAX * Q8_MAX < 1 << 24 else torch.float64
        result = self.v.mul(self.v.round(torch.matmul(qa.q.to(exact), qb.q.to(exact)).double()), qa.scale * qb.scale)
        for one, other in ((self.operands.rest(a), qb), (qa, self.operands.rest(b))):
            if one is not None and other is not None:
                more = self.v.round(torch.matmul(one.q.double(), other.q.double()))
                result = self.v.add(result, self.v.mul(more, one.scale * other.scale))
        if fold_b is None and qa.unit is not None:
            result = self.v.mul(result, qa.unit.narrow(-1, 0, 1))
        if fold_a is None and qb.unit is not None:
            result = self.v.mul(result, qb.unit.narrow(-2, 0, 1))
        return result


def _mm(mode: StepMode, a: Tensor, b: Tensor) -> Tensor:
    return mode.store(mode.product(a, b))


def _bmm(mode: StepMode, a: Tensor, b: Tensor) -> Tensor:
    """O = P V and, in the backward pass, dP = dO V^T, which is used where it is made and never stored."""
    result = mode.product(a, b)
    if mode.backward and tuple(result.shape) in mode.softmaxes:
        mode.grad_outs[result.untyped_storage().data_ptr()] = a
        return mode.keep(result)
    result = mode.store(result)
    if not mode.backward and tuple(a.shape) in mode.softmaxes:
        mode.outs[a.untyped_storage().data_ptr()] = result
    return result


def _addmm(mode: StepMode, bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return mode.store(mode.v.add(mode.product(a, b), bias))


def _baddbmm(mode: StepMode, base: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    result = mode.v.mul(mode.product(a, b), _scalar(mode, alpha))
    # S is used where it is made, by the softmax, and never stored.
    return mode.keep(result if beta == 0 else mode.v.add(result, mode.v.mul(base, beta)))


def _scalar(mode: StepMode, value: float) -> float:
    return float(mode.v.round(torch.tensor(float(value), dtype=torch.float64)))


def _convolution(mode: StepMode, x: Tensor, w: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    two_words = mode.scheme.batch_words == 2 and mode.operands.is_batch(x)
    xq = mode.operands.quantized(x, None, None, BATCH_MAX if two_words else Q8_MAX, images=True)
    wq = mode.operands.quantized(w, None, None)
    assert wq.unit is not None
    rest = mode.operands.rest(x)
    result = None
    for part in (xq,) if rest is None else (xq, rest):
        acc = mode.v.round(aten.convolution(part.q.double(), wq.q.double(), None, *geometry))
        own = mode.v.mul(acc, part.scale)
        result = own if result is None else mode.v.add(result, own)
    assert result is not None
    result = mode.v.mul(result, wq.unit[:, 0, 0, 0].reshape(1, -1, 1, 1))
    return mode.store(result if bias is None else mode.v.add(result, bias.reshape(1, -1, 1, 1)))


def _convolution_backward(mode: StepMode, grad: Tensor, x: Tensor, w: Tensor, bias_sizes: Any, *geometry: Any) -> tuple[Tensor | None, ...]:
    *shape, mask = geometry
    if mask[1] or mask[2]:
        raise SchemeError("the step on the device trains no convolution: its weight and bias must be frozen")
    wq = mode.operands.quantized(w, None, None)
    assert wq.unit is not None
    gq = mode.operands.quantized(grad, wq.unit[:, 0, 0, 0].reshape(1, -1, 1, 1), w.untyped_storage().data_ptr(), images=True)
    acc, _, _ = aten.convolution_backward(gq.q.double(), x.double(), wq.q.double(), bias_sizes, *shape, [True, False, False])
    return mode.store(mode.v.mul(mode.v.round(acc), gq.scale)), None, None


def _softmax(mode: StepMode, z: Tensor, dim: int, half: bool) -> Tensor:
    if dim not in (-1, z.ndim - 1):
        raise SchemeError(f"softmax on the device runs over the last dimension, not over {dim} of {z.ndim}")
    if mode.scheme.operand_words == 2:
        return mode.keep(programs.softmax_words(mode.v, z))
    mode.softmaxes.add(tuple(z.shape))
    q, total = programs.softmax(mode.v, z)
    p = mode.v.mul(q, mode.v.reciprocal(mode.v.round(total.double())))
    mode.operands.made_rows(p, q.contiguous(), mode.v.reciprocal(mode.v.round(total.double())).double())
    return p


def _softmax_backward(mode: StepMode, grad: Tensor, p: Tensor, dim: int, dtype: Any) -> Tensor:
    out, grad_out = mode.outs.get(p.untyped_storage().data_ptr()), mode.grad_outs.get(grad.untyped_storage().data_ptr())
    if out is None or grad_out is None:
        raise SchemeError("the step on the device has softmax only as attention's: O = P V by torch.bmm, with P's own gradient")
    result = mode.store(programs.softmax_backward(mode.v, grad, p, out, grad_out))
    mode.operands.made_scores(result)
    return result


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


def _divide(v: VectorFormat, x: Tensor, y: Tensor | float) -> Tensor:
    """x times the reciprocal of y, which a program's constant holds where y is a number."""
    if isinstance(y, Tensor):
        return v.mul(x, v.reciprocal(y))
    return v.mul(x, float(v.round(torch.tensor(1.0 / y, dtype=torch.float64))))


def _upsample_backward(mode: StepMode, grad: Tensor, size: Any, input_size: Any, *factors: Any) -> Tensor:
    _, _, h, w = input_size
    return mode.store(programs.upsample_backward(mode.v, grad, grad.shape[2] // h, grad.shape[3] // w))


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
    "bmm": _bmm,
    "addmm": _addmm,
    "baddbmm": _baddbmm,
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "_softmax": _softmax,
    "_softmax_backward_data": _softmax_backward,
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
    "div": _elementwise(_divide),
    "upsample_nearest2d_backward": _upsample_backward,
}
