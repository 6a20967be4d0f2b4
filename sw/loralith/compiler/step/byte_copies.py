"""Copies of INT8 tensors by the array: rows of bytes times a matrix of zeros and ones, which puts each byte where it belongs in a row.

Where rows of both sides begin at bus words, and only the bytes inside of them lie otherwise (heads of attention, whose width is no
multiple of a bus word), an element that goes through the vector unit alone takes a cycle of each unit; the array takes sixteen at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from loralith.compiler.step.emitter import Emitter
from loralith.compiler.step.views import View, offsets
from loralith.spec.commands import LoadTarget, Opcode, OutMode, StoreSource, VectorFormat

__all__ = ["copy_bytes"]

ONE = {"scale_m": 1 << 15, "scale_n": 15}
"""The scale 1."""
MOST = 256
"""Bytes of a row, of what is read and of what is written."""


class _Dim(NamedTuple):
    size: int
    source: int
    target: int


class _Side(NamedTuple):
    """One side of a row: ``pieces``, offsets in memory, of ``run`` bytes each, and where each begins in the row that the array sees."""

    pieces: list[int]
    run: int
    pitch: int

    @property
    def width(self) -> int:
        return len(self.pieces) * self.pitch


def copy_bytes(e: Emitter, src: View, dst: View) -> bool:
    """``dst`` = ``src``, INT8 of the same shape; False, and nothing written, where the array cannot or gains nothing."""
    bus, c = e.config.bus_bytes, e.config
    if src.buffer.format is not VectorFormat.INT8 or dst.buffer.format is not VectorFormat.INT8:
        return False
    if (src.buffer.address + src.offset) % bus or (dst.buffer.address + dst.offset) % bus:
        return False
    dims = [_Dim(n, s, d) for n, s, d in zip(src.shape, src.strides, dst.strides, strict=True) if n > 1]
    found = _rows(dims, bus)
    if found is None:
        return False
    rows, inside, outside = found
    source = _side([(dim.size, dim.source) for dim in inside], rows.source, bus, dense=False)
    target = _side([(dim.size, dim.target) for dim in inside], rows.target, bus, dense=True)
    if source is None or target is None or max(source.width, target.width) > MOST:
        return False
    blocks = min(c.left_depth // 2 * bus // source.width, c.out_depth // 2 * bus // target.width)
    steps = max(source.width, c.cols) * -(-target.width // c.cols)
    if not blocks or steps * -(-rows.size // c.rows) > rows.size * math.prod(dim.size for dim in inside):
        return False
    matrix = _matrix(e, inside, source, target)
    most = blocks * c.rows
    for from_, to in offsets([dim.size for dim in outside], [dim.source for dim in outside], [dim.target for dim in outside]):
        for first in range(0, rows.size, most):
            count = min(most, rows.size - first)
            start = src.buffer.address + src.offset + from_ + first * rows.source
            past = dst.buffer.address + dst.offset + to + first * rows.target
            _tile(e, rows, count, start, past, source, target, matrix)
    return True


def _rows(dims: Sequence[_Dim], bus: int) -> tuple[_Dim, list[_Dim], list[_Dim]] | None:
    """The dimension whose indices are rows, those inside of a row, and those outside; a row may be several indices of a dimension."""
    best: tuple[int, _Dim, list[_Dim], list[_Dim]] | None = None
    for i, dim in enumerate(dims):
        if not dim.source or not dim.target:
            continue
        together = math.lcm(*(bus // math.gcd(stride, bus) for stride in (dim.source, dim.target)))
        if dim.size % together:
            continue
        rows = _Dim(dim.size // together, dim.source * together, dim.target * together)
        rest = [*dims[:i], *([_Dim(together, dim.source, dim.target)] if together > 1 else []), *dims[i + 1 :]]
        outside = [d for d in rest if d.source % bus == 0 and d.target % bus == 0]
        inside = [d for d in rest if d not in outside]
        if rows.size > 1 and inside and all(d.source and d.target for d in inside) and (best is None or rows.size > best[0]):
            best = rows.size, rows, inside, outside
    return None if best is None else best[1:]


def _side(dims: Sequence[tuple[int, int]], row: int, bus: int, dense: bool) -> _Side | None:
    """A row's bytes as pieces that begin at bus words; ``dense``: each of them without gaps."""
    apart = [(n, s) for n, s in dims if s % bus == 0]
    inner = sorted(((n, s) for n, s in dims if s % bus), key=lambda dim: dim[1])
    run = 1 + sum((n - 1) * s for n, s in inner)
    if dense and run != math.prod(n for n, _ in inner):
        return None
    if any(s < run for _, s in apart) or (not apart and run > row):
        return None
    return _Side([o for (o,) in offsets([n for n, _ in apart], [s for _, s in apart])], run, -(-run // bus) * bus)


def _place(side: _Side, offset: int) -> int:
    """Where the byte ``offset`` bytes into a row lies in what the array sees."""
    number = max(i for i, piece in enumerate(side.pieces) if piece <= offset < piece + side.run)
    return number * side.pitch + offset - side.pieces[number]


def _matrix(e: Emitter, inside: Sequence[_Dim], source: _Side, target: _Side) -> int:
    """The address of the matrix."""
    matrix = np.zeros((source.width, target.width), np.int8)
    for a, b in offsets([d.size for d in inside], [d.source for d in inside], [d.target for d in inside]):
        matrix[_place(source, a), _place(target, b)] = 1
    return e.constant(matrix.tobytes(), "a matrix that moves bytes")


def _tile(e: Emitter, rows: _Dim, count: int, start: int, past: int, source: _Side, target: _Side, matrix: int) -> None:
    """``count`` rows."""
    bus = e.config.bus_bytes
    stride, out = source.width // bus, target.width // bus
    e.load(LoadTarget.RIGHT, matrix, source.width, target.width, target.width, 0, block_stride=stride)
    for i, piece in enumerate(source.pieces):
        at = i * source.pitch // bus
        e.load(LoadTarget.LEFT, start + piece, count, source.run, rows.source, at, block_stride=stride, transpose=1)
    strides = {"left0_stride": stride, "right0_stride": stride, "out_stride": out}
    e.emit(Opcode.COMPUTE, m_rows=count, n_cols=target.width, k0=source.width, out_mode=OutMode.INT8, to_out=1, **strides, **ONE)
    for i, piece in enumerate(target.pieces):
        at = i * target.pitch // bus
        e.store(StoreSource.OUT, past + piece, count, target.run, rows.target, at, block_stride=out)
    e.end_tile()
