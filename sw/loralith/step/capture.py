"""A training step of a torch model as torch's own operators, forward and backward in one graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from peft.tuners.lora import Linear
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from loralith.errors import LoralithError

__all__ = ["Capture", "capture_forward", "capture_step"]


@dataclass(frozen=True)
class Capture:
    """A step's graph.

    Attributes:
        graph: of torch operators; its placeholders are the batch's tensors, in the order of ``inputs``; its outputs the loss, then the
            gradients in the order of ``trained``; of a forward pass alone, the prediction.
        inputs: names of the batch's tensors.
        trained: names of the parameters that are trained.
        parameters: the model's parameters and buffers by name; the graph refers to them by identity.
        forward: whether there is a forward pass alone.
        bases: for each adapter's B, the frozen weight whose result its own is added to.
    """

    graph: fx.GraphModule
    inputs: tuple[str, ...]
    trained: tuple[str, ...]
    parameters: Mapping[str, Tensor]
    bases: Mapping[str, str]
    forward: bool = False

    def name_of(self, tensor: Tensor) -> str | None:
        """The parameter that shares ``tensor``'s storage; None for a constant of the graph."""
        storage = tensor.untyped_storage()._cdata
        return next((name for name, own in self.parameters.items() if own.untyped_storage()._cdata == storage), None)


def capture_step(model: nn.Module, loss: Callable[..., Tensor], batch: Mapping[str, Tensor]) -> Capture:
    """One forward and backward pass of ``loss(**batch)``, traced with shapes alone.

    Parameters: ``model``, whose parameters with ``requires_grad`` are trained; ``batch``, tensors of the shapes to compile for, of the meta
    device where the model is.
    Raises LoralithError for a model in training mode with dropout, without trained parameters, or whose step depends on values.
    """
    _check_dropout(model)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise LoralithError("no parameter of the model is trained: there is no step to compile")

    def step(*tensors: Tensor) -> tuple[Tensor, ...]:
        value = loss(**dict(zip(batch, tensors, strict=True)))
        return (value, *torch.autograd.grad(value, list(trained.values())))

    graph = _traced(step, batch)
    parameters = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    names = {id(tensor): name for name, tensor in parameters.items()}
    bases: dict[str, str] = {}
    for module in model.modules():
        if isinstance(module, Linear):
            weight = module.get_base_layer().weight
            bases |= {names[id(own.weight)]: names[id(weight)] for own in module.lora_B.values()}  # type: ignore[union-attr]
    return Capture(graph, tuple(batch), tuple(trained), parameters, bases)


def capture_forward(
    model: nn.Module, trained: Mapping[str, nn.Parameter], forward: Callable[..., Tensor], batch: Mapping[str, Tensor]
) -> Capture:
    """One forward pass ``forward(**batch)`` of ``model``, frozen, and of ``trained``, parameters beside it, traced with shapes alone.

    Raises LoralithError for a model in training mode with dropout, and for a pass that depends on values.
    """
    _check_dropout(model)

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (forward(**dict(zip(batch, tensors, strict=True))),)

    parameters = {**dict(model.named_parameters()), **dict(model.named_buffers()), **trained}
    return Capture(_traced(run, batch), tuple(batch), tuple(trained), parameters, {}, forward=True)


def _check_dropout(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.training and module.p > 0:
            raise LoralithError(f"{name}: dropout of {module.p} in training mode draws numbers that the device does not have; call eval()")


def _traced(step: Callable[..., tuple[Tensor, ...]], batch: Mapping[str, Tensor]) -> fx.GraphModule:
    """Torch's operators of ``step`` of the batch's tensors."""
    meta = all(tensor.device.type == "meta" for tensor in batch.values())
    try:
        return make_fx(step, tracing_mode="real" if meta else "fake", _allow_non_fake_inputs=True)(*batch.values())
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise LoralithError(f"the step cannot be traced, since it depends on values or fails: {error}") from error
