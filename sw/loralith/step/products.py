"""INT8 operands of a step graph's products: what is quantized, with which unit taken in, and what meets the result."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from loralith.errors import LoralithError
from loralith.spec.graph import Kind, Node, Op
from loralith.spec.numerics import Q8_MAX
from loralith.spec.step import BATCH_MAX, StepScheme

from .builder import Builder
from .values import Quantized, Root, Value, spread

__all__ = ["Products"]


class Products:
    """Quantizes each tensor once for each unit that it takes in, and multiplies.

    A unit (a frozen weight's output channels, a softmax's rows) that lies along a product's reduction is multiplied into the other operand
    before that one is quantized; elsewhere it multiplies the result.
    """

    def __init__(self, b: Builder, scheme: StepScheme) -> None:
        self.b, self.scheme = b, scheme

    # What is quantized before the step, or with a unit of its own.

    def frozen(self, name: str, tensor: Tensor) -> Value:
        """A frozen parameter. A matrix or a convolution's W is INT8 with a power of two for each output channel, made once by the host."""
        node = self.b.node(Op.FROZEN, Kind.WORD, tensor.shape, name=name)
        root = Root(node, False, unit_of=name)
        if tensor.ndim in (2, 4):
            q = self.b.node(Op.FROZEN, Kind.INT8, tensor.shape, name=f"{name}.q")
            rows = (tensor.shape[0], *[1] * (tensor.ndim - 1))
            root.known = Quantized(q, None, *spread(self.b, self.b.node(Op.FROZEN, Kind.WORD, rows, name=f"{name}.unit"), tensor.shape))
        return Value(node, root)

    def trained(self, name: str, tensor: Tensor, base: Value | None) -> Value:
        """A, or B with the frozen W whose channels' units it is divided by; quantized anew in each step."""
        node = self.b.node(Op.STATE, Kind.WORD, tensor.shape, name=name)
        root = Root(node, False, unit_of=None if base is None else base.node.name)
        value, unit = node, (None, None)
        if base is not None:
            rows = (tensor.shape[0], 1)
            value = self.b.multiply(node, self.b.node(Op.FROZEN, Kind.WORD, rows, name=f"{base.node.name}.inverse"))
            unit = spread(self.b, self.b.graph[f"{base.node.name}.unit"], tensor.shape)
        scale = self.b.scale(self.b.largest(value), Q8_MAX)
        root.known = Quantized(self.b.quantize(value, scale, Q8_MAX, stochastic=False), scale, *unit)
        return Value(node, root)

    def rows(self, p: Node, q: Node, unit: Node) -> Value:
        """Softmax P, integers with a unit for each row."""
        return Value(p, Root(p, False, known=Quantized(q, None, *spread(self.b, unit, q.shape)), unit_of=("rows", p.name)))

    # Products.

    def product(self, left: Value, right: Value) -> Node:
        """left [..., M, K] right [..., K, N]: sums as words, times scales and units."""
        from_right, key_right = self._along(right, -2)
        from_left, key_left = self._along(left, -1)
        a = self.quantized(left, None if from_right is None else self._turned(from_right), key_right)
        c = self.quantized(right, None if from_left is None else self._turned(from_left), key_left)
        result = self._scaled(self.b.word(self.b.matmul(a.q, c.q)), a.scale, c.scale)
        for one, other in ((self.rest(left), c), (a, self.rest(right))):
            if one is not None and other is not None:
                result = self.b.add(result, self._scaled(self.b.word(self.b.matmul(one.q, other.q)), one.scale, other.scale))
        if from_left is None and a.unit is not None:
            result = self.b.multiply(result, self._line(a.unit, -1))
        if from_right is None and c.unit is not None:
            result = self.b.multiply(result, self._line(c.unit, -2))
        return result

    def convolution(self, x: Value, w: Value, stride: Sequence[int], padding: Sequence[int]) -> Node:
        """x [N, C, H, W], w [O, C, h, w]: sums as words, times scales and units."""
        limit = BATCH_MAX if self.scheme.batch_words == 2 and x.root.batch else Q8_MAX
        a, c = self.quantized(x, None, None, limit, lanes=1), self._frozen_kernel(w)
        (n, _, H, W), (O, _, h, v) = x.shape, w.shape
        shape = (n, O, *((size + 2 * p - k) // s + 1 for size, p, k, s in zip((H, W), padding, (h, v), stride, strict=True)))
        rest = self.rest(x)
        result: Node | None = None
        for one in (a,) if rest is None else (a, rest):
            sums = self.b.node(Op.CONVOLUTION, Kind.SUM, shape, one.q, c.q, stride=tuple(stride), padding=tuple(padding))
            scaled = self._scaled(self.b.word(sums), one.scale, None)
            result = scaled if result is None else self.b.add(result, scaled)
        assert result is not None
        return self.b.multiply(result, self._channels(c, w))

    def convolution_input(self, grad: Value, w: Value, shape: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Node:
        """dX of a convolution, from dY times the channels' units."""
        c = self._frozen_kernel(w)
        a = self.quantized(grad, self._channels(c, w), w.root.unit_of, lanes=1)
        sums = self.b.node(Op.CONVOLUTION_INPUT, Kind.SUM, shape, a.q, c.q, stride=tuple(stride), padding=tuple(padding))
        return self._scaled(self.b.word(sums), a.scale, None)

    def _frozen_kernel(self, w: Value) -> Quantized:
        if w.root.known is None or w.moves:
            raise LoralithError(f"{w.node.name}: a convolution on the device has a frozen weight of its own")
        return w.root.known

    def _channels(self, kernel: Quantized, w: Value) -> Node:
        return self.b.reshape(self.b.graph[f"{w.node.name}.unit"], (1, -1, 1, 1))

    def _scaled(self, result: Node, *scales: Node | None) -> Node:
        known = [scale for scale in scales if scale is not None]
        if not known:
            return result
        return self.b.multiply(result, known[0] if len(known) == 1 else self.b.multiply(known[0], known[1]))

    # Operands.

    def _along(self, value: Value, dim: int) -> tuple[Node | None, object]:
        """The unit of ``value`` along ``dim``, a product's reduction, with size 1 in the other one of the last two; a key for it."""
        if value.root.known is None or value.root.known.unit is None:
            return None, None
        seen = value.view(self.b, value.root.known)
        assert seen.strides is not None
        assert seen.unit is not None
        if value.shape[dim] == 1 or seen.strides.stride(dim) == 0:
            return None, None
        return self._line(seen.unit, -1 if dim == -2 else -2), value.root.unit_of

    def _line(self, unit: Node, dim: int) -> Node:
        """A unit that is constant along ``dim``, once."""
        return self.b.slice(unit, dim, 0, 1)

    def _turned(self, line: Node) -> Node:
        rank = len(line.shape)
        return self.b.permute(line, (*range(rank - 2), rank - 1, rank - 2))

    def quantized(self, value: Value, fold: Node | None, key: object, limit: int = Q8_MAX, lanes: int = -1) -> Quantized:
        """``value`` times ``fold`` (broadcast; ``key`` tells folds apart) within ``limit``; without a fold, what is known of it.
        ``lanes``: the dimension along the vector unit's lanes; -1 for what the root's shape says."""
        root = value.root
        if root.known is not None and fold is None:
            return value.view(self.b, root.known)
        of_weights = [copy for taken, copy in root.copies.items() if not isinstance(taken, tuple)]
        if fold is None and root.gradient and len(of_weights) == 1:
            return value.view(self.b, of_weights[0])  # a gradient that took in a weight's unit is not quantized again
        if key not in root.copies:
            root.copies[key] = self._quantize(value, fold, limit, lanes)
        done = value.view(self.b, root.copies[key])
        return Quantized(done.q, done.scale) if fold is not None else done

    def rest(self, value: Value) -> Quantized | None:
        """What the rounding of ``value`` to its INT8 operand has left, quantized itself; None where one tensor stands for an operand, for
        what was quantized before the step, and for the batch in two words."""
        root = value.root
        first = root.copies.get(None)
        if self.scheme.operand_words == 1 or first is None or first.scale is None or first.wide:
            return None
        if root.rest is None:
            left = self.b.subtract(root.node, self.b.multiply(self.b.word(first.q), first.scale))
            scale = self.b.scale(self.b.largest(left), Q8_MAX)
            root.rest = Quantized(self.b.quantize(left, scale, Q8_MAX, stochastic=False), scale)
        return value.view(self.b, root.rest)

    def _quantize(self, value: Value, fold: Node | None, limit: int, lanes: int) -> Quantized:
        root, node = value.root, value.node
        stochastic = root.gradient and self.scheme.stochastic
        factor = None if fold is None else self.b.expand(fold, value.shape)
        if root.scores:  # the array makes S with rows along the lanes
            node, lanes = root.node, -2
            factor = None if fold is None else value.at_root(self.b, fold)[0]
        elif stochastic and lanes == -1:
            lanes = value.lanes()
        scaled = node if factor is None else self.b.multiply(node, factor)
        scale = self.b.scale(self.b.largest(scaled), limit)
        q = self.b.quantize(scaled, scale, limit, stochastic, lanes)
        if not root.scores:
            q = value.back(self.b, q)
        if fold is None:
            return Quantized(q, scale, wide=limit > Q8_MAX)
        whole, strides = value.at_root(self.b, fold)
        return Quantized(q, scale, self.b.function(Op.RECIPROCAL, whole), strides)
