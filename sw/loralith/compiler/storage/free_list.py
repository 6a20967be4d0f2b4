"""The free ranges of an address space."""

from __future__ import annotations

from bisect import bisect_left

__all__ = ["FreeList"]


class FreeList:
    """Free ranges [start, end) in ascending order; adjacent ones are merged."""

    def __init__(self, base: int, nbytes: int) -> None:
        self.ranges: list[tuple[int, int]] = [(base, base + nbytes)]

    @property
    def largest(self) -> int:
        """Bytes of the largest range."""
        return max((end - start for start, end in self.ranges), default=0)

    def cut(self, index: int, start: int, nbytes: int) -> None:
        """Allocates ``nbytes`` bytes from ``start`` on, which lie in range number ``index``."""
        first, last = self.ranges[index]
        parts = ((first, start), (start + nbytes, last))
        self.ranges[index : index + 1] = [part for part in parts if part[0] < part[1]]

    def add(self, start: int, end: int) -> None:
        """Frees a range, and merges it with those that it touches."""
        i = bisect_left(self.ranges, (start, end))
        if i < len(self.ranges) and self.ranges[i][0] == end:
            end = self.ranges.pop(i)[1]
        if i and self.ranges[i - 1][1] == start:
            start = self.ranges.pop(i - 1)[0]
            i -= 1
        self.ranges.insert(i, (start, end))
