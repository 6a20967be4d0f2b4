"""Tiles that wait to be admitted, the most urgent first. Of tiles that need alike only the first one is tried: where it finds no room,
neither would the others."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from heapq import heappop, heappush

__all__ = ["WaitingTiles"]


class WaitingTiles:
    """``needs``: what a tile takes on chip."""

    def __init__(self, needs: Callable[[int], Hashable]) -> None:
        self._needs = needs
        self._own: dict[Hashable, list[tuple[int, int]]] = {}  # by what they need: (urgency, less than 0; tile)
        self._heads: list[tuple[int, int]] = []  # the first ones, and some that were

    def push(self, urgency: int, tile: int) -> None:
        own = self._own.setdefault(self._needs(tile), [])
        heappush(own, (-urgency, tile))
        if own[0][1] == tile:
            heappush(self._heads, own[0])

    def first(self, waits: Callable[[int], bool], place: Callable[[int], bool], most: int) -> int | None:
        """The most urgent tile that ``place`` has found room for; None if there is none among ``most`` that need different things. A tile
        that does not wait any more (``waits``) is forgotten."""
        passed: list[tuple[int, int]] = []
        found = None
        while self._heads and len(passed) < most and found is None:
            head = heappop(self._heads)
            own = self._own[self._needs(head[1])]
            if not own or own[0] != head or head in passed:
                continue
            if waits(head[1]):
                if not place(head[1]):
                    passed.append(head)
                    continue
                found = head[1]
            heappop(own)
            if own:
                heappush(self._heads, own[0])
        for head in passed:
            heappush(self._heads, head)
        return found

    def any(self) -> int:
        """One of the tiles."""
        return next(own[0][1] for own in self._own.values() if own)
