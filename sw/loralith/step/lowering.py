"""From torch's operators to a step graph: every rounding of docs/step.md gets its node."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from loralith.errors import LoralithError
from loralith.spec.graph import Graph, Kind, Node, Op
from loralith.spec.step import StepScheme

from . import moves
from . import operator_programs as programs
from .builder import Builder, Term
from .capture import Capture
from .norms import NORMS
from .operator_programs import constant
from .products import Products
from .values import Root, Step, Value

__all__ = ["Lowered", "lower"]

HOST = frozenset(
    (
        *("arange", "exp", "cos", "sin", "pow", "rsub", "add", "sub", "mul", "div", "view", "_unsafe_view", "t", "transpose", "permute"),
        *("expand", "slice", "unsqueeze", "squeeze", "select", "cat", "_to_copy", "clone", "detach", "embedding", "index", "where"),
        *("empty", "ones_like", "zeros_like", "full", "scalar_tensor"),
    )
)
"""Operators of the batch alone, and of the timestep's embedding: the host computes them before the step."""


@dataclass(frozen=True)
class Lowered:
    """graph: the step. host: for each of its inputs, the torch node that the host computes for it. on_host: all nodes that it computes."""

    graph: Graph
    host: dict[str, fx.Node]
    on_host: frozenset[fx.Node]


VIEWS = frozenset(("view", "_unsafe_view", "t", "transpose", "permute", "unsqueeze", "detach", "alias", "expand", "clone"))
"""Of what the host writes, these are looked at on the device, so that a tensor is written once."""


def _name(node: fx.Node) -> str:
    """Of an operator, without "aten::"; of a placeholder, nothing."""
    return node.target._schema.name.removeprefix("aten::") if node.op == "call_function" else ""  # type: ignore[union-attr]


def lower(capture: Capture, scheme: StepScheme) -> Lowered:
    """The step graph of a captured step. Raises LoralithError for a torch operator that has no program, naming it and its place."""
    return _Lowering(capture, scheme).run()


class _Lowering:
    def __init__(self, capture: Capture, scheme: StepScheme) -> None:
        self.capture, self.scheme, self.b = capture, scheme, Builder()
        self.products = Products(self.b, scheme)
        self.values: dict[fx.Node, Any] = {}
        self.on_host: set[fx.Node] = set()
        self.host: dict[str, fx.Node] = {}
        self.parameters: dict[str, Value] = {}
        self.backward = False
        self.softmaxes: dict[str, tuple[int, ...]] = {}
        self.outs: dict[str, Value] = {}
        self.grad_outs: dict[str, Value] = {}

    def run(self) -> Lowered:
        if self.scheme.operand_words == 2 and not self.capture.forward:
            raise LoralithError("operands of two INT8 tensors are of forward passes alone; with gradients operand_words is 1, not 2")
        for node in self.capture.graph.graph.nodes:
            self.b.source = str(node)
            if node.op == "placeholder":
                self.on_host.add(node)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._outputs(node.args[0])  # type: ignore[arg-type]
        graph = self.b.graph.live()
        host = {name: node for name, node in self.host.items() if name in graph.nodes}
        return Lowered(graph, host, frozenset(node for node in self.on_host if node.op == "call_function"))

    def _outputs(self, results: Sequence[fx.Node]) -> None:
        if self.capture.forward:
            self.b.graph.set_output("prediction", self.value(results[0]).node.name)
            return
        loss, *gradients = results
        self.b.graph.set_output("loss", self.value(loss).node.name)
        for name, node in zip(self.capture.trained, gradients, strict=True):
            self.b.graph.set_output(f"gradient.{name}", self.value(node).node.name)

    # Values.

    def value(self, node: fx.Node) -> Value:
        """What the device has of a torch node; of one that the host computes, a new input."""
        if node in self.values:
            return self.values[node]
        if node.op == "get_attr":
            self.values[node] = self._parameter(node)
        elif node in self.on_host and _name(node) in VIEWS:
            self.values[node] = _TABLE[_name(node)](self, *node.args, **node.kwargs)
        elif node in self.on_host:
            tensor = node.meta["val"]
            name = f"batch.{node.name}"
            self.host[name] = node
            self.values[node] = self.made(self.b.node(Op.INPUT, Kind.WORD, tensor.shape, name=name), batch=True)
        else:
            raise LoralithError(f"{node}: the step graph has no value of it")
        return self.values[node]

    def _parameter(self, node: fx.Node) -> Value:
        tensor = getattr(self.capture.graph, str(node.target))
        name = self.capture.name_of(tensor)
        if name is None:
            raise LoralithError(f"{node}: a constant that is no parameter of the model, of shape {list(tensor.shape)}")
        return self._named(name)

    def _named(self, name: str) -> Value:
        if name not in self.parameters:
            tensor, base = self.capture.parameters[name], self.capture.bases.get(name)
            if name in self.capture.trained:
                self.parameters[name] = self.products.trained(name, tensor, None if base is None else self._named(base))
            else:
                self.parameters[name] = self.products.frozen(name, tensor)
        return self.parameters[name]

    def made(self, node: Node, batch: bool = False) -> Value:
        """A result with storage of its own."""
        return Value(node, Root(node, self.backward, batch))

    def stored(self, node: Node) -> Value:
        """A result that lies in memory until the next operator reads it."""
        return self.made(self.b.brain(node) if self.scheme.storage == "bf16" else node)

    # Operators.

    def _call(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            source, index = node.args
            assert isinstance(source, fx.Node)
            assert isinstance(index, int)
            if source in self.on_host:
                self.on_host.add(node)
            else:
                self.values[node] = self.values[source][index]
            return
        name = _name(node)
        tensors = [x for x in node.all_input_nodes if x.op != "get_attr"]
        if name in HOST and all(x in self.on_host for x in tensors) and not any(x.op == "get_attr" for x in node.all_input_nodes):
            self.on_host.add(node)
            return
        if name not in _TABLE:
            raise LoralithError(f"the step on the device has no operator {node.target}, at {node}; it has {', '.join(sorted(_TABLE))}")
        self.values[node] = _TABLE[name](self, *node.args, **node.kwargs)

    def scales_batch(self, *terms: Any) -> bool:
        """Whether ``terms`` are the noisy batch and a trained scale: the result stays words, and is quantized as the batch."""
        if any(not isinstance(x, fx.Node) for x in terms):
            return False
        roots = [self.value(x).root for x in terms]
        trained = [root.node.name in self.capture.trained for root in roots]
        return sum(root.batch for root in roots) == 1 == sum(trained)

    def term(self, x: Any) -> Term:
        return self.value(x).node if isinstance(x, fx.Node) else constant(float(x))


def _move(make: Callable[..., Step]) -> Callable[..., Any]:
    """An operator that is a view."""

    def compute(low: _Lowering, x: fx.Node, *args: Any, **kwargs: Any) -> Value:
        value = low.value(x)
        return value.moved(low.b, make(value.shape, *args, **kwargs))

    return compute


def _copied(low: _Lowering, x: fx.Node, **kwargs: Any) -> Value:
    return low.made(low.value(x).node, batch=low.value(x).root.batch)


def _slice(low: _Lowering, x: fx.Node, dim: int = 0, start: int | None = None, stop: int | None = None, step: int = 1) -> Value:
    value = low.value(x)
    first, last, step = slice(start, stop, step).indices(value.shape[dim])
    node = low.b.slice(value.node, dim, first, last, step)
    # A part of a tensor is quantized by its own maximum.
    return value if node.shape == value.shape else Value(node, Root(node, value.root.gradient, value.root.batch))


def _split(low: _Lowering, x: fx.Node, size: int, dim: int = 0) -> tuple[Value, ...]:
    total = low.value(x).shape[dim]
    return tuple(_slice(low, x, dim, i, min(i + size, total)) for i in range(0, total, size))


def _cat(low: _Lowering, xs: Sequence[fx.Node], dim: int = 0) -> Value:
    nodes = [low.value(x).node for x in xs]
    dim %= len(nodes[0].shape)
    shape = list(nodes[0].shape)
    shape[dim] = sum(node.shape[dim] for node in nodes)
    return low.made(low.b.node(Op.CONCAT, Kind.WORD, shape, *nodes, dim=dim))


def _upsample(low: _Lowering, x: fx.Node, size: Sequence[int], *factors: Any) -> Value:
    node = low.value(x).node
    n, c, h, w = node.shape
    return low.made(low.b.node(Op.REPEAT, Kind.WORD, (n, c, *size), node, rows=size[0] // h, cols=size[1] // w))


def _upsample_backward(low: _Lowering, grad: fx.Node, size: Sequence[int], shape: Sequence[int], *factors: Any) -> Value:
    return low.stored(programs.upsample_backward(low.b, low.value(grad).node, size[0] // shape[2], size[1] // shape[3]))


def _mm(low: _Lowering, a: fx.Node, b: fx.Node) -> Value:
    return low.stored(low.products.product(low.value(a), low.value(b)))


def _addmm(low: _Lowering, bias: fx.Node, a: fx.Node, b: fx.Node) -> Value:
    return low.stored(low.b.add(low.products.product(low.value(a), low.value(b)), low.value(bias).node))


def _bmm(low: _Lowering, a: fx.Node, b: fx.Node) -> Value:
    left = low.value(a)
    result = low.products.product(left, low.value(b))
    if low.backward and result.shape in low.softmaxes.values():
        value = low.made(result)
        low.grad_outs[value.root.node.name] = left
        return value
    value = low.stored(result)
    if not low.backward and left.root.node.name in low.softmaxes:
        low.outs[left.root.node.name] = value
    return value


def _baddbmm(low: _Lowering, base: fx.Node, a: fx.Node, b: fx.Node, *, beta: float = 1, alpha: float = 1) -> Value:
    result = low.b.multiply(low.products.product(low.value(a), low.value(b)), constant(float(alpha)))
    if beta != 0:
        result = low.b.add(result, low.b.multiply(low.value(base).node, constant(float(beta))))
    return low.made(result)


def _softmax(low: _Lowering, z: fx.Node, dim: int, half: bool) -> Value:
    value = low.value(z)
    if dim not in (-1, len(value.shape) - 1):
        raise LoralithError(f"{z}: softmax on the device runs over the last dimension, not over {dim} of {len(value.shape)}")
    if low.scheme.operand_words == 2:
        return low.made(programs.softmax_words(low.b, value.node))
    q, unit, p = programs.softmax(low.b, value.node)
    low.softmaxes[p.name] = p.shape
    return low.products.rows(p, q, unit)


def _softmax_backward(low: _Lowering, grad: fx.Node, p: fx.Node, dim: int, dtype: Any) -> Value:
    dp, value = low.value(grad), low.value(p)
    out, grad_out = low.outs.get(value.root.node.name), low.grad_outs.get(dp.root.node.name)
    if out is None or grad_out is None:
        raise LoralithError(f"{p}: the step on the device has softmax only as attention's: O = P V by torch.bmm, with P's own gradient")
    result = low.stored(programs.softmax_backward(low.b, dp.node, value.node, out.node, grad_out.node))
    result.root.scores = True
    return result


def _convolution(low: _Lowering, x: fx.Node, w: fx.Node, bias: fx.Node | None, stride: Any, padding: Any, *rest: Any) -> Value:
    _plain_convolution(x, *rest)
    result = low.products.convolution(low.value(x), low.value(w), stride, padding)
    if bias is not None:
        result = low.b.add(result, low.b.reshape(low.value(bias).node, (1, -1, 1, 1)))
    return low.stored(result)


def _convolution_backward(
    low: _Lowering, grad: fx.Node, x: fx.Node, w: fx.Node, sizes: Any, stride: Any, padding: Any, *rest: Any
) -> tuple[Value | None, ...]:
    *plain, mask = rest
    _plain_convolution(x, *plain)
    if mask[1] or mask[2]:
        raise LoralithError(f"{x}: the step on the device trains no convolution: its weight and bias must be frozen")
    shape = x.meta["val"].shape
    return low.stored(low.products.convolution_input(low.value(grad), low.value(w), shape, stride, padding)), None, None


def _plain_convolution(x: fx.Node, dilation: Any, transposed: bool, output_padding: Any, groups: int) -> None:
    if any(d != 1 for d in dilation) or transposed or groups != 1:
        raise LoralithError(f"{x}: the step on the device has convolutions without dilation, transposition and groups, not {groups} groups")


def _elementwise(op: Callable[[Builder, Term, Term], Node]) -> Callable[..., Value]:
    def compute(low: _Lowering, x: Any, y: Any, *, alpha: float = 1) -> Value:
        if alpha != 1:
            raise LoralithError(f"{x}: the step on the device adds without a factor, not with alpha = {alpha}")
        result = op(low.b, low.term(x), low.term(y))
        if low.scales_batch(x, y):
            return low.made(result, batch=True)
        return low.stored(result)

    return compute


def _sum(low: _Lowering, x: fx.Node, dims: Sequence[int] | None = None, keepdim: bool = False, **kwargs: Any) -> Value:
    """What broadcasting has spread comes together: the gradient of a scale is the sum over what it multiplied."""
    node = low.value(x).node
    over = sorted(d % len(node.shape) for d in (dims or range(len(node.shape))))
    total = programs.total(low.b, node, over)
    return low.made(total if keepdim else low.b.reshape(total, [n for d, n in enumerate(node.shape) if d not in over]))


def _divide(low: _Lowering, x: Any, y: Any) -> Value:
    if isinstance(y, fx.Node):
        return low.stored(low.b.multiply(low.term(x), low.b.function(Op.RECIPROCAL, low.value(y).node)))
    return low.stored(low.b.multiply(low.term(x), constant(1.0 / y)))


def _activation(program: Callable[..., Node]) -> Callable[..., Value]:
    def compute(low: _Lowering, *args: Any, **kwargs: Any) -> Value:
        return low.stored(program(low.b, *(low.value(x).node for x in args)))

    return compute


def _mse(low: _Lowering, x: fx.Node, target: fx.Node, reduction: int = 1) -> Value:
    if reduction != 1:
        raise LoralithError(f"{x}: the step on the device has the mean squared error only as a mean")
    low.backward = True  # what follows in a training step are gradients
    return low.made(programs.mse(low.b, low.value(x).node, low.value(target).node))


def _mse_backward(low: _Lowering, grad: fx.Node, x: fx.Node, target: fx.Node, reduction: int = 1) -> Value:
    return low.stored(programs.mse_backward(low.b, low.term(grad), low.value(x).node, low.value(target).node))


def _ones_like(low: _Lowering, x: fx.Node, **kwargs: Any) -> Value:
    return low.made(low.b.add(low.b.multiply(low.value(x).node, 0.0), 1.0))


_TABLE: dict[str, Callable[..., Any]] = {
    "view": _move(moves.view),
    "_unsafe_view": _move(moves.view),
    "t": _move(moves.transpose),
    "transpose": _move(moves.transpose),
    "permute": _move(moves.permute),
    "expand": _move(moves.expand),
    "unsqueeze": _move(moves.unsqueeze),
    "squeeze": _move(moves.squeeze),
    "detach": _move(moves.same),
    "alias": _move(moves.same),
    "clone": _copied,
    "slice": _slice,
    "split": _split,
    "cat": _cat,
    "upsample_nearest2d": _upsample,
    "upsample_nearest2d_backward": _upsample_backward,
    "mm": _mm,
    "addmm": _addmm,
    "bmm": _bmm,
    "baddbmm": _baddbmm,
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "_softmax": _softmax,
    "_softmax_backward_data": _softmax_backward,
    **NORMS,
    "add": _elementwise(Builder.add),
    "sub": _elementwise(Builder.subtract),
    "mul": _elementwise(Builder.multiply),
    "div": _divide,
    "sum": _sum,
    "silu": _activation(programs.silu),
    "silu_backward": _activation(programs.silu_backward),
    "gelu": _activation(programs.gelu),
    "gelu_backward": _activation(programs.gelu_backward),
    "mse_loss": _mse,
    "mse_loss_backward": _mse_backward,
    "ones_like": _ones_like,
}
