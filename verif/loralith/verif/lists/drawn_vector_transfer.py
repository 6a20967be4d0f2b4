"""Draws LOADs and STOREs of the vector unit's memories; programs come from `drawn_vector`."""

from __future__ import annotations

from loralith.spec.commands import FORMAT_BYTES, LoadTarget, Opcode, StoreSource, VectorFormat
from loralith.spec.vector.program import SCALARS
from loralith.verif.lists.case import Layout
from loralith.verif.lists.draw import Draw
from loralith.verif.lists.drawn_places import Fields, fields_of, load_regions
from loralith.verif.lists.drawn_transfer import place_rows
from loralith.verif.lists.oracle_footprint import overlaps_itself

__all__ = ["draw_vector_load", "draw_vector_store"]

LAYOUT = Layout()


def _numbers(draw: Draw, c: Fields) -> Fields | None:
    """The LOAD with an address: mostly among the numbers that are meant for it."""
    if draw.chance(0.75):
        return place_rows(draw, c, c["row_bytes"], LAYOUT.numbers, LAYOUT.programs)
    return place_rows(draw, c, c["row_bytes"], LAYOUT.data, LAYOUT.dump)


def draw_vector_load(draw: Draw, target: LoadTarget | None = None) -> Fields | None:
    """Of V0, V1, scalars or the key."""
    c = fields_of(Opcode.LOAD, rows=1, right_base=draw.bits(16), right_stride=draw.bits(16))
    if target is None:
        target = LoadTarget(draw.rng.choice([LoadTarget.V0] * 4 + [LoadTarget.V1] * 4 + [LoadTarget.SCALARS] * 3 + [LoadTarget.KEY]))
    c["target"] = int(target)
    if target == LoadTarget.KEY:
        return place_rows(draw, c | {"row_bytes": 8}, 8, LAYOUT.data, LAYOUT.dump)
    if target == LoadTarget.SCALARS:
        count = draw.upto(SCALARS if draw.chance(0.5) else 4)
        base = draw.upto(SCALARS - count, 0) if draw.chance(0.7) else 0
        return _numbers(draw, c | {"base": base, "row_bytes": 4 * count})
    words = _words(draw, c, "v0" if target == LoadTarget.V0 else "v1")
    if words is None or overlaps_itself(load_regions(words, draw.config)):
        return None
    return _numbers(draw, words)


def draw_vector_store(draw: Draw) -> Fields | None:
    """Of V0, V1 or scalars."""
    c = fields_of(Opcode.STORE, rows=1)
    source = int(draw.rng.choice([StoreSource.V0] * 3 + [StoreSource.V1] * 3 + [StoreSource.SCALARS]))
    c["source"] = source
    if source == StoreSource.SCALARS:
        count = draw.upto(SCALARS)
        c |= {"base": draw.upto(SCALARS - count, 0), "row_bytes": 4 * count}
        return place_rows(draw, c, c["row_bytes"], LAYOUT.data, LAYOUT.dump)
    words = _words(draw, c, "v0" if source == StoreSource.V0 else "v1")
    return None if words is None else place_rows(draw, words, words["row_bytes"], LAYOUT.data, LAYOUT.dump)


def _words(draw: Draw, c: Fields, memory: str) -> Fields | None:
    """The command with rows, format and a region of a vector scratchpad."""
    L = draw.config.vector_lanes
    form = int(draw.rng.choice(list(VectorFormat)))
    c |= {"format": form, "broadcast": int(draw.chance(0.3)), "rows": draw.upto(draw.upto(6))}
    words = draw.upto(draw.upto(12) if draw.chance(0.9) else 60)
    count = words if c["broadcast"] else (words - 1) * L + draw.upto(L)
    place = draw.region(memory, c["rows"], words)
    if place is None:
        return None
    return c | {"row_bytes": count * FORMAT_BYTES[VectorFormat(form)], "base": place[0], "block_stride": place[1]}
