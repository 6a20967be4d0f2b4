"""Convolutions without columns in memory: the operand lies as [N, H, W, C] with a border of zeros, and for each place of the kernel a
transposed LOAD brings the shifted pixels.

Pixels are the array's columns. Rows of an image that fill whole blocks of columns are loaded one by one. Others come with the border
between them, so that one LOAD brings all rows of an image; what the border's columns give is left out by the VECTOR that reads the sums,
or by the STORE. The array's rows are the result's channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from loralith.compiler.step.chains import emit_chain, instructions_of
from loralith.compiler.step.elementwise import materialize, new_tensor
from loralith.compiler.step.emitter import Emitter, Region, Work, kernel
from loralith.compiler.step.operands import Epilogue, Operands
from loralith.compiler.step.padded_images import PaddedImage, PaddedImages
from loralith.compiler.step.product_blocks import lane_counts
from loralith.compiler.step.tile_maxima import TileMaxima
from loralith.compiler.step.views import Buffer, View, expand
from loralith.errors import LoralithError
from loralith.spec.commands import LoadTarget, Opcode, OutMode, StoreSource
from loralith.spec.graph import Op
from loralith.spec.vector.program import Source

__all__ = ["convolution"]

NHWC = (0, 2, 3, 1)
PLAIN = (Op.ADD, Op.SUBTRACT, Op.MULTIPLY, Op.BRAIN)
"""Steps that have a result for every sum."""
TILE = 300
"""Cycles that a tile costs beside its words, about: checks, latencies and set-ups that others only partly hide."""
LOAD = 50
"""Cycles from a LOAD to the next one at least, with what the list takes of the bus."""


@kernel(Work.CONVOLUTION)
def convolution(
    e: Emitter,
    padded: PaddedImages,
    name: str,
    planes: Sequence[View],
    kernel: Buffer,
    kernel_shape: Sequence[int],
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    epilogue: Epilogue,
    backward: bool = False,
    top: bool = False,
) -> tuple[View, View | None]:
    """[N, O, H, W] as [N, H, W, O] in memory; ``backward``: dX in ``shape`` of dY.

    And, with ``top``, its largest magnitude, a scalar, where one command makes all results of a block.

    ``planes``: the operand, or 2^8 planes[0] + planes[1] + ... of the noisy batch. ``kernel``: W in `kernel_layout`.
    """
    _, _, h, w = planes[0].shape
    _, _, kh, kw = kernel_shape
    _, _, out_h, out_w = shape
    if backward:
        before = (kh - 1 - padding[0], kw - 1 - padding[1])
        if min(before) < 0:
            raise LoralithError(f"{name}: a padding of {list(padding)} beyond a kernel of {kh} x {kw}")
        operand = padded.fill(planes, (out_h + kh - 1, out_w + kw - 1), before, (stride[0], stride[1]))
        step = (1, 1)
    else:
        sizes = (max((out_h - 1) * stride[0] + kh, h + padding[0]), max((out_w - 1) * stride[1] + kw, w + padding[1]))
        operand = padded.fill(planes, sizes, (padding[0], padding[1]), (1, 1))
        step = (stride[0], stride[1])
    if step[0] != step[1]:
        raise LoralithError(f"{name}: strides {list(stride)} differ")
    result = new_tensor(e, name, epilogue.format, shape, NHWC, 3)
    views, copies = [], []
    for view in epilogue.views:
        view = expand(view, shape)
        if not Operands.fits(e, view, 0, 1):
            view = materialize(e, view, NHWC, padded=True)
            copies.append(view)
        views.append(view)
    largest = _Convolution(e, operand, step[0], kernel, kernel_shape, views, epilogue, result, backward).run(top)
    for made in copies:
        e.release(made.buffer)
    return result, largest


class _Convolution:
    def __init__(
        self,
        e: Emitter,
        operand: PaddedImage,
        step: int,
        kernel: Buffer,
        kernel_shape: Sequence[int],
        views: Sequence[View],
        epilogue: Epilogue,
        result: View,
        backward: bool,
    ) -> None:
        self.e, self.operand, self.step, self.kernel = e, operand, step, kernel
        self.result, self.backward = result, backward
        self.chain = instructions_of(epilogue.steps)
        _, self.n, self.height, self.width = result.shape
        self.places = kernel_shape[2] * kernel_shape[3]
        self.kernel_width = kernel_shape[3]
        # as [N, H, W, O], so that an image's row is [W, O]
        self.views = [View(v.buffer, tuple(v.shape[d] for d in NHWC), self._strides(v), v.offset) for v in views]
        self.operands = Operands(e, self.views)
        c = e.config
        self.chunk_rows = operand.pitch // c.banks  # rows of a scratchpad that one place of the kernel takes
        self.segments = [(place, 0) for place in range(self.places)]
        self.planes = len(operand.buffers)
        self.plain = all(step.op in PLAIN for step in epilogue.steps)
        self.brain = bool(epilogue.steps) and epilogue.steps[-1].op is Op.BRAIN
        self.maxima: TileMaxima | None = None
        # Rows of an image that fill whole blocks of columns are loaded one by one, without the border between them.
        self.apart = self.width % c.cols == 0
        self.pitch = self.width if self.apart else operand.sizes[2]
        self._choose()

    @staticmethod
    def _strides(view: View) -> tuple[int, ...]:
        return tuple(0 if view.shape[d] == 1 else view.strides[d] for d in NHWC)

    def _columns(self, rows: int) -> int:
        """Of the array, for so many rows of an image."""
        return (rows - 1) * self.pitch + self.width

    def _choose(self) -> None:
        """Lanes, rows of an image and K of a block: those that take the fewest cycles."""
        c = self.e.config
        found = []
        for lanes in lane_counts(self.n, c):
            rows = self.height
            while not (k_rows := self._k_rows(lanes, rows)) and rows > 1:
                rows = -(-rows // 2)
            if k_rows:
                found.append((self._cost(lanes, rows), lanes, rows, k_rows))
        if not found:
            raise LoralithError(
                f"{self.result.buffer.name}: a row of {self.width} pixels and {self.operand.channels} channels does not fit the "
                f"configuration {c.name}"
            )
        _, self.lanes, self.rows, self.k_rows = min(found)
        self.row_blocks = self.lanes // c.rows
        self.flat = self._is_flat(self.lanes)

    def _cost(self, lanes: int, rows: int) -> int:
        """Cycles of the unit that takes most, about."""
        c = self.e.config
        tiles = -(-self.n // lanes) * -(-self.height // rows)
        own, columns, passes = min(lanes, self.n), self._columns(rows), self.places * self.planes
        pixel = -(-self.operand.pitch // c.bus_bytes)
        runs = (own, *[self.width] * rows) if self.apart else (own, columns)
        load = passes * sum(max(LOAD, n * pixel) for n in runs)
        array = -(-own // c.rows) * -(-columns // c.cols) * passes * self.chunk_rows * c.banks
        return tiles * (max(load, array) + TILE)

    def _is_flat(self, lanes: int) -> bool:
        """Whether the sums of the border's columns go through the epilogue too: they are sums like others, but no operand is theirs."""
        whole = lanes == self.n and self.n % self.e.config.vector_lanes == 0
        return whole and self.plain and all(view.strides[1] == view.strides[2] == 0 for view in self.views)

    def _k_rows(self, lanes: int, rows: int) -> int:
        """Rows of the scratchpads that a block of K takes; 0 where a block of ``lanes`` and ``rows`` of an image does not fit."""
        e, c = self.e, self.e.config
        row_blocks, words, columns = lanes // c.rows, -(-lanes // c.vector_lanes), self._columns(rows)
        total = self.places * self.chunk_rows * self.planes
        blocks = -(-columns // c.cols)
        pixels = columns if self._is_flat(lanes) else rows * self.width
        if columns > c.out_depth // 2 // row_blocks * c.banks // 4 or pixels * words > e.capacity(LoadTarget.V0):
            return 0
        if self.operands.words(rows * self.width, words) > e.capacity(LoadTarget.V1):
            return 0
        if self.planes > 1:  # a chained product takes all of K at once
            return total if total * blocks <= c.right_depth and total * row_blocks <= c.left_depth else 0
        k_rows = min(total, c.right_depth // 2 // blocks, c.left_depth // 2 // row_blocks)
        return 0 if k_rows < total and columns * row_blocks > c.acc_depth else k_rows

    def run(self, top: bool) -> View | None:
        c = self.e.config
        if top and self.flat and self.pitch == self.width and c.rows == c.vector_lanes:
            blocks = self.result.shape[0] * -(-self.height // self.rows) * -(-self.n // self.lanes)
            self.maxima = TileMaxima(self.e, self.result.buffer.name, blocks, self.brain)
        for image in range(self.result.shape[0]):
            for row in range(0, self.height, self.rows):
                rows = min(self.rows, self.height - row)
                for lane in range(0, self.n, self.lanes):
                    self._block(image, row, rows, lane, min(self.lanes, self.n - lane))
        return None if self.maxima is None else self.maxima.result()

    def _parts(self) -> list[list[tuple[int, int, int]]]:
        """Blocks of K: each a list of (place of the kernel, first byte of its channels, bytes)."""
        bank = self.e.config.banks
        rows = [(place, at * bank) for place in range(self.places) for at in range(self.chunk_rows)]
        parts = []
        for first in range(0, len(rows), self.k_rows):
            block: list[tuple[int, int, int]] = []
            for place, start in rows[first : first + self.k_rows]:
                if block and block[-1][0] == place:
                    block[-1] = (place, block[-1][1], block[-1][2] + bank)
                else:
                    block.append((place, start, bank))
            parts.append(block)
        return parts

    def _block(self, image: int, row: int, rows: int, lane: int, lanes: int) -> None:
        e, c = self.e, self.e.config
        columns = self._columns(rows)
        out_stride = -(-4 * columns // c.banks)
        result = {"out_mode": OutMode.INT32, "to_out": 1, "out_stride": out_stride}
        if self.planes > 1:
            self._planes(image, row, columns, lane, lanes, result)
        else:
            parts = self._parts()
            for number, part in enumerate(parts):
                size = sum(width for _, _, width in part)
                stride = size // c.banks
                side = number & 1
                left, right = side * (c.left_depth // 2), side * (c.right_depth // 2)
                self._load(part, 0, image, row, columns, lane, lanes, left, right, stride)
                last = number == len(parts) - 1
                fields = {"acc_read": number > 0, "acc_write": not last, "acc_stride": columns}
                self._compute(lanes, columns, size, left, right, stride, **fields, **(result if last else {}))
        self._results(image, row, rows, lane, lanes, out_stride)
        e.end_tile()

    def _compute(self, lanes: int, columns: int, size: int, left: int, right: int, stride: int, **more: int) -> None:
        self.e.emit(
            Opcode.COMPUTE,
            m_rows=lanes,
            n_cols=columns,
            k0=size,
            left0_base=left,
            left0_stride=stride,
            right0_base=right,
            right0_stride=stride,
            **more,
        )

    def _planes(self, image: int, row: int, columns: int, lane: int, lanes: int, result: dict[str, int]) -> None:
        """2^8 times the first plane, then the others."""
        bank = self.e.config.banks
        part = [(place, 0, self.operand.pitch) for place in range(self.places)]
        size = self.operand.pitch * self.places
        first, rest = size // bank, size * (self.planes - 1) // bank
        blocks = -(-columns // self.e.config.cols)
        self._load(part, 0, image, row, columns, lane, lanes, 0, 0, first)
        left, right = first * self.row_blocks, first * blocks
        for plane in range(1, self.planes):
            at = (plane - 1) * first
            self._load(part, plane, image, row, columns, lane, lanes, left + at, right + at, rest)
        chained = {
            "chained": 1,
            "shift": 8,
            "k1": size * (self.planes - 1),
            "left1_base": left,
            "left1_stride": rest,
            "right1_base": right,
            "right1_stride": rest,
        }
        self._compute(lanes, columns, size, 0, 0, first, **chained, **result)

    def _load(
        self,
        part: Sequence[tuple[int, int, int]],
        plane: int,
        image: int,
        row: int,
        columns: int,
        lane: int,
        lanes: int,
        left: int,
        right: int,
        stride: int,
    ) -> None:
        e, operand = self.e, self.operand
        _, H, W = operand.sizes
        at = 0
        for place, start, width in part:
            y, x = divmod(place, self.kernel_width)
            own = self.places - 1 - place if self.backward else place
            count = self.width if self.apart else columns
            for number in range(0, columns, count):  # of the first column of a row
                pixel = (image * H + (row + number // self.pitch) * self.step + y) * W + x
                address = operand.buffers[plane].address + pixel * operand.pitch + start
                base = right + at + number // e.config.cols * stride
                e.load(LoadTarget.RIGHT, address, count, width, self.step * operand.pitch, base, block_stride=stride, transpose=1)
            self._weights(own, start, width, lane, lanes, left + at, stride)
            at += width // e.config.banks

    def _weights(self, place: int, start: int, width: int, lane: int, lanes: int, base: int, stride: int) -> None:
        """W of one place of the kernel, ``width`` of the operand's channels from ``start`` on."""
        e, pitch = self.e, self.kernel.pitch
        if not self.backward:
            address = self.kernel.address + (lane * self.places + place) * pitch + start
            e.load(LoadTarget.LEFT, address, lanes, width, self.places * pitch, base, block_stride=stride, transpose=1)
            return
        # rows of memory are steps here, channels of dX the lanes; steps past the last channel of dY are zeros
        count = min(width, self.operand.channels - start)
        address = self.kernel.address + (start * self.places + place) * pitch + lane
        more = {"pad_rows": width - count}
        e.load(LoadTarget.LEFT, address, count, lanes, self.places * pitch, base, block_stride=stride, **more)

    def _results(self, image: int, row: int, rows: int, lane: int, lanes: int, out_stride: int) -> None:
        e = self.e
        words = -(-lanes // e.config.vector_lanes)
        tiles: list[list[Region]] = []
        at = 0
        for y in range(rows):
            own = [image * v.strides[0] + (row + y) * v.strides[1] for v in self.views]
            tiles.append(self._row_operands(own, lane, lanes, at, y, tiles))
            at = self._at
        if self.flat:
            self._drain_flat(tiles[0], rows, words, out_stride)
        for word in range(0 if self.flat else words):
            self._drain(tiles, word, words, word, lanes, out_stride)
        size, strides = self.result.size, self.result.strides
        address = self.result.buffer.address + (self.result.offset + image * strides[0] + row * strides[2] + lane) * size
        format = self.result.buffer.format
        if self.flat:
            run, pitch = self.width * lanes * size, self.pitch * words
            e.store(StoreSource.V0, address, rows, run, strides[2] * size, 0, block_stride=pitch, format=format)
        else:
            pixels = rows * self.width
            e.store(StoreSource.V0, address, pixels, lanes * size, strides[3] * size, 0, block_stride=words, format=format)

    def _drain_flat(self, tiles: Sequence[Region], rows: int, words: int, out_stride: int) -> None:
        """All sums, those of the border's columns too where there are some, so that there is one inner loop for each word of lanes."""
        c, columns = self.e.config, self._columns(rows)
        per_column = c.rows // c.vector_lanes
        many = words if per_column == 1 else 1
        for word in range(0, words, many):
            block, group = divmod(word, per_column)
            x = Region(block * out_stride * (c.banks // 4) * per_column + group, out_stride * (c.banks // 4), per_column)
            regions = [Region(t.base + word * t.inner, t.inner, 0) for t in tiles]
            top = None if self.maxima is None else self.maxima.scalar()
            emit_chain(self.e, self.chain, Source.OUT32, x, regions, Region(word, 1, words), many, columns, top=top)
            if self.maxima is not None:
                self.maxima.leave()

    def _drain(self, tiles: Sequence[Sequence[Region]], work: int, words: int, word: int, lanes: int, out_stride: int) -> None:
        """Lanes of number ``word`` of all pixels: in one command where all of its lanes are in the tensor, else one for each image row."""
        e, c = self.e, self.e.config
        per_column, pitch = c.rows // c.vector_lanes, self.pitch
        block, group = divmod(word, per_column)
        first = block * out_stride * (c.banks // 4) * per_column + group
        own = min(c.vector_lanes, lanes - word * c.vector_lanes)
        step = [b.base - a.base for a, b in zip(tiles[0], tiles[min(1, len(tiles) - 1)], strict=True)]
        even = all(t.base == tiles[0][i].base + y * step[i] for y, row in enumerate(tiles) for i, t in enumerate(row))
        many = len(tiles) if even and own == c.vector_lanes else 1
        for y in range(0, len(tiles), many):
            x = Region(first + y * pitch * per_column, pitch * per_column, per_column)
            regions = [Region(t.base + word * t.inner, s, t.outer) for t, s in zip(tiles[y], step, strict=True)]
            to = Region(work + y * self.width * words, self.width * words, words)
            if many == 1:  # a pixel is a row of one word, of which not all lanes may be in the tensor
                x, to, *regions = (Region(r.base, r.inner, 0) for r in (x, to, *regions))
                emit_chain(e, self.chain, Source.OUT32, x, regions, to, self.width, 1, lanes=own)
            else:
                emit_chain(e, self.chain, Source.OUT32, x, regions, to, many, self.width)

    _at = 0

    def _row_operands(
        self, starts: Sequence[int], lane: int, lanes: int, at: int, y: int, before: Sequence[Sequence[Region]]
    ) -> list[Region]:
        """Regions of one image row's operands; one that is the same for every row is loaded once."""
        e = self.e
        regions = []
        for i, (view, start) in enumerate(zip(self.views, starts, strict=True)):
            if y and view.strides[1] == 0:
                regions.append(before[0][i])
                continue
            operands = Operands(e, [view])
            regions += operands.load([start], self.width, lane, lanes, at)
            at += operands.words(self.width, -(-lanes // e.config.vector_lanes))
        self._at = at
        return regions
