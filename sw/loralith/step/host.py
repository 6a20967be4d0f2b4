"""What the host writes for a step graph: the batch's tensors before each step, frozen weights once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from loralith.errors import LoralithError
from loralith.spec.graph import Graph, Kind, Op
from loralith.spec.numerics import Q8_MAX
from loralith.spec.vector.numbers import FRACTION_BITS

from .capture import Capture
from .lowering import Lowered

__all__ = ["frozen_values", "host_inputs", "to_words"]

WEIGHT_RANGE = 4
"""A channel's unit is at least 2^-4 of the largest one: docs/step.md."""


def to_words(x: Tensor) -> Tensor:
    """float32, rounded half to even to the vector unit's words: docs/vector_unit.md."""
    drop = 23 - FRACTION_BITS
    bits = x.detach().float().contiguous().view(torch.int32)
    rounded = bits + (1 << drop - 1) - 1 + (bits >> drop & 1) & -(1 << drop)
    return rounded.view(torch.float32)


def host_inputs(capture: Capture, lowered: Lowered, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The graph's inputs by name, words, from the tensors of one batch; what the batch alone decides is computed in FP32.

    Raises LoralithError for a batch without one of the tensors that the step was captured with, or of another shape.
    """
    computed: dict[fx.Node, Any] = {}
    names = iter(capture.inputs)
    for node in capture.graph.graph.nodes:
        if node.op == "placeholder":
            name, shape = next(names), tuple(node.meta["val"].shape)
            if name not in batch or tuple(batch[name].shape) != shape:
                found = "is missing" if name not in batch else f"is {list(batch[name].shape)}"
                raise LoralithError(f"the batch's {name} {found}; the step was compiled for {list(shape)}")
            computed[node] = batch[name]
        elif node in lowered.on_host:
            arguments, keywords = map_arg((node.args, node.kwargs), computed.__getitem__)
            computed[node] = node.target(*arguments, **keywords)
    return {name: to_words(computed[node]) for name, node in lowered.host.items()}


def frozen_values(capture: Capture, graph: Graph) -> dict[str, Tensor]:
    """The graph's frozen tensors by name: INT8 weights, a power of two for each output channel, everything else as words."""
    values: dict[str, Tensor] = {}
    for node in graph.of(Op.FROZEN):
        name, _, part = node.name.rpartition(".")
        if part not in ("q", "unit", "inverse") or name not in capture.parameters:
            values[node.name] = to_words(capture.parameters[node.name])
            continue
        weight = capture.parameters[name].detach().double()
        units = _units(weight)
        if node.kind is Kind.INT8:
            values[node.name] = torch.round(weight / units).clamp(-Q8_MAX, Q8_MAX)
        else:
            units = units if part == "unit" else 1.0 / units
            values[node.name] = units.reshape(node.shape).float()
    return values


def _exponent(largest: Tensor) -> Tensor:
    """The smallest e with largest <= 127 2^e."""
    fraction, exponent = torch.frexp(largest)
    return exponent - 7 + (fraction > Q8_MAX / 128).int()


def _units(weight: Tensor) -> Tensor:
    """[O, 1, ...]: powers of two, at least 2^-4 of what the whole tensor would have, float64; 2^-126 at least."""
    rows = weight.abs().flatten(1).amax(1)
    whole = weight.abs().max()
    if not float(whole):
        units = torch.full_like(rows, 2.0**-WEIGHT_RANGE)
    else:
        floor = _exponent(whole) - WEIGHT_RANGE
        exponent = torch.where(rows > 0, torch.maximum(_exponent(rows), floor), floor)
        units = torch.ldexp(torch.ones_like(rows), exponent.clamp(min=-126))
    return units.reshape(-1, *[1] * (weight.ndim - 1))
