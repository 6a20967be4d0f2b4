"""Integers of the noisy batch: two words of 8 bits as three INT8 tensors that a chained product takes."""

from __future__ import annotations

from collections.abc import Sequence

from loralith.compiler.step.chains import Scalar, Step, TensorOperand
from loralith.compiler.step.elementwise import elementwise
from loralith.compiler.step.emitter import Emitter
from loralith.compiler.step.views import Buffer, View
from loralith.errors import LoralithError
from loralith.spec.commands import VectorFormat
from loralith.spec.graph import Node, Op

__all__ = ["planes"]

ROUNDING = 98304.0
"""1.5 * 2^16: a word of at most 2^15 in magnitude plus it is rounded to an integer, half to even."""


def planes(e: Emitter, node: Node, x: View, scale: Scalar) -> tuple[View, ...]:
    """Three INT8 tensors: x / scale, rounded half to even, = 2^8 first + second + third. The low word, within 128, is two halves, since
    an INT8 result is within 127."""
    if node.attributes["draw"]:
        raise LoralithError("an integer of two bytes is rounded half to even")
    made: list[View] = []

    def kernel(views: Sequence[View], *steps: Step) -> View:
        made.append(elementwise(e, node.name, views, steps, VectorFormat.FP32))
        return made[-1]

    def number(value: float) -> Scalar:
        return Scalar(value, e.number(value))

    rounded = (Step(Op.ADD, number(ROUNDING)), Step(Op.SUBTRACT, number(ROUNDING)))
    step = View(Buffer(node.name, VectorFormat.FP32, 1, 1, 1, scale.address), (), ())
    inverse = kernel([step], Step(Op.RECIPROCAL))
    q = kernel([x], Step(Op.MULTIPLY, Scalar((node.name, "inverse"), inverse.buffer.address)), *rounded)
    high = kernel([q], Step(Op.MULTIPLY, number(2.0**-8)), *rounded)
    low = kernel([high, q], Step(Op.MULTIPLY, number(256.0)), Step(Op.SUBTRACT, TensorOperand(0), reverse=True))
    half = kernel([low], Step(Op.MULTIPLY, number(0.5)), *rounded)
    rest = kernel([half, low], Step(Op.SUBTRACT, TensorOperand(0), reverse=True))
    integer = Step(Op.QUANTIZE, number(1.0))
    found = tuple(elementwise(e, node.name, [view], [integer], VectorFormat.INT8) for view in (high, half, rest))
    for view in made:
        e.release(view.buffer)
    return found
