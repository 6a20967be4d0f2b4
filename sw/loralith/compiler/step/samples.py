"""Samples of long kernels: of very many equal tiles only the first ones, so that a list's cycles can be extrapolated from shorter lists.
But for the ends of kernels, cycles are an affine function of the sampled share, which two samples determine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from loralith.compiler.step.tiles import Draft, Tile

__all__ = ["DIVISORS", "LONG", "sampled"]

DIVISORS = (16, 4)
"""One tile of so many is compiled, in the shorter and in the longer list."""
LONG = 128
"""Tiles of a kernel from which on it is long."""


def sampled(tiles: Sequence[Tile], divisor: int) -> list[Tile]:
    """Of each run of at least `LONG` tiles of one kernel with the same commands one in ``divisor``, the first ones; all others as they are.
    What a tile that is left out takes of DRAM, the next one takes."""
    found: list[Tile] = []
    takes: list[tuple[int, int]] = []
    for _, group in groupby(tiles, _kernel):
        own = list(group)
        many = round(len(own) / divisor) if len(own) >= LONG else len(own)
        for number, tile in enumerate(own):
            takes += tile.takes
            if number < many:
                found.append(Tile([_fresh(draft) for draft in tile.drafts], tile.scalars, takes, tile.inside))
                takes = []
    return found


def _kernel(tile: Tile) -> tuple[object, ...]:
    first = tile.drafts[0]
    return first.note, first.work, tuple(draft.opcode for draft in tile.drafts)


def _fresh(draft: Draft) -> Draft:
    """The draft before anybody asked which tensor it writes."""
    return Draft(draft.opcode, draft.fields, draft.note, draft.work, draft.program, draft.scalar, touched=draft.touched)
