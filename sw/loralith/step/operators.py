"""Every operator of a training step, forward and backward, with its shapes: a model run once on torch's meta device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from loralith.diffusion.published import Source
from loralith.mapping.planning.meta_models import meta_unet

__all__ = ["Operator", "Saved", "StepGraph", "plain_attention", "trace_step", "trace_unet"]


@dataclass(frozen=True)
class Operator:
    """One call of a torch operator.

    Attributes:
        name: torch's, without "aten::" (``mm``, ``native_group_norm_backward``).
        inputs, outputs: shapes of its tensors, in order.
        backward: whether it belongs to the backward pass.
    """

    name: str
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    backward: bool

    @property
    def elements(self) -> int:
        """Of its first output."""
        return math.prod(self.outputs[0]) if self.outputs else 0

    @property
    def product(self) -> tuple[int, int, int, int] | None:
        """(count, M, N, K) of what it multiplies, None for an operator that is no product.

        A convolution has the places of its result as M, in its backward pass too, which gives dX alone.
        """
        name, shapes = self.name, self.inputs
        if name in ("addmm", "baddbmm"):
            name, shapes = {"addmm": "mm", "baddbmm": "bmm"}[name], shapes[1:]
        if name == "mm":
            (M, K), (_, N) = shapes[:2]
            return 1, M, N, K
        if name == "bmm":
            (count, M, K), (_, _, N) = shapes[:2]
            return count, M, N, K
        if name == "convolution":
            (_, _, _, _), (O, C, h, w) = shapes[:2]
            n, _, H, W = self.outputs[0]
            return 1, n * H * W, O, C * h * w
        if name == "convolution_backward":
            (n, _, H, W), _, (O, C, h, w) = shapes[:3]
            # By the phases of a strided convolution's input, each of as many places as the gradient: all its taps together are the kernel.
            return 1, n * H * W, C, O * h * w
        return None

    @property
    def macs(self) -> int:
        return math.prod(self.product) if self.product else 0


@dataclass(frozen=True)
class Saved:
    """A tensor that autograd keeps for the backward pass: elements, and the operator that keeps it."""

    elements: int
    operator: str


@dataclass(frozen=True)
class StepGraph:
    """``operators`` in the order in which they run; ``saved`` with each storage once."""

    operators: tuple[Operator, ...]
    saved: tuple[Saved, ...]

    @property
    def macs(self) -> int:
        return sum(operator.macs for operator in self.operators)


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Operator] = []
        self.backward = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = result if isinstance(result, (tuple, list)) else (result,)

        def shapes(values: Any) -> tuple[tuple[int, ...], ...]:
            return tuple(tuple(v.shape) for v in values if isinstance(v, Tensor))

        name = func._schema.name.removeprefix("aten::")
        inputs = shapes(args[0] if name == "cat" else args)
        self.found.append(Operator(name, inputs, shapes(outputs), self.backward))
        return result


def trace_step(model: nn.Module, loss: Callable[[], Tensor]) -> StepGraph:
    """Runs one training step of ``model``, whose loss is ``loss()``, and notes its operators; on the meta device nothing is computed."""
    recorder = _Recorder()
    fixed = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, tuple[Tensor, str]] = {}

    def pack(tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in fixed and tensor.is_floating_point():
            kept.setdefault(key, (tensor, recorder.found[-1].name if recorder.found else ""))
        return tensor

    try:
        with recorder:
            with saved_tensors_hooks(pack, lambda tensor: tensor):
                value = loss()
            recorder.backward = True
            value.backward()
    finally:
        for parameter in model.parameters():
            parameter.grad = None
    saved = tuple(Saved(tensor.untyped_storage().nbytes() // tensor.element_size(), name) for tensor, name in kept.values())
    return StepGraph(tuple(recorder.found), saved)


def plain_attention(model: nn.Module) -> None:
    """Gives every attention of a diffusers ``model`` the form that the device computes: products and a softmax."""
    from diffusers.models.attention_processor import Attention, AttnProcessor

    for module in model.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())  # type: ignore[arg-type]


def trace_unet(source: Source, *, targets: tuple[str, ...], rank: int, batch: int) -> StepGraph:
    """A U-Net's step with the mean squared error as its loss; attention as products and a softmax, as the device computes it.

    Raises LoralithError for a configuration that diffusers cannot build or run.
    """
    with meta_unet(source, targets=targets, rank=rank, batch=batch) as (unet, inputs, predict):
        plain_attention(unet)

        def loss() -> Tensor:
            prediction = predict(**inputs)
            return functional.mse_loss(prediction, torch.zeros_like(prediction))

        return trace_step(unet, loss)
