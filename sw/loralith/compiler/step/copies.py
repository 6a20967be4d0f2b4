"""Copies of views on the device: rows through V0 where both sides have them, else element by element.

Element by element, a word of a vector scratchpad holds one element in all lanes: a LOAD with `broadcast` makes such words, a VECTOR moves
them in any order, a STORE with `broadcast` writes them in a row. It takes L times the cycles of rows, and any strides.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from loralith.compiler.step.byte_copies import copy_bytes
from loralith.compiler.step.emitter import Emitter, Region, Work, kernel
from loralith.compiler.step.instructions import Program, instruction
from loralith.compiler.step.views import Buffer, View, collapse, offsets
from loralith.errors import LoralithError
from loralith.spec.commands import LoadTarget, StoreSource, VectorFormat
from loralith.spec.vector.program import Format, Source, Target

__all__ = ["aligned", "copy", "load_elements", "offsets", "rows_of"]


OUTER = 62
"""Cycles of an outer iteration beside its words."""
MOST_ACROSS = 4
"""Elements of a source's row that a box of a copy across rows takes: each is an outer iteration of its VECTOR, which costs 60 cycles, but a
LOAD brings those before it in its bus word again."""


def aligned(view: View, strides: Sequence[int], bus: int) -> bool:
    """Whether the view's first element and all ``strides`` are at multiples of the bus's bytes."""
    return (view.buffer.address + view.offset * view.size) % bus == 0 and all(s * view.size % bus == 0 for s in strides)


@kernel(Work.COPY)
def copy(e: Emitter, src: View, dst: View) -> None:
    """``dst`` = ``src``, of the same shape and format, or of words in two formats where none is rounded.

    Raises LoralithError where ``dst`` cannot be written by rows that begin at bus words.
    """
    order = sorted(range(len(dst.shape)), key=lambda d: (-dst.strides[d], d))
    sizes, (ss, ds) = collapse([dst.shape[d] for d in order], [src.strides[d] for d in order], [dst.strides[d] for d in order])
    if not sizes or ds[-1] != 1:  # rows of one element
        sizes, ss, ds = [*sizes, 1], [*ss, 1], [*ds, 1]
    bus = e.config.bus_bytes
    if ss[-1] == 1 == ds[-1] and aligned(src, ss[:-1], bus) and aligned(dst, ds[:-1], bus):
        _by_rows(e, src, dst, sizes, ss, ds)
    elif not copy_bytes(e, src, dst):
        _Elements(e, src, dst, sizes, ss, ds).run()


def integers(e: Emitter) -> Program:
    """V0 to V0 as INT8, by the scale 1."""
    one = e.scalar(1.0, e.number(1.0))
    return (instruction(x_source=Source.V0, x_region=0, target=Target.V0, target_region=0, format=Format.INT8, s2=one),)


def _by_rows(e: Emitter, src: View, dst: View, sizes: list[int], ss: list[int], ds: list[int]) -> None:
    lanes, capacity = e.config.vector_lanes, e.capacity(LoadTarget.V0)
    if len(sizes) == 1:
        sizes, ss, ds = [1, *sizes], [0, *ss], [0, *ds]
    place = max(range(len(sizes) - 1), key=sizes.__getitem__)  # the most rows in a tile
    order = [*(d for d in range(len(sizes) - 1) if d != place), place, len(sizes) - 1]
    sizes, ss, ds = ([own[d] for d in order] for own in (sizes, ss, ds))
    *outside, rows, run = sizes
    chunk = min(run, capacity * lanes)
    words = -(-chunk // lanes)
    most = max(1, capacity // words)
    for from_, to in offsets(outside, ss[:-2], ds[:-2]):
        for first in range(0, rows, most):
            count = min(most, rows - first)
            for start in range(0, run, chunk):
                size = min(chunk, run - start)
                width = -(-size // lanes)
                source = src.buffer.address + (src.offset + from_ + first * ss[-2] + start) * src.size
                e.load(LoadTarget.V0, source, count, size * src.size, ss[-2] * src.size, 0, block_stride=width, format=src.buffer.format)
                if dst.buffer.format is VectorFormat.INT8:
                    e.vector(integers(e), [Region(0, 0, 1)], 1, count * width)
                target = dst.buffer.address + (dst.offset + to + first * ds[-2] + start) * dst.size
                e.store(StoreSource.V0, target, count, size * dst.size, ds[-2] * dst.size, 0, block_stride=width, format=dst.buffer.format)
                e.end_tile()


@dataclass(frozen=True)
class _Box:
    """How a LOAD with broadcast brings a box of two dimensions: rows, elements in each, elements between rows, those before the first one,
    and the words from one outer and inner index to the next."""

    rows: int
    run: int
    stride: int
    before: int
    outer: int
    inner: int

    @property
    def words(self) -> int:
        return self.rows * self.run


def _gap(buffer: Buffer, first: int, run: int) -> bool:
    """Whether a run of elements holds some that nobody has written."""
    return buffer.run != buffer.pitch and first % buffer.pitch + run > buffer.run


def _plan(buffer: Buffer, first: int, outer: tuple[int, int], inner: tuple[int, int], bus: int) -> _Box:
    """The box from element ``first`` on with (size, stride) of each dimension, in the fewest words."""
    step = max(1, bus // buffer.size)
    before = first % step
    (n, s), (m, t) = ((size, stride if size > 1 else 0) for size, stride in (outer, inner))
    found = []
    span = before + (n - 1) * s + (m - 1) * t + 1
    if not _gap(buffer, first - before, span):
        found.append(_Box(1, span, 0, before, s, t))
    run = before + (m - 1) * t + 1
    if n > 1 and s and s % step == 0:
        found.append(_Box(n, run, s, before, run, t))
    run = before + (n - 1) * s + 1
    if m > 1 and t and t % step == 0:
        found.append(_Box(m, run, t, before, s, run))
    if not found:
        found.append(_Box(1, span, 0, before, s, t))
    return min(found, key=lambda box: box.words)


def load_elements(
    e: Emitter, target: LoadTarget, view: View, offset: int, outer: tuple[int, int], inner: tuple[int, int], base: int, capacity: int
) -> tuple[Region, int] | None:
    """Loads a box of elements, one a word: its region and how many words it takes, or None where they are more than ``capacity``."""
    buffer, first = view.buffer, view.offset + offset
    box = _plan(buffer, first, outer, inner, e.config.bus_bytes)
    if box.words > capacity:
        return None
    address = buffer.address + (first - box.before) * buffer.size
    e.load(
        target,
        address,
        box.rows,
        box.run * buffer.size,
        box.stride * buffer.size,
        base,
        block_stride=box.run if box.rows > 1 else 0,
        format=buffer.format,
        broadcast=1,
    )
    return Region(base + box.before, box.outer, box.inner), box.words


class _Elements:
    """A copy element by element, in tiles that a STORE can write."""

    def __init__(self, e: Emitter, src: View, dst: View, sizes: list[int], ss: list[int], ds: list[int]) -> None:
        self.e, self.src, self.dst = e, src, dst
        self.sizes, self.ss, self.ds = sizes, ss, ds
        if dst.buffer.format is VectorFormat.INT8:
            one = e.scalar(1.0, e.number(1.0))
            format: dict[str, int] = {"format": Format.INT8, "s2": one}
        else:
            format = {}
        self.fields = format
        self.source_step = max(1, e.config.bus_bytes // src.size)
        self.capacity = e.capacity(LoadTarget.V0 if self._placed() else LoadTarget.V1)

    def program(self) -> Program:
        fields = dict(self.fields)
        if fields:
            fields["s2"] = self.e.scalar(1.0, self.e.number(1.0))
        return (instruction(x_source=Source.V0, x_region=0, target=Target.V1, target_region=1, **fields),)

    def run(self) -> None:
        bus, size = self.e.config.bus_bytes, self.dst.size
        step = max(1, bus // size)
        level, count = self._level(step)
        sizes, ss, ds = self.sizes, self.ss, self.ds
        inner = math.prod(sizes[level + 1 :])
        if level < 0:  # rows that begin at bus words each
            if ss[-1] == 1 and sizes[-1] > 1 and (len(ss) < 2 or ss[-2] % self.source_step == 0):
                self._shifted()
            else:
                self._rows(step)
            return
        for from_, to in offsets(sizes[:level], ss[:level], ds[:level]):
            for first in range(0, sizes[level], count):
                own = min(count, sizes[level] - first)
                box, strides = [own, *sizes[level + 1 :]], ss[level:]
                start, target = from_ + first * ss[level], self.dst.offset + to + first * ds[level]
                if self._placed():
                    self._place(start, box, strides)
                    self._store(target, 1, own * inner, 0, StoreSource.V0)
                else:
                    self._gather_box(start, box, strides)
                    self._store(target, 1, own * inner, 0)
                self.e.end_tile()

    def _placed(self) -> bool:
        """Whether the source has rows at bus words, which LOADs can put where the tile needs them."""
        return self.ss[-1] == 1 and self.sizes[-1] > 1 and aligned(self.src, self.ss[:-1], self.e.config.bus_bytes)

    def _place(self, start: int, box: Sequence[int], strides: Sequence[int]) -> None:
        """A tile's rows to V0, one element a word, each where it belongs."""
        e, size = self.e, self.src.size
        *counts, run = [1, *box]
        own = [math.prod(box[d:]) for d in range(len(box))]  # words from index to index
        rows = max(range(len(counts)), key=counts.__getitem__)
        others = [d for d in range(len(counts)) if d != rows]
        from_, to = [0, *strides[:-1]], [0, *own[1:]]
        for a, b in offsets([counts[d] for d in others], [from_[d] for d in others], [to[d] for d in others]):
            address = self.src.buffer.address + (self.src.offset + start + a) * size
            more = {"block_stride": to[rows]} if counts[rows] > 1 else {}
            stride = from_[rows] * size
            e.load(LoadTarget.V0, address, counts[rows], run * size, stride, b, format=self.src.buffer.format, broadcast=1, **more)
        self._as_integers(math.prod(box))

    def _as_integers(self, words: int) -> None:
        """Words of V0 become what an INT8 STORE takes, if it is one."""
        if self.fields:
            self.e.vector(integers(self.e), [Region(0, 0, 1)], 1, words)

    def _shifted(self) -> None:
        """Rows that begin at bus words in the result alone: a LOAD brings what lies before them in their bus words too, a STORE leaves it
        out."""
        e, size = self.e, self.src.size
        sizes, ss, ds = self.sizes, self.ss, self.ds
        if len(sizes) == 1:
            sizes, ss, ds = [1, *sizes], [0, *ss], [0, *ds]
        *outside, rows, run = sizes
        step = max(self.source_step, e.config.bus_bytes // self.dst.size)
        capacity = e.capacity(LoadTarget.V0)
        chunk = run if run + step <= capacity else capacity // step * step - step
        most = max(1, capacity // (chunk + self.source_step - 1))
        for from_, to in offsets(outside, ss[:-2], ds[:-2]):
            for first in range(0, rows, most):
                count = min(most, rows - first)
                for start in range(0, run, chunk):
                    own = min(chunk, run - start)
                    element = self.src.offset + from_ + first * ss[-2] + start
                    before = element % self.source_step
                    width = before + own
                    more = {"block_stride": width} if count > 1 else {}
                    address = self.src.buffer.address + (element - before) * size
                    format = self.src.buffer.format
                    e.load(LoadTarget.V0, address, count, width * size, ss[-2] * size, 0, format=format, broadcast=1, **more)
                    self._as_integers(count * width)
                    target = self.dst.buffer.address + (self.dst.offset + to + first * ds[-2] + start) * self.dst.size
                    format, row = self.dst.buffer.format, own * self.dst.size
                    e.store(StoreSource.V0, target, count, row, ds[-2] * self.dst.size, before, format=format, broadcast=1, **more)
                    e.end_tile()

    def _gather_box(self, start: int, box: Sequence[int], strides: Sequence[int]) -> None:
        """A tile to V1: two dimensions by one VECTOR, which are those that take the fewest cycles."""
        box, strides = [1, 1, *box], [0, 0, *strides]
        own = [math.prod(box[d + 1 :]) for d in range(len(box))]

        def cycles(pair: tuple[int, int]) -> int:
            n, m = (box[d] for d in pair)
            return math.prod(box) // (n * m) * (OUTER * (min(n, m) + 1) + n * m)

        a, b = min(itertools.combinations(range(len(box)), 2), key=cycles)
        others = [d for d in range(len(box)) if d not in (a, b)]
        for from_, to in offsets([box[d] for d in others], [strides[d] for d in others], [own[d] for d in others]):
            self._gather(start + from_, (box[a], strides[a]), (box[b], strides[b]), Region(to, own[a], own[b]))

    def _level(self, step: int) -> tuple[int, int]:
        """(dimension, indices) of the largest tile: whole dimensions after it; (-1, 0) for rows."""
        sizes, ds = self.sizes, self.ds
        if ds[-1] == 1 and self.dst.offset % step == 0 and all(s % step == 0 for s in ds[:-1]):
            return -1, 0
        inner, found = 1, None
        for level in range(len(sizes) - 1, -1, -1):
            if ds[level] != inner or inner > self.capacity:
                break
            least = step // math.gcd(inner, step)
            if self.dst.offset % step == 0 and all(s % step == 0 for s in ds[:level]):
                if sizes[level] * inner <= self.capacity:
                    found = level, sizes[level]
                elif least * inner <= self.capacity:
                    found = level, self.capacity // inner // least * least
            inner *= sizes[level]
        if found is not None:
            return found
        raise LoralithError(
            f"{self.dst.buffer.name}: a copy to {list(self.sizes)} with strides {list(ds)} from element {self.dst.offset} has no rows "
            f"that begin at multiples of {self.e.config.bus_bytes} bytes"
        )

    def _rows(self, step: int) -> None:
        sizes, ss, ds = self.sizes, self.ss, self.ds
        if len(sizes) == 1:
            sizes, ss, ds = [1, *sizes], [0, *ss], [0, *ds]
        *outside, rows, run = sizes
        chunk = run if run <= self.capacity else self.capacity // step * step
        most = max(1, self.capacity // chunk)
        if rows > most and ss[-2] == 1 != ss[-1]:
            # What is a row here lies across the source's rows: a box of both, so that what a bus word brings is all taken.
            most = min(rows, max(1, self.e.config.bus_bytes // self.src.size), MOST_ACROSS)
            chunk = min(run, max(self.capacity // most // step * step, step))
            narrow = min(run, step)
            if max(most, chunk) < min(rows, self.capacity // narrow):  # more rows, of a bus word each
                most, chunk = min(rows, self.capacity // narrow), narrow
        for from_, to in offsets(outside, ss[:-2], ds[:-2]):
            for first in range(0, rows, most):
                count = min(most, rows - first)
                for start in range(0, run, chunk):
                    size = min(chunk, run - start)
                    at = Region(0, size, 1)
                    self._gather(from_ + first * ss[-2] + start * ss[-1], (count, ss[-2]), (size, ss[-1]), at)
                    self._store(self.dst.offset + to + first * ds[-2] + start, count, size, ds[-2])
                    self.e.end_tile()

    def _store(self, element: int, rows: int, run: int, stride: int, source: StoreSource = StoreSource.V1) -> None:
        address = self.dst.buffer.address + element * self.dst.size
        size = self.dst.size
        more = {"block_stride": run} if rows > 1 else {}
        self.e.store(source, address, rows, run * size, stride * size, 0, format=self.dst.buffer.format, broadcast=1, **more)

    def _gather(self, offset: int, outer: tuple[int, int], inner: tuple[int, int], to: Region) -> None:
        """Brings a box of the source to words of V1, in parts that V0 holds."""
        e = self.e
        loaded = load_elements(e, LoadTarget.V0, self.src, offset, outer, inner, 0, e.capacity(LoadTarget.V0))
        if loaded is not None:
            e.visit(self.program(), [loaded[0], to], outer[0], inner[0])
            return
        (n, s), (m, t) = outer, inner
        if n == 1 and m == 1:
            raise LoralithError(f"{self.src.buffer.name}: an element does not fit into V0")
        if (n * s >= m * t and n > 1) or m == 1:
            half = n // 2
            self._gather(offset, (half, s), inner, to)
            self._gather(offset + half * s, (n - half, s), inner, Region(to.base + half * to.outer, to.outer, to.inner))
        else:
            half = m // 2
            self._gather(offset, outer, (half, t), to)
            self._gather(offset + half * t, outer, (m - half, t), Region(to.base + half * to.inner, to.outer, to.inner))


def rows_of(view: View, dims: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """(sizes, strides) of the dimensions that are not ``dims``, then of those that are, both collapsed."""
    kept = [d for d in range(len(view.shape)) if d not in dims]
    outer, (so,) = collapse([view.shape[d] for d in kept], [view.strides[d] for d in kept])
    inner, (si,) = collapse([view.shape[d] for d in dims], [view.strides[d] for d in dims])
    return outer, so, inner, si
