"""Products: INT8 operands from device memory through the array, INT32 sums from the output buffer through the vector unit to words.

The array's rows are the result's last dimension, which lies along the lanes of the vector unit, so that a result's rows are rows in memory;
its columns are the other dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from loralith.compiler.step.chains import Instruction, LaneRegister, Step, TensorOperand, emit_chain, instructions_of
from loralith.compiler.step.copies import aligned, offsets
from loralith.compiler.step.counts import PART
from loralith.compiler.step.elementwise import materialize, new_tensor
from loralith.compiler.step.emitter import NOWHERE, Emitter, Region, Work, kernel
from loralith.compiler.step.instructions import instruction
from loralith.compiler.step.operands import Epilogue, Operands
from loralith.compiler.step.product_blocks import Blocks
from loralith.compiler.step.tile_maxima import TileMaxima
from loralith.compiler.step.views import View, expand
from loralith.spec.commands import LoadTarget, Opcode, OutMode, StoreSource, VectorFormat
from loralith.spec.graph import Op
from loralith.spec.vector.program import Operand, Reduce, Source, Target

__all__ = ["Matmul", "matmul", "operands_of"]

COUNT = 3
"""The lane register that takes the sum of a block's integers."""


def _side(e: Emitter, view: View) -> tuple[View, bool, View | None]:
    """An operand [..., lane, k] that a LOAD can bring, whether transposed (a row in memory is a lane), and the copy that it is of."""
    bus = e.config.bus_bytes

    def stride(d: int) -> int:
        return 0 if view.shape[d] == 1 else view.strides[d]

    rest = [stride(d) for d in range(len(view.shape) - 2)]
    k_stride = view.strides[-1] if view.shape[-1] > 1 else 1
    if k_stride == 1 and aligned(view, [*rest, stride(-2)], bus):
        return view, True, None
    lane_stride = view.strides[-2] if view.shape[-2] > 1 else 1
    if lane_stride == 1 and aligned(view, [*rest, stride(-1)], bus):
        return view, False, None
    order = list(range(len(view.shape)))
    across = lane_stride == 1 and k_stride != 1
    if across:  # rows of the copy are rows of what it is of
        order[-2:] = reversed(order[-2:])
    made = materialize(e, view, order, padded=True)
    return made, not across, made


@dataclass(frozen=True)
class Sides:
    """A product's operands as LOADs bring them, ``left`` [..., N, K] and ``right`` [..., M, K]; whether transposed; copies made for it."""

    left: View
    left_transposed: bool
    right: View
    right_transposed: bool
    copies: list[View]


def operands_of(e: Emitter, a: View, b: View) -> Sides:
    """Of ``a`` [..., M, K] ``b`` [..., K, N], copied where no LOAD brings them as they lie."""
    batch = tuple(max(x, y) for x, y in zip(a.shape[:-2], b.shape[:-2], strict=True))
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    transposed = View(b.buffer, (*b.shape[:-2], n, k), (*b.strides[:-2], b.strides[-1], b.strides[-2]), b.offset)
    left, left_transposed, left_copy = _side(e, transposed)
    right, right_transposed, right_copy = _side(e, a)
    copies = [view for view in (left_copy, right_copy) if view is not None]
    return Sides(expand(left, (*batch, n, k)), left_transposed, expand(right, (*batch, m, k)), right_transposed, copies)


@kernel(Work.PRODUCT)
def matmul(
    e: Emitter, name: str, a: View, b: View, epilogue: Epilogue, top: bool = False, count: bool = False
) -> tuple[View, View | None, View | None]:
    """``a`` [..., M, K] ``b`` [..., K, N] with the epilogue: [..., M, N], N contiguous. Where the array has as many rows as there are
    lanes, each block's results are made by one command, and it gives, with ``top``, the largest magnitude of all, a scalar; with ``count``,
    of integers with the scale 1, the sum of each block's columns: [..., blocks, N]."""
    sides = operands_of(e, a, b)
    shape = (*sides.left.shape[:-2], sides.right.shape[-2], sides.left.shape[-2])
    m = shape[-2]
    result = new_tensor(e, name, epilogue.format, shape, range(len(shape)), len(shape) - 1)
    copies: list[View] = []

    def fitting(view: View) -> View:
        view = expand(view, shape)
        if not Operands.fits(e, view, m, len(shape) - 1):
            view = materialize(e, view, range(len(shape)), padded=True)
            copies.append(view)
        # a dimension of size 1 has no stride that matters
        strides = (0 if size == 1 and d < len(shape) - 1 else s for d, (size, s) in enumerate(zip(shape, view.strides, strict=True)))
        return View(view.buffer, shape, tuple(strides), view.offset)

    product = Matmul(e, sides.left, sides.left_transposed, sides.right, sides.right_transposed, epilogue.seen(fitting), result)
    by_word = e.config.rows == e.config.vector_lanes
    if count and by_word and product.counts_fit():
        product.count()
    largest = product.run(top and by_word)
    for copy in (*sides.copies, *copies):
        e.release(copy.buffer)
    return result, largest, product.counts


class Matmul(Blocks):
    """The blocks of a product, their sums through the epilogue to ``result``."""

    def __init__(
        self,
        e: Emitter,
        left: View,
        left_transposed: bool,
        right: View,
        right_transposed: bool,
        epilogue: Epilogue,
        result: View,
    ) -> None:
        self.e, self.left, self.right, self.result = e, left, right, result
        self.left_transposed, self.right_transposed = left_transposed, right_transposed
        self.prepared = epilogue.prepared
        self.brain = bool(epilogue.steps) and epilogue.steps[-1].op is Op.BRAIN
        self.maxima: TileMaxima | None = None
        self.counts: View | None = None
        self.chain, self.registers = self._instructions(epilogue)
        self.operands = Operands(e, epilogue.views, self.registers)
        self.n, self.k = left.shape[-2:]
        self.m = right.shape[-2]
        self._choose()

    def counts_fit(self) -> bool:
        """Whether a block's command has a region left for what the columns' integers add up to, and a word holds that exactly."""
        tiles = {one.tile for one in self.chain if one.tile is not None}
        return len(self.registers) < 2 and not self.prepared and len(tiles) <= 1 and self.columns <= PART

    def count(self) -> None:
        """Each block is to leave the sums of its columns' integers."""
        shape = (*self.result.shape[:-2], -(-self.m // self.columns), self.n)
        name = f"{self.result.buffer.name}, counts of blocks"
        self.counts = new_tensor(self.e, name, VectorFormat.FP32, shape, range(len(shape)), len(shape) - 1)

    def _instructions(self, epilogue: Epilogue) -> tuple[list[Instruction], tuple[int, ...]]:
        """The chain, and the operands whose words it takes from lane registers: those that are the same in all columns, where that takes
        fewer instructions and one command reads the rest."""
        plain = instructions_of(epilogue.steps), ()
        c = self.e.config
        rows = tuple(i for i, view in enumerate(epilogue.views) if view.strides[-1] and not view.strides[-2] and i not in epilogue.prepared)
        rest = sum(len(views) for _, views in epilogue.prepared.values())
        if not rows or len(rows) + rest > 2 or len(epilogue.views) > len(rows) + 1 or c.rows != c.vector_lanes:
            return plain

        def taken(step: Step) -> Step:
            index = step.operand.index if isinstance(step.operand, TensorOperand) else -1
            return replace(step, operand=LaneRegister(rows.index(index))) if index in rows else step

        fewer = instructions_of([taken(step) for step in epilogue.steps])
        return (fewer, rows) if len(fewer) < len(plain[0]) else plain

    def run(self, top: bool = False) -> View | None:
        """All blocks; with ``top`` the largest magnitude of the result."""
        batch = self.result.shape[:-2]
        every = [self.left, self.right, self.result, *self.operands.views, *self._rows()]
        every += [] if self.counts is None else [self.counts]
        if top:
            blocks = math.prod(batch) * -(-self.m // self.columns) * -(-self.n // self.lanes)
            self.maxima = TileMaxima(self.e, self.result.buffer.name, blocks, self.brain)
        for left, right, to, *starts in offsets(batch, *(view.strides[:-2] for view in every)):
            for lane, column in self._places():
                lanes, columns = min(self.lanes, self.n - lane), min(self.columns, self.m - column)
                self._block(left, right, to, starts, lane, lanes, column, columns)
        return None if self.maxima is None else self.maxima.result()

    def _places(self) -> Iterator[tuple[int, int]]:
        """First lane and column of each block, so that blocks that follow each other have operands in common."""
        for first in range(0, self.n, self.group):
            for column in range(0, self.m, self.columns):
                for lane in range(first, min(first + self.group, self.n), self.lanes):
                    yield lane, column

    def _rows(self) -> list[View]:
        """Operands of what is prepared, the same in all columns."""
        return [view for _, views in self.prepared.values() for view in views]

    def _block(self, left: int, right: int, to: int, starts: Sequence[int], lane: int, lanes: int, column: int, columns: int) -> None:
        e, c = self.e, self.e.config
        out_stride = -(-4 * columns // c.banks)
        depth = self.k_rows * c.banks
        parts = list(range(0, self.k, depth))
        for number, start in enumerate(parts):
            size = min(depth, self.k - start)
            rows = -(-size // c.banks)
            side = number & 1
            left_base, right_base = side * (c.left_depth // 2), side * (c.right_depth // 2)
            self._operand(LoadTarget.LEFT, self.left, self.left_transposed, left, lane, lanes, start, size, left_base, rows)
            self._operand(LoadTarget.RIGHT, self.right, self.right_transposed, right, column, columns, start, size, right_base, rows)
            last = number == len(parts) - 1
            fields = {"acc_read": number > 0, "acc_write": not last, "acc_stride": columns}
            if last:
                fields |= {"out_mode": OutMode.INT32, "to_out": 1, "out_stride": out_stride}
            e.emit(
                Opcode.COMPUTE,
                m_rows=lanes,
                n_cols=columns,
                k0=size,
                left0_base=left_base,
                left0_stride=rows,
                right0_base=right_base,
                right0_stride=rows,
                **fields,
            )
        self._results(to, starts, lane, lanes, column, columns, out_stride)
        e.end_tile()

    def _operand(
        self,
        target: LoadTarget,
        view: View,
        transposed: bool,
        offset: int,
        first: int,
        count: int,
        k: int,
        size: int,
        base: int,
        stride: int,
    ) -> None:
        """Lanes first .. first + count - 1, steps k .. k + size - 1."""
        lane_stride, k_stride = view.strides[-2:]
        address = view.buffer.address + view.offset + offset + first * lane_stride + k * k_stride
        if transposed:
            self.e.load(target, address, count, size, lane_stride, base, block_stride=stride, transpose=1)
        else:
            self.e.load(target, address, size, count, k_stride, base, block_stride=stride)

    def _results(self, to: int, starts: Sequence[int], lane: int, lanes: int, column: int, columns: int, out_stride: int) -> None:
        e, c = self.e, self.e.config
        L, per_column = c.vector_lanes, c.rows // c.vector_lanes
        width = -(-lanes // L)
        own = [s + column * view.strides[-2] for s, view in zip(starts, self.operands.views, strict=False)]
        tiles = self.operands.load(own, columns, lane, lanes)
        rest = starts[len(self.operands.views) :]
        if self.registers or self.counts is not None:
            self._visit_by_lanes(own, rest, tiles, lane, lanes, column, columns, width, out_stride)
        elif per_column == 1:
            self._prepare(rest, tiles, lane, lanes, columns, width)
            x = Region(0, 1, out_stride * (c.banks // 4))
            top = None if self.maxima is None else self.maxima.scalar()
            partial = lanes - (width - 1) * L
            emit_chain(e, self.chain, Source.OUT32, x, tiles, Region(0, width, 1), columns, width, lanes=partial, top=top)
            if self.maxima is not None:
                self.maxima.leave()
        else:
            self._prepare(rest, tiles, lane, lanes, columns, width)
        for word in range(width if per_column > 1 else 0):
            block, group = divmod(word, per_column)
            first = block * out_stride * (c.banks // 4) * per_column + group
            partial = min(L, lanes - word * L)
            regions = [Region(t.base + word * t.inner, t.outer, 0) for t in tiles]
            x = Region(first, per_column, 0)
            emit_chain(e, self.chain, Source.OUT32, x, regions, Region(word, width, 0), columns, 1, lanes=partial)
        size = self.result.size
        address = self.result.buffer.address + (self.result.offset + to + column * self.result.strides[-2] + lane) * size
        e.store(
            StoreSource.V0,
            address,
            columns,
            lanes * size,
            self.result.strides[-2] * size,
            0,
            block_stride=width,
            format=self.result.buffer.format,
        )

    def _visit_by_lanes(
        self,
        starts: Sequence[int],
        rest: Sequence[int],
        tiles: Sequence[Region],
        lane: int,
        lanes: int,
        column: int,
        columns: int,
        width: int,
        out_stride: int,
    ) -> None:
        """One command with an outer iteration for each word along the lanes, which begins with what is the same in all columns: the first
        such operand comes to where the first column's results will be, another one after all results. Counts come to V1, after all else."""
        e, c = self.e, self.e.config
        work, last = Region(0, 1, width), Region(columns * width, 1, 0)
        code = []
        for number, (index, region, base) in enumerate(zip(self.registers, (3, 2), (0, last.base), strict=False)):
            view = self.operands.views[index]
            address = view.buffer.address + (view.offset + starts[index] + lane) * view.size
            e.load(LoadTarget.V0, address, 1, lanes * view.size, 0, base, format=view.buffer.format)
            code.append(instruction(x_source=Source.V0, x_region=region, once=1, target=Target.LANE, lane=number))
        operand = next((t for i, t in enumerate(tiles) if i not in self.registers), NOWHERE)
        for number, fields in self._preparations(rest, lane, lanes, columns, width):
            assert tiles[number] is operand
            own = {"x_source": Source.V1, "x_region": 1, "target": Target.V1, "target_region": 1, **fields}
            code.append(instruction(**own | ({"y_region": 2} if "y_source" in fields else {})))
        top = None if self.maxima is None else self.maxima.scalar()
        for number, one in enumerate(self.chain):
            source, region = (Source.V0, 3) if number else (Source.OUT32, 0)
            fields: dict[str, int] = {"x_source": source, "x_region": region, "target": Target.V0, "target_region": 3}
            fields |= one.fields | {name: e.scalar(scalar.key, scalar.address) for name, scalar in one.scalars.items()}
            if one.tile is not None:
                fields |= {"y_source": Source.V1, "y_region": 1}
            if top is not None and number == len(self.chain) - 1:
                fields |= {"reduce": Reduce.MAX_ALL, "over_outer": 1, "reduce_to": 1, "s3": top}
            if self.counts is not None and number == len(self.chain) - 1:
                fields |= {"reduce": Reduce.SUM_LANE, "lane": COUNT}
            code.append(instruction(**fields))
        if self.counts is not None:
            last = Region(self.operands.words(columns, width), 1, 0)
            code.append(instruction(b=Operand.L0 + COUNT, once=1, target=Target.V1, target_region=2))
        x = Region(0, out_stride * (c.banks // 4), 1)
        partial = lanes - (width - 1) * c.vector_lanes
        e.vector(tuple(code), [x, Region(operand.base, operand.inner, operand.outer), last, work], width, columns, partial)
        if self.maxima is not None:
            self.maxima.leave()
        if self.counts is not None:
            element = self.counts.offset + rest[-1] + column // self.columns * self.counts.strides[-2] + lane
            e.store(StoreSource.V1, self.counts.buffer.address + element * 4, 1, lanes * 4, 0, last.base)

    def _prepare(self, starts: Sequence[int], tiles: Sequence[Region], lane: int, lanes: int, columns: int, width: int) -> None:
        """Operands in V1 that go through steps of their own first; the rows that these read lie in V0 after the results."""
        e = self.e
        for number, fields in self._preparations(starts, lane, lanes, columns, width):
            own = {"x_source": Source.V1, "x_region": 0, "target": Target.V1, "target_region": 0, **fields}
            regions = [tiles[number], Region(columns * width, 0, 1)]
            e.visit((instruction(**own),), regions, columns, width, lanes - (width - 1) * e.config.vector_lanes)

    def _preparations(self, starts: Sequence[int], lane: int, lanes: int, columns: int, width: int) -> Iterator[tuple[int, dict[str, int]]]:
        """Each operand in V1 that goes through steps of its own first: (its number, fields of the one instruction). The row that it reads,
        if any, is loaded to V0 after the results, and is Y of region 1."""
        e, offsets_of = self.e, iter(starts)
        for number, (steps, views) in self.prepared.items():
            (one,) = instructions_of(steps)
            fields = dict(one.fields)
            for view in views:
                address = view.buffer.address + (view.offset + next(offsets_of) + lane) * view.size
                e.load(LoadTarget.V0, address, 1, lanes * view.size, 0, columns * width, format=view.buffer.format)
                fields |= {"y_source": Source.V0, "y_region": 1}
            fields |= {name: e.scalar(scalar.key, scalar.address) for name, scalar in one.scalars.items()}
            yield number, fields
