"""Addresses in device memory for a compiled step: first fit, known while the list is written."""

from __future__ import annotations

from collections import deque

from loralith.compiler.storage.free_list import FreeList
from loralith.errors import LoralithError

__all__ = ["ALIGN", "Memory", "MemoryTooSmall"]

ALIGN = 64
"""Every tensor begins at a multiple of this, which is one of every bus's bytes."""


LATER = 16
"""Buffers that nobody reads any more keep their memory until so many others are free too."""


class MemoryTooSmall(LoralithError):
    """A step does not fit into the device memory that it may take; the message has the numbers."""


class Memory:
    """Hands out stretches of ``nbytes`` bytes from ``base`` on. ``peak``: bytes up to the highest address that was ever taken."""

    def __init__(self, base: int, nbytes: int) -> None:
        self.base, self.nbytes = base, nbytes
        self._free = FreeList(base, nbytes)
        self._used: dict[int, int] = {}
        self._retired: deque[int] = deque()
        self.peak = 0

    def take(self, nbytes: int, name: str, fresh: bool = False) -> int:
        """The first address of ``nbytes`` free bytes; ``fresh``: which nothing had before, for what the host writes ahead of the list.
        Raises MemoryTooSmall, naming ``name``."""
        nbytes = -(-max(nbytes, 1) // ALIGN) * ALIGN
        for i, (start, end) in enumerate(self._free.ranges):
            first = max(start, self.base + self.peak) if fresh else start
            if end - first >= nbytes:
                self._free.cut(i, first, nbytes)
                self._used[first] = nbytes
                self.peak = max(self.peak, first + nbytes - self.base)
                return first
        if self._retired:
            while self._retired:
                self.give(self._retired.popleft())
            return self.take(nbytes, name, fresh)
        used = sum(self._used.values())
        raise MemoryTooSmall(
            f"the step does not fit into {self.nbytes} bytes of device memory: {name} takes {nbytes}, {used} are in use there and the "
            f"largest free stretch has {self._free.largest}; take a smaller batch or a device with more memory"
        )

    def retire(self, address: int) -> None:
        """Free what `take` returned a little later, so that who takes it next need not wait for its last readers; at once where there is no
        other room."""
        self._retired.append(address)
        if len(self._retired) > LATER:
            self.give(self._retired.popleft())

    def give(self, address: int) -> None:
        """Free what `take` returned."""
        self._free.add(address, address + self._used.pop(address))
