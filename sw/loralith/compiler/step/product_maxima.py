"""The largest value of each row of a product, from its sums as they leave the array, so that S is not stored for softmax."""

from __future__ import annotations

from loralith.compiler.step.elementwise import new_tensor
from loralith.compiler.step.emitter import Emitter, Region, Work, kernel
from loralith.compiler.step.instructions import instruction
from loralith.compiler.step.operands import Epilogue
from loralith.compiler.step.product_blocks import INSTRUCTION
from loralith.compiler.step.products import Matmul, operands_of
from loralith.compiler.step.reductions import reduce_rows
from loralith.compiler.step.views import Buffer, View
from loralith.spec.commands import StoreSource, VectorFormat
from loralith.spec.vector.program import Operand, Reduce, Source, Target

__all__ = ["product_maxima"]


REDUCTION = 130
"""Cycles of a reduction and of the instruction that takes its word, about."""


@kernel(Work.PRODUCT)
def product_maxima(e: Emitter, name: str, a: View, b: View, epilogue: Epilogue) -> View:
    """The largest of each column of ``a`` [..., M, K] ``b`` [..., K, N] with the epilogue, one instruction without tensors: [..., 1, N].
    A word of N lies along all lanes of the vector unit, which are as many as the array has rows."""
    operands = operands_of(e, a, b)
    parts = _Maxima(e, name, operands.left, operands.left_transposed, operands.right, operands.right_transposed, epilogue)
    parts.run()
    for made in operands.copies:
        e.release(made.buffer)
    if parts.result.shape[-2] == 1:
        return parts.result
    result = reduce_rows(e, name, parts.result, (len(parts.result.shape) - 2,), Reduce.TOP_ALL)
    e.release(parts.result.buffer)
    return result


class _Maxima(Matmul):
    """Blocks of the product leave their columns' maxima, a row of the result each."""

    def __init__(
        self, e: Emitter, name: str, left: View, left_transposed: bool, right: View, right_transposed: bool, epilogue: Epilogue
    ) -> None:
        nowhere = View(Buffer(name, VectorFormat.FP32, 1, 1, 1), (), ())
        super().__init__(e, left, left_transposed, right, right_transposed, epilogue, nowhere)
        shape = (*left.shape[:-2], -(-self.m // self.columns), self.n)
        self.result = new_tensor(e, f"{name}, of blocks", VectorFormat.FP32, shape, range(len(shape)), len(shape) - 1)

    def _stored_words(self, lanes: int, columns: int) -> int:
        return lanes * 4 // self.e.config.bus_bytes

    def _visit_cycles(self, width: int, columns: int) -> int:
        return width * (columns + REDUCTION) + INSTRUCTION

    def _results(self, to: int, starts: object, lane: int, lanes: int, column: int, columns: int, out_stride: int) -> None:
        e, (only,) = self.e, self.chain
        scalars = {name: e.scalar(scalar.key, scalar.address) for name, scalar in only.scalars.items()}
        program = (
            instruction(x_source=Source.OUT32, x_region=0, reduce=Reduce.TOP_LANE, lane=0, **only.fields, **scalars),
            instruction(b=Operand.L0, once=1, target=Target.V1, target_region=1),
        )
        width = lanes // e.config.vector_lanes
        e.vector(program, [Region(0, out_stride * (e.config.banks // 4), 1), Region(0, 1, 0)], width, columns)
        element = self.result.offset + to + column // self.columns * self.result.strides[-2] + lane
        e.store(StoreSource.V1, self.result.buffer.address + element * 4, 1, lanes * 4, 0, 0)
