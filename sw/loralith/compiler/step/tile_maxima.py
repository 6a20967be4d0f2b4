"""The largest magnitude of a tensor, taken where it is made: each tile leaves that of its own elements, before they go to memory."""

from __future__ import annotations

from loralith.compiler.step.emitter import Emitter, Region, Work, kernel
from loralith.compiler.step.instructions import instruction
from loralith.compiler.step.views import Buffer, View
from loralith.spec.commands import LoadTarget, StoreSource, VectorFormat
from loralith.spec.vector.program import Format, Reduce, Source, Target

__all__ = ["TileMaxima"]


class TileMaxima:
    """Collects what tiles leave. A tile asks for `scalar`, gives it to its last instruction, and calls `leave`; `result` comes after all.

    ``name``: of the value. ``brain``: tiles find the largest result before its rounding to bfloat16, which keeps order, so that the
    largest one is rounded at the end.
    """

    def __init__(self, e: Emitter, name: str, tiles: int, brain: bool) -> None:
        self.e, self.name, self.brain = e, name, brain
        self.begin(tiles)

    def begin(self, tiles: int) -> None:
        """Parts of ``tiles`` tiles come."""
        self.tiles, self.done = tiles, 0
        self.step = self.e.config.bus_bytes // 4  # a STORE begins at a bus word
        self.parts: Buffer = self.e.buffer(f"{self.name}, of tiles", VectorFormat.FP32, tiles * self.step)
        self._scalar: int | None = None

    def scalar(self) -> int:
        """The scalar that the tile's last instruction leaves its maximum in."""
        self._scalar = self.e.scalar_result()
        return self._scalar

    def leave(self) -> None:
        """Commands of the tile that bring the maximum to memory."""
        e = self.e
        assert self._scalar is not None
        if self.tiles == 1 and self.brain:
            e.vector((_rounded(self._scalar),), [])
        e.store(StoreSource.SCALARS, self.parts.address + 4 * self.step * self.done, 1, 4, 0, self._scalar)
        self.done += 1

    def result(self) -> View:
        """The largest magnitude of all tiles: a scalar in device memory."""
        assert self.done == self.tiles
        while self.tiles > 1:
            _combine(self.e, self)
        return View(self.parts, (), ())


@kernel(Work.REDUCTION)
def _combine(e: Emitter, maxima: TileMaxima) -> None:
    """The largest of as many parts as V0 takes at a time become parts themselves."""
    old, count, pitch = maxima.parts, maxima.tiles, 4 * maxima.step
    most = e.capacity(LoadTarget.V0)
    maxima.begin(-(-count // most))
    for first in range(0, count, most):
        own = min(most, count - first)
        more = {"block_stride": 1} if own > 1 else {}
        e.load(LoadTarget.V0, old.address + first * pitch, own, 4, pitch, 0, format=VectorFormat.FP32, **more)
        top = instruction(x_source=Source.V0, x_region=0, reduce=Reduce.MAX_ALL, reduce_to=1, s3=maxima.scalar())
        e.vector((top,), [Region(0, 0, 1)], 1, own)
        maxima.leave()
        e.end_tile()
    e.release(old)


def _rounded(scalar: int) -> bytes:
    return instruction(x_source=Source.SCALAR, once=1, format=Format.BRAIN, target=Target.SCALAR, s0=scalar, s3=scalar)
