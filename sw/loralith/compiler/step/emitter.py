"""Writes a step's commands, tile by tile: constants, scalars, and how much of each memory on chip a tile may take."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

from loralith.compiler.step.instructions import Program
from loralith.compiler.step.memory import Memory
from loralith.compiler.step.tiles import Draft, Tile, Work
from loralith.compiler.step.views import Buffer
from loralith.errors import LoralithError
from loralith.spec.commands import FORMAT_BYTES, LoadTarget, Opcode, StoreSource, VectorFormat
from loralith.spec.config import Config
from loralith.spec.vector.program import SCALARS

__all__ = ["NOWHERE", "Emitter", "Region", "Work", "kernel"]

P = ParamSpec("P")
R = TypeVar("R")


def kernel(work: Work) -> Callable[[Callable[Concatenate[Emitter, P], R]], Callable[Concatenate[Emitter, P], R]]:
    """Of a function that writes commands: they are part of ``work``."""

    def decorate(function: Callable[Concatenate[Emitter, P], R]) -> Callable[Concatenate[Emitter, P], R]:
        @wraps(function)
        def inside(e: Emitter, *args: P.args, **kwargs: P.kwargs) -> R:
            outside = e.work
            if outside is not Work.OPTIMIZER:
                e.work = work
            try:
                return function(e, *args, **kwargs)
            finally:
                e.work = outside

        return inside

    return decorate


class Region(NamedTuple):
    """Words on chip: the first one, and from one outer and inner iteration to the next."""

    base: int
    outer: int = 0
    inner: int = 0


NOWHERE = Region(0)


class Emitter:
    """Tiles of commands, without order, tokens and places on chip.

    Attributes: ``config``; ``memory``, of the device; ``static``, bytes by address that the host writes once; ``tiles``, those that are
    complete; ``note`` and ``work``, what the commands that follow belong to.
    """

    def __init__(self, config: Config, memory: Memory, keep: bool = False) -> None:
        if not config.vector_lanes:
            raise LoralithError(f"a step on the device needs vector lanes; the configuration {config.name} has none")
        self.config, self.memory, self.keep = config, memory, keep
        self.tiles: list[Tile] = []
        self.work = Work.COPY
        self.static: dict[int, bytes] = {}
        self.note = ""
        self._tile = Tile()
        self._pool: dict[bytes, int] = {}
        self._scalars: dict[object, int] = {}

    # Device memory.

    def buffer(
        self, name: str, format: VectorFormat, elements: int, run: int | None = None, pitch: int | None = None, fresh: bool = False
    ) -> Buffer:
        """A new buffer with an address; one that nobody uses any more is given back by `release`. ``fresh``: for what the host writes."""
        buffer = Buffer(name, format, elements, run or elements, pitch or elements)
        buffer.address = self.memory.take(buffer.nbytes, name, fresh)
        self._tile.takes.append((buffer.address, buffer.nbytes))
        return buffer

    def release(self, buffer: Buffer) -> None:
        if not self.keep:
            self.memory.retire(buffer.address)

    def constant(self, data: bytes, name: str) -> int:
        """The address of bytes that do not change, which the host writes once."""
        if data not in self._pool:
            self._pool[data] = self.memory.take(len(data), name, fresh=True)
            self.static[self._pool[data]] = data
        return self._pool[data]

    def number(self, value: float) -> int:
        """The address of a constant word."""
        return self.constant(struct.pack("<f", value), f"the constant {value}")

    # Scratchpads.

    def end_tile(self) -> None:
        """The end of a tile."""
        if self._tile.drafts:
            self.tiles.append(self._tile)
            self._tile = Tile()
        self._scalars = {}

    def capacity(self, memory: LoadTarget) -> int:
        """Words of V0 or V1 that a tile takes at most, but for a reduction that needs all of V0: half, so that two run at a time."""
        return (self.config.v0_words if memory is LoadTarget.V0 else self.config.v1_words) // 2

    # Commands.

    def emit(self, opcode: Opcode, **fields: int) -> None:
        self._add(opcode, fields)

    def _add(self, opcode: Opcode, fields: Mapping[str, int], program: Program | None = None, scalar: bool = False) -> None:
        given = {name: int(value) for name, value in fields.items() if value}
        self._tile.drafts.append(Draft(opcode, given, self.note, self.work, program, scalar))

    def load(self, target: LoadTarget, address: int, rows: int, row_bytes: int, row_stride: int, base: int, **more: int) -> None:
        if target in (LoadTarget.V0, LoadTarget.V1):
            rows, row_bytes, more = self._joined(rows, row_bytes, row_stride, more)
        stride = row_stride if rows > 1 else 0
        self.emit(Opcode.LOAD, target=target, address=address, rows=rows, row_bytes=row_bytes, row_stride=stride, base=base, **more)

    def store(self, source: StoreSource, address: int, rows: int, row_bytes: int, row_stride: int, base: int, **more: int) -> None:
        if source in (StoreSource.V0, StoreSource.V1):
            rows, row_bytes, more = self._joined(rows, row_bytes, row_stride, more)
        stride = row_stride if rows > 1 else 0
        self.emit(Opcode.STORE, source=source, address=address, rows=rows, row_bytes=row_bytes, row_stride=stride, base=base, **more)

    def _joined(self, rows: int, row_bytes: int, row_stride: int, more: dict[str, int]) -> tuple[int, int, dict[str, int]]:
        """Rows without gaps, neither in DRAM nor in words, as one: (rows, bytes of each, other fields)."""
        elements = row_bytes // FORMAT_BYTES[VectorFormat(more.get("format", 0))]
        words = elements if more.get("broadcast") else elements // self.config.vector_lanes
        whole = more.get("broadcast") or elements % self.config.vector_lanes == 0
        if rows > 1 and row_stride == row_bytes and whole and more.get("block_stride") == words:
            rows, row_bytes = 1, rows * row_bytes
        if rows == 1:
            more = {name: value for name, value in more.items() if name != "block_stride"}
        return rows, row_bytes, more

    def scalar(self, key: object, address: int) -> int:
        """The tile's index of a scalar that is loaded from ``address`` if it is not there yet; ``key`` tells values apart."""
        if key not in self._scalars:
            self._scalars[key] = self.scalar_result()
            fields = {"target": LoadTarget.SCALARS, "rows": 1, "row_bytes": 4, "address": address, "base": self._scalars[key]}
            self._add(Opcode.LOAD, fields, scalar=True)
        return self._scalars[key]

    def scalar_result(self) -> int:
        """The tile's index of a scalar that a program writes."""
        if self._tile.scalars == SCALARS:
            raise LoralithError(f"a tile takes more than {SCALARS} scalars")
        self._tile.scalars += 1
        return self._tile.scalars - 1

    def load_key(self, address: int) -> None:
        """The step's key, before all else."""
        self.load(LoadTarget.KEY, address, 1, 8, 0, 0)
        self.end_tile()

    def vector(
        self,
        program: Program,
        regions: Sequence[Region],
        outer: int = 1,
        inner: int = 1,
        lanes: int = 0,
        partial_inner: int = 0,
        key: tuple[int, int] = (0, 0),
        index: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        """``lanes`` 0: all lanes of each word are in the tensor. ``index``: base, outer, inner of the hash."""
        fields = {
            "count": len(program),
            "lanes": lanes or self.config.vector_lanes,
            "partial_inner": partial_inner,
            "outer": outer,
            "inner": inner,
            "key0": key[0],
            "key1": key[1],
        }
        for name, value in zip(("index_base", "index_outer", "index_inner"), index, strict=True):
            fields[name] = value & 0xFFFFFFFF
        for i, region in enumerate(regions):
            for name, value in zip(("base", "outer", "inner"), region, strict=True):
                fields[f"region{i}_{name}"] = value & 0xFFFF
        self._add(Opcode.VECTOR, fields, program)

    def visit(
        self,
        program: Program,
        regions: Sequence[Region],
        outer: int,
        inner: int,
        lanes: int = 0,
        key: tuple[int, int] = (0, 0),
        index: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        """A VECTOR of ``outer`` rows of ``inner`` words that do not depend on each other; ``lanes``: of a row's last word, 0 for all.

        An outer iteration costs cycles for each instruction, some 60 where one waits for another. So there are as few as there can be: one
        where all words lie evenly, else the shorter of the two loops. With the loops exchanged, all words of the last outer iteration are
        rows' last ones.
        """
        base, by_outer, by_inner = index
        whole = lanes in (0, self.config.vector_lanes)
        even = all(r.outer == inner * r.inner for r in regions) and by_outer == inner * by_inner
        if whole and even and outer > 1 and inner > 1:
            self.vector(program, [Region(r.base, 0, r.inner) for r in regions], 1, outer * inner, key=key, index=(base, 0, by_inner))
        elif outer > inner:
            exchanged = [Region(r.base, r.inner, r.outer) for r in regions]
            self.vector(program, exchanged, inner, outer, lanes, key=key, index=(base, by_inner, by_outer))
        else:
            self.vector(program, regions, outer, inner, lanes, 1, key, index)
