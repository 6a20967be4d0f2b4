"""Addresses in device memory: first fit, with neighbouring free stretches joined."""

from __future__ import annotations

from loralith.compiler.storage.free_list import FreeList
from loralith.device.device_errors import DeviceError, OutOfMemory

__all__ = ["Heap"]


class Heap:
    """Hands out stretches of `nbytes` bytes from `base` on. Stretches never overlap; the content is not touched.

    Attributes: ``scratch``: the most bytes that one `Device.arena` took; whoever measures sets it to 0 first. ``count``: how often `take`
    has given an address.
    """

    def __init__(self, base: int, nbytes: int) -> None:
        self._free = FreeList(base, nbytes)
        self._used: dict[int, tuple[int, int]] = {}
        self._numbers: dict[int, int] = {}
        self.count = 0
        self.scratch = 0

    @property
    def used(self) -> int:
        """Bytes that are taken, alignment included."""
        return sum(end - start for start, end in self._used.values())

    @property
    def taken(self) -> frozenset[int]:
        """Addresses that `take` gave and `give` has not had back."""
        return frozenset(self._used)

    def since(self, count: int) -> list[int]:
        """Addresses that were taken since `count` was ``count`` and are taken still."""
        return [address for address, number in self._numbers.items() if number >= count]

    def size(self, address: int) -> int:
        """Bytes that were taken at ``address``."""
        start, end = self._used[address]
        return end - start

    @property
    def past(self) -> int:
        """The first address past everything that is taken; 0 where nothing is."""
        return max((end for _, end in self._used.values()), default=0)

    def take(self, nbytes: int, align: int) -> int:
        """The first address, a multiple of `align`, of `nbytes` free bytes. Raises OutOfMemory."""
        for i, (start, end) in enumerate(self._free.ranges):
            address = -(-start // align) * align
            if address + nbytes <= end:
                self._free.cut(i, address, nbytes)
                self._used[address] = (address, address + nbytes)
                self._numbers[address], self.count = self.count, self.count + 1
                return address
        largest, used = self._free.largest, self.used
        raise OutOfMemory(f"no {nbytes} bytes of device memory are free in one stretch; the largest is {largest} bytes ({used} are in use)")

    def give(self, address: int) -> None:
        """Free what `take` returned. Raises DeviceError for any other address."""
        if address not in self._used:
            raise DeviceError(f"{address:#x} is not the start of an allocation")
        start, end = self._used.pop(address)
        del self._numbers[address]
        self._free.add(start, end)
