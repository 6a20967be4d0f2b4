"""What a command touches, by rows of each memory, and which event of it must follow which event of an earlier one.

A set of rows is an int with a bit for each. DRAM counts in bus words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from loralith.spec.commands import Opcode
from loralith.spec.config import Config
from loralith.verif.lists.drawn_places import Fields, Region, ceil_div, compute_regions, load_regions, store_regions
from loralith.verif.lists.oracle_checks import dram_row_bytes
from loralith.verif.lists.vector_footprint import Codes, vector_touches

__all__ = ["Event", "Footprint", "footprint", "overlaps_itself"]


class Event(IntEnum):
    """Moments of a command. ``SEGMENT`` and ``READ`` are those of a COMPUTE; where there is no second segment, SEGMENT is START."""

    START = 0
    SEGMENT = 1
    READ = 2
    DONE = 3


@dataclass
class Footprint:
    """Attributes:
    reads: (memory, rows, first, last): read at ``first`` at the earliest, at ``last`` at the latest.
    writes: (memory, rows, first): written from ``first`` on until DONE.
    """

    unit: Opcode
    reads: list[tuple[str, int, Event, Event]] = field(default_factory=list)
    writes: list[tuple[str, int, Event]] = field(default_factory=list)


def _rows(region: Region) -> int:
    bits = 0
    for block in range(region.blocks):
        bits |= ((1 << region.rows) - 1) << (region.base + block * region.stride)
    return bits


def _words(c: Fields, base: int, word: int) -> int:
    bits, size = 0, dram_row_bytes(c)
    for row in range(c["rows"]):
        start = c["address"] - base + row * c["row_stride"]
        first = start // word
        bits |= ((1 << (ceil_div(start + size, word) - first)) - 1) << first
    return bits


def overlaps_itself(regions: list[Region]) -> bool:
    """Whether regions, or lane blocks of one of them, share rows of one memory."""
    taken: dict[str, int] = {}
    for region in regions:
        for block in range(region.blocks):
            rows = ((1 << region.rows) - 1) << (region.base + block * region.stride)
            if taken.get(region.memory, 0) & rows:
                return True
            taken[region.memory] = taken.get(region.memory, 0) | rows
    return False


def footprint(c: Fields, config: Config, base: int, codes: Codes | None = None) -> Footprint:
    """Of a legal command; ``base`` is DRAM's first address; ``codes``, the instructions of a VECTOR."""
    unit = Opcode(c["opcode"])
    it = Footprint(unit)
    if unit is Opcode.LOAD:
        it.reads.append(("dram", _words(c, base, config.bus_bytes), Event.START, Event.DONE))
        it.writes += [(r.memory, _rows(r), Event.START) for r in load_regions(c, config)]
    elif unit is Opcode.STORE:
        it.reads += [(r.memory, _rows(r), Event.START, Event.DONE) for r in store_regions(c, config)]
        it.writes.append(("dram", _words(c, base, config.bus_bytes), Event.START))
    elif unit is Opcode.VECTOR:
        read, written = vector_touches(c, codes or [None] * c["count"], config)
        it.reads += [(memory, rows, Event.START, Event.DONE) for memory, rows in read.items()]
        it.writes += [(memory, rows, Event.START) for memory, rows in written.items()]
    else:
        # Results leave after the last step of a tile's last segment, and scales and sums of earlier commands are met by results.
        late = Event.SEGMENT if c["chained"] else Event.START
        reads, writes = compute_regions(c, config)
        for r in reads:
            if r.memory in ("left", "right"):
                it.reads.append((r.memory, _rows(r), late if r.role.endswith("2") else Event.START, Event.READ))
            elif r.memory != "stat":
                it.reads.append((r.memory, _rows(r), late, Event.DONE))
        # Slots are read and written by COMPUTEs alone, but for STATS: what their queue orders is left out.
        it.writes += [(r.memory, _rows(r), late) for r in writes]
    return it
