"""Sums over groups of channels of tensors that lie as [N, H, W, C]: a group is a part of a pixel's lanes, so each visit multiplies by a
mask, 1 for the group's lanes and 0 for the others, and adds up what is left of all pixels."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from loralith.compiler.step.chains import Scalar
from loralith.compiler.step.copies import aligned, offsets
from loralith.compiler.step.elementwise import new_tensor
from loralith.compiler.step.emitter import Emitter, Region
from loralith.compiler.step.instructions import instruction
from loralith.compiler.step.views import View, collapse
from loralith.spec.commands import LoadTarget, StoreSource, VectorFormat
from loralith.spec.vector.program import Operand, Reduce, Source, Target

__all__ = ["Groups", "groups_of", "sum_groups"]


@dataclass(frozen=True)
class Groups:
    """count: groups in a pixel's row. size: channels of each. pixels, pitch: rows and elements between them. block: groups of a tile."""

    count: int
    size: int
    pixels: int
    pitch: int
    block: int


def groups_of(e: Emitter, view: View, kept: Sequence[int], over: Sequence[int]) -> Groups | None:
    """How ``view`` falls into groups whose sums are the results, ``kept`` and ``over`` in the order in which they lie; or None."""
    sizes, (strides,) = collapse([view.shape[d] for d in over], [view.strides[d] for d in over])
    if len(sizes) != 2 or not kept:
        return None
    (pixels, size), (pitch, one) = sizes, strides
    count = view.shape[kept[-1]]
    if one != 1 or view.strides[kept[-1]] != size or pitch < count * size:
        return None
    if not aligned(view, [pitch, *(view.strides[d] for d in kept[:-1])], e.config.bus_bytes):
        return None
    # Tiles begin at bus words, of what they read and of their results.
    step = max(1, e.config.bus_bytes // view.size)
    unit = math.lcm(step // math.gcd(size, step), max(1, e.config.bus_bytes // 4))
    lanes = e.config.vector_lanes

    def fits(block: int) -> bool:
        masks = lanes // size if lanes % size == 0 else block * (-(-size // lanes) + 1)
        return pixels * -(-min(block, count) * size // lanes) <= e.config.v0_words and block + masks <= e.capacity(LoadTarget.V1)

    block = -(-count // unit) * unit
    while not fits(block):
        if block <= unit:
            return None
        block = -(-block // 2 // unit) * unit
    return Groups(count, size, pixels, pitch, block)


def sum_groups(e: Emitter, name: str, source: View, kept: Sequence[int], groups: Groups, bound: Scalar) -> View:
    """The sums of ``groups`` with a bound; they lie in the order of ``kept``."""
    shape = [n if d in kept else 1 for d, n in enumerate(source.shape)]
    rest = [d for d in range(len(shape)) if d not in kept]
    result = new_tensor(e, name, VectorFormat.FP32, shape, [*rest, *kept], len(shape) - 1)
    own = [[view.strides[d] for d in kept[:-1]] for view in (source, result)]
    for from_, to in offsets([source.shape[d] for d in kept[:-1]], *own):
        for first in range(0, groups.count, groups.block):
            count = min(groups.block, groups.count - first)
            _tile(e, source, from_ + first * groups.size, count, groups, bound)
            address = result.buffer.address + (result.offset + to + first) * 4
            e.store(StoreSource.V1, address, 1, count * 4, 0, 0, broadcast=1)
            e.end_tile()
    return result


def _tile(e: Emitter, source: View, start: int, count: int, groups: Groups, bound: Scalar) -> None:
    """The sums of ``count`` groups from element ``start`` on to words of V1."""
    lanes, size, pixels = e.config.vector_lanes, groups.size, groups.pixels
    width = -(-count * size // lanes)
    address = source.buffer.address + (source.offset + start) * source.size
    more = {"block_stride": width} if pixels > 1 else {}
    row_bytes = count * size * source.size
    e.load(LoadTarget.V0, address, pixels, row_bytes, groups.pitch * source.size, 0, format=source.buffer.format, **more)
    masks = count
    scale = e.scalar(bound.key, bound.address)
    fields = {"x_source": Source.V0, "y_source": Source.V1, "y_region": 1, "a": Operand.Y, "reduce": Reduce.SUM_ALL, "s2": scale}
    last = instruction(b=Operand.L0, once=1, target=Target.V1, target_region=2)
    if lanes % size == 0:  # as many groups in each word, at the same lanes: an outer iteration each
        inside = lanes // size
        _masks(e, masks, [range(g * size, (g + 1) * size) for g in range(inside)], 1)
        for word in range(width):
            own = min(inside, count - word * inside)
            regions = [Region(word, 0, width), Region(masks, 1, 0), Region(word * inside, 1, 0)]
            e.vector((instruction(**fields), last), regions, own, pixels)
        return
    # A group's words, an outer iteration each, with one sum over all of them.
    spans = [(g * size // lanes, -(-(g + 1) * size // lanes)) for g in range(count)]
    ranges = [range(g * size - a * lanes, (g + 1) * size - a * lanes) for g, (a, _) in enumerate(spans)]
    most = max(b - a for a, b in spans)
    _masks(e, masks, ranges, most)
    for g, (a, b) in enumerate(spans):
        regions = [Region(a, 1, width), Region(masks + g * most, 1, 0), Region(g)]
        e.vector((instruction(over_outer=1, **fields), last), regions, b - a, pixels)


def _masks(e: Emitter, base: int, ranges: Sequence[range], words: int) -> None:
    """For each range of lanes ``words`` words with 1 in it and 0 elsewhere, from word ``base`` of V1 on."""
    lanes = e.config.vector_lanes
    data = struct.pack(f"<{len(ranges) * words * lanes}f", *(float(lane in own) for own in ranges for lane in range(words * lanes)))
    e.load(LoadTarget.V1, e.constant(data, "masks of groups"), 1, len(data), 0, base)
