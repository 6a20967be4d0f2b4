"""What meets a product's sums on their way to memory: a chain of steps, and its operands in V1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from loralith.compiler.step.chains import Prepared, Step
from loralith.compiler.step.copies import _plan, aligned, load_elements
from loralith.compiler.step.emitter import NOWHERE, Emitter, Region
from loralith.compiler.step.views import View
from loralith.spec.commands import LoadTarget, VectorFormat

__all__ = ["Epilogue", "Operands"]


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
    """The epilogue's operands in V1 for a tile of ``columns`` columns and the lanes of one word; ``elsewhere``: numbers of those that are
    not there."""

    def __init__(self, e: Emitter, views: Sequence[View], elsewhere: Sequence[int] = ()) -> None:
        self.e, self.views, self.elsewhere = e, views, elsewhere

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
        for number, view in enumerate(self.views):
            if number in self.elsewhere:
                continue
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
        for number, (view, start) in enumerate(zip(self.views, starts, strict=True)):
            if number in self.elsewhere:
                regions.append(NOWHERE)
                continue
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
