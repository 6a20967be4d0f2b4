"""Interprets a step graph in torch, node by node, in the numbers of docs/vector_unit.md. It knows no compiler and no commands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from loralith.spec.graph import Graph, GraphError, Kind, Node, Op
from loralith.spec.numerics import hash32, hash_key
from loralith.spec.vector.numbers import FRACTION_BITS
from loralith.verif.vector.format import VectorFormat, round_to

__all__ = ["draw_bytes", "draw_key", "interpret"]

V = VectorFormat(FRACTION_BITS)


def draw_bytes(shape: tuple[int, ...], lanes_at: int, key: tuple[int, int]) -> Tensor:
    """The byte of stochastic rounding of each element, int64: dimension ``lanes_at`` runs along the lanes, the others in their order."""
    order = [d for d in range(len(shape)) if d != lanes_at] + [lanes_at]
    lanes = shape[lanes_at]
    quads = (lanes + 3) // 4
    lane = torch.arange(lanes)
    row = torch.arange(math.prod(shape) // lanes)[:, None]
    bits = hash32(key, row * quads + lane // 4) >> 8 * (lane % 4) & 0xFF
    inverse = [order.index(d) for d in range(len(shape))]
    return bits.reshape([shape[d] for d in order]).permute(inverse)


def draw_key(seed: int, step: int, draw: int) -> tuple[int, int]:
    """The hash key of the step's tensor number ``draw``, from 1: docs/step.md."""
    of_step, of_draw = hash_key(seed, step, 0), hash_key(seed, 0, draw)
    return of_step[0] ^ of_draw[0], of_step[1] ^ of_draw[1]


def _quantize(node: Node, x: Tensor, scale: Tensor, key: tuple[int, int]) -> Tensor:
    y = x.double() / scale.double()
    limit = node.attributes["limit"]
    draw = node.attributes["draw"]
    y = torch.floor(y + (2 * draw_bytes(node.shape, node.attributes["lanes"], key) + 1).double() / 512) if draw else torch.round(y)
    return y.clamp(-limit, limit)


def _scale(node: Node, x: Tensor) -> Tensor:
    limit, value = node.attributes["limit"], float(x)
    if not value:
        return torch.tensor(2.0**-126)
    k = math.frexp(value / limit)[1] - 1  # 2^k is the quotient or the power of two below it
    while value > math.ldexp(limit, k):
        k += 1
    while value <= math.ldexp(limit, k - 1):
        k -= 1
    return torch.tensor(2.0 ** max(k, -126))


def _convolution_input(node: Node, grad: Tensor, w: Tensor) -> Tensor:
    stride, padding = node.attributes["stride"], node.attributes["padding"]
    sizes = [(n - 1) * s - 2 * p + k for n, s, p, k in zip(grad.shape[2:], stride, padding, w.shape[2:], strict=True)]
    extra = [want - size for want, size in zip(node.shape[2:], sizes, strict=True)]
    return functional.conv_transpose2d(grad, w, None, stride, padding, tuple(extra))


_OPERATIONS: dict[Op, Callable[..., Tensor]] = {
    Op.ADD: lambda node, x, y: V.add(x, y),
    Op.SUBTRACT: lambda node, x, y: V.sub(x, y),
    Op.MULTIPLY: lambda node, x, y: V.mul(x, y),
    Op.EXP2: lambda node, x: V.exp2(x),
    Op.RECIPROCAL: lambda node, x: V.reciprocal(x),
    Op.RSQRT: lambda node, x: V.rsqrt(x),
    Op.PHI: lambda node, x: V.phi(x),
    Op.BRAIN: lambda node, x: round_to(x.double(), 7).float(),
    Op.SUM: lambda node, x, bound: V.sum(x, node.attributes["dims"], bound),
    Op.LARGEST: lambda node, x: x.abs().amax(),
    Op.MAXIMUM: lambda node, x: x.amax(node.attributes["dims"], keepdim=True),
    Op.SCALE: _scale,
    Op.COUNT: lambda node, q: V.round(q.double().sum(node.attributes["dims"], keepdim=True)),
    Op.MATMUL: lambda node, a, b: a @ b,
    Op.CONVOLUTION: lambda node, x, w: functional.conv2d(x, w, None, node.attributes["stride"], node.attributes["padding"]),
    Op.CONVOLUTION_INPUT: _convolution_input,
    Op.WORD: lambda node, x: V.round(x),
    Op.RESHAPE: lambda node, x: x.reshape(node.shape),
    Op.PERMUTE: lambda node, x: x.permute(node.attributes["order"]),
    Op.SLICE: lambda node, x: x[_window(node.attributes)],
    Op.CONCAT: lambda node, *xs: torch.cat(xs, node.attributes["dim"]),
    Op.EXPAND: lambda node, x: x.expand(node.shape),
    Op.REPEAT: lambda node, x: x.repeat_interleave(node.attributes["rows"], 2).repeat_interleave(node.attributes["cols"], 3),
}


def _window(attributes: Mapping[str, int]) -> tuple[slice, ...]:
    return (slice(None),) * attributes["dim"] + (slice(attributes["start"], attributes["stop"], attributes["step"]),)


def interpret(graph: Graph, given: Mapping[str, Tensor], seed: int, step: int) -> Iterator[tuple[Node, Tensor]]:
    """Each node with its value, in order. Words are float32; integers and sums are float64.

    Parameters: ``given``, values of inputs, frozen tensors and states by name; ``seed`` and ``step`` of stochastic rounding. A value is
    kept only as long as a later node or an output needs it. Raises GraphError for a value that is missing or has another shape.
    """
    last = {name: node.name for node in graph.nodes.values() for name in node.inputs if isinstance(name, str)}
    kept = set(graph.outputs.values())
    values: dict[str, Tensor] = {}
    for node in graph.nodes.values():
        if node.op in (Op.INPUT, Op.FROZEN, Op.STATE):
            if node.name not in given:
                raise GraphError(f"{node.name}: no value was given for it")
            value = given[node.name]
            if tuple(value.shape) != node.shape:
                raise GraphError(f"{node.name} must be {list(node.shape)}, not {list(value.shape)}")
            value = value.double() if node.kind is Kind.INT8 else value.float()
        else:
            inputs = [values[x] if isinstance(x, str) else torch.tensor(x) for x in node.inputs]
            if node.op is Op.QUANTIZE:
                value = _quantize(node, inputs[0], inputs[1], draw_key(seed, step, node.attributes["draw"]))
            else:
                value = _OPERATIONS[node.op](node, *inputs)
        if tuple(value.shape) != node.shape:
            raise GraphError(f"{node.name}: {node.op} gives {list(value.shape)}, and the graph says {list(node.shape)}")
        values[node.name] = value
        yield node, value
        for name in node.inputs:
            if isinstance(name, str) and last[name] == node.name and name not in kept:
                values.pop(name, None)
