"""Products: INT8 operands from device memory through the array, INT32 sums from the output buffer through the vector unit to words.

The array's rows are the result's last dimension, which lies along the lanes of the vector unit, so that a result's rows are rows in memory;
its columns are the other dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from loralith.compiler.step.chains import Prepared, Step, emit_chain, instructions_of
from loralith.compiler.step.copies import _plan, aligned, load_elements, offsets
from loralith.compiler.step.elementwise import materialize, new_tensor
from loralith.compiler.step.emitter import Emitter, Region, Work, kernel
from loralith.compiler.step.instructions import instruction
from loralith.compiler.step.tile_maxima import TileMaxima
from loralith.compiler.step.views import View, expand
from loralith.errors import LoralithError
from loralith.spec.commands import LoadTarget, Opcode, OutMode, StoreSource, VectorFormat
from loralith.spec.graph import Op
from loralith.spec.vector.program import Source, Target

__all__ = ["Epilogue", "Matmul", "Operands", "matmul", "operands_of"]


TILE = 300
"""Cycles that a tile costs beside its words, about: checks, latencies and set-ups that others only partly hide."""
INSTRUCTION = 60
"""Cycles of an instruction's outer iteration beside its words, about."""


@dataclass(frozen=True)
class Epilogue:
    """What meets the sums on their way to memory: ``steps``, whose tiles are ``views``, each broadcast to the result's shape. ``prepared``:
    by the number of a tile what it goes through before, steps of one instruction, whose operand, if any, is the same in all columns."""

    steps: Sequence[Step]
    views: Sequence[View]
    format: VectorFormat
    prepared: Prepared = field(default_factory=dict)

    def seen(self, look: Callable[[View], View]) -> Epilogue:
        """The same with every view looked at through ``look``."""
        prepared = {i: (steps, [look(view) for view in views]) for i, (steps, views) in self.prepared.items()}
        return Epilogue(self.steps, [look(view) for view in self.views], self.format, prepared)


class Operands:
    """The epilogue's operands in V1 for a tile of ``columns`` columns and the lanes of one word."""

    def __init__(self, e: Emitter, views: Sequence[View]) -> None:
        self.e, self.views = e, views

    @staticmethod
    def fits(e: Emitter, view: View, columns: int, lanes: int) -> bool:
        """Whether rows along ``lanes``, the last dimension's, can be loaded as they lie."""
        bus = e.config.bus_bytes
        if view.strides[lanes] == 0 or view.shape[lanes] == 1:
            return True
        others = [s for d, s in enumerate(view.strides) if d != lanes and view.shape[d] > 1]
        return view.strides[lanes] == 1 and aligned(view, others, bus)

    def words(self, columns: int, width: int) -> int:
        """At most, of all operands."""
        e = self.e
        total = 0
        for view in self.views:
            lanes_stride, column_stride = view.strides[-1], view.strides[-2]
            if lanes_stride == 0:
                worst = max(1, e.config.bus_bytes // view.size) - 1
                total += _plan(view.buffer, worst, (columns, column_stride), (1, 0), e.config.bus_bytes).words + worst
            else:
                total += width * (columns if column_stride else 1)
        return total

    def load(self, starts: Sequence[int], columns: int, first_lane: int, lanes: int, after: int = 0) -> list[Region]:
        """Regions (a column an outer iteration, a word along the lanes an inner one) of a tile that begins ``starts`` elements in.
        ``after``: words of V1 that are taken."""
        e = self.e
        at, regions = after, []
        width = -(-lanes // e.config.vector_lanes)
        for view, start in zip(self.views, starts, strict=True):
            if view.strides[-1] == 0:
                loaded = load_elements(e, LoadTarget.V1, view, start, (columns, view.strides[-2]), (1, 0), at, 1 << 16)
                assert loaded is not None
                regions.append(loaded[0])
                at += loaded[1]
                continue
            rows = columns if view.strides[-2] else 1
            address = view.buffer.address + (view.offset + start + first_lane) * view.size
            stride = view.strides[-2] * view.size
            more = {"block_stride": width} if rows > 1 else {}
            e.load(LoadTarget.V1, address, rows, lanes * view.size, stride, at, format=view.buffer.format, **more)
            regions.append(Region(at, width if rows > 1 else 0, 1))
            at += rows * width
        return regions


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
def matmul(e: Emitter, name: str, a: View, b: View, epilogue: Epilogue, top: bool = False) -> tuple[View, View | None]:
    """``a`` [..., M, K] ``b`` [..., K, N] with the epilogue: [..., M, N], N contiguous. And, with ``top``, its largest magnitude, a scalar,
    where each block's results are made by one command: where the array has as many rows as there are lanes."""
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
    largest = product.run(top and e.config.rows == e.config.vector_lanes)
    for copy in (*sides.copies, *copies):
        e.release(copy.buffer)
    return result, largest


class Matmul:
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
        self.operands = Operands(e, epilogue.views)
        self.prepared = epilogue.prepared
        self.brain = bool(epilogue.steps) and epilogue.steps[-1].op is Op.BRAIN
        self.maxima: TileMaxima | None = None
        self.chain = instructions_of(epilogue.steps)
        self.n, self.k = left.shape[-2:]
        self.m = right.shape[-2]
        self._choose()

    def _choose(self) -> None:
        """Lanes, columns and K of a block: those that bring the fewest words."""
        c = self.e.config
        least = max(c.rows, c.bus_bytes)
        found = []
        for lanes in range(least, max(least, -(-self.n // least) * least) + 1, least):
            lanes = min(lanes, -(-self.n // c.rows) * c.rows)
            block = self._block_of(lanes)
            if block is not None:
                found.append((self._cost(lanes, block[0]), lanes, *block))
        if not found:
            raise LoralithError(f"{self.result.buffer.name}: no block of the product fits the configuration {c.name}")
        _, self.lanes, self.columns, self.k_rows = min(found)
        self.row_blocks = self.lanes // c.rows

    def _cost(self, lanes: int, columns: int) -> int:
        """Cycles of the unit that takes most, about."""
        c = self.e.config
        lanes, columns = min(lanes, self.n), min(columns, self.m)
        tiles = -(-self.n // lanes) * -(-self.m // columns)
        width = -(-lanes // c.vector_lanes)
        load = (lanes + columns) * -(-self.k // c.bus_bytes)
        array = -(-lanes // c.rows) * -(-columns // c.cols) * max(self.k, c.cols)
        vector = (len(self.chain) + len(self.prepared)) * (width * columns + INSTRUCTION * min(width, columns))
        return tiles * (max(load, array, vector) + TILE)

    def _block_of(self, lanes: int) -> tuple[int, int] | None:
        """(columns, rows of the scratchpads that K takes) of a block that fits."""
        e, c = self.e, self.e.config
        row_blocks = lanes // c.rows
        width = -(-lanes // c.vector_lanes)
        room = e.capacity(LoadTarget.V0) // width - sum(len(views) for _, views in self.prepared.values())
        columns = min(self.m, room, c.out_depth // 2 // row_blocks * c.banks // 4)
        step = max(c.cols, c.bus_bytes)
        if columns < self.m:
            columns = columns // step * step
        while columns > 0:
            blocks = -(-columns // c.cols)
            fits = blocks * -(-min(self.k, c.banks) // c.banks) <= c.right_depth // 2
            fits = fits and self.operands.words(columns, width) <= e.capacity(LoadTarget.V1)
            k_rows = min(-(-self.k // c.banks), c.right_depth // 2 // blocks, c.left_depth // 2 // row_blocks)
            split = k_rows * c.banks < self.k
            if fits and k_rows > 0 and not (split and columns * row_blocks > c.acc_depth):
                return columns, k_rows
            columns = columns // 2 // step * step if columns > step else 0
        return None

    def run(self, top: bool = False) -> View | None:
        """All blocks; with ``top`` the largest magnitude of the result."""
        batch = self.result.shape[:-2]
        every = (self.left, self.right, self.result, *self.operands.views, *self._rows())
        if top:
            blocks = math.prod(batch) * -(-self.m // self.columns) * -(-self.n // self.lanes)
            self.maxima = TileMaxima(self.e, self.result.buffer.name, blocks, self.brain)
        for left, right, to, *starts in offsets(batch, *(view.strides[:-2] for view in every)):
            for column in range(0, self.m, self.columns):
                columns = min(self.columns, self.m - column)
                for lane in range(0, self.n, self.lanes):
                    self._block(left, right, to, starts, lane, min(self.lanes, self.n - lane), column, columns)
        return None if self.maxima is None else self.maxima.result()

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
        self._prepare(starts[len(self.operands.views) :], tiles, lane, lanes, columns, width)
        if per_column == 1:
            x = Region(0, 1, out_stride * (c.banks // 4))
            top = None if self.maxima is None else self.maxima.scalar()
            partial = lanes - (width - 1) * L
            emit_chain(e, self.chain, Source.OUT32, x, tiles, Region(0, width, 1), columns, width, lanes=partial, top=top)
            if self.maxima is not None:
                self.maxima.leave()
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

    def _prepare(self, starts: Sequence[int], tiles: Sequence[Region], lane: int, lanes: int, columns: int, width: int) -> None:
        """Operands in V1 that go through steps of their own first; the rows that these read lie in V0 after the results."""
        e, at, offsets_of = self.e, columns * width, iter(starts)
        for number, (steps, views) in self.prepared.items():
            (one,) = instructions_of(steps)
            fields: dict[str, int] = {"x_source": Source.V1, "x_region": 0, "target": Target.V1, "target_region": 0, **one.fields}
            regions = [tiles[number]]
            for view in views:
                address = view.buffer.address + (view.offset + next(offsets_of) + lane) * view.size
                e.load(LoadTarget.V0, address, 1, lanes * view.size, 0, at, format=view.buffer.format)
                regions.append(Region(at, 0, 1))
                fields |= {"y_source": Source.V0, "y_region": 1}
                at += width
            fields |= {name: e.scalar(scalar.key, scalar.address) for name, scalar in one.scalars.items()}
            e.visit((instruction(**fields),), regions, columns, width, lanes - (width - 1) * e.config.vector_lanes)
