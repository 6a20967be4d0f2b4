"""What is behind the AXI4 port under cocotbext-axi: an image with latency and faults."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiSlave

__all__ = ["ImageTarget", "stalls"]


class ImageTarget:
    """Memory of one image. An access outside the window raises and is recorded: the slave answers SLVERR.

    Attributes:
        outside: (address, bytes) of every access outside the window.
        fail: addresses on which reads and writes fail, as a predicate of (address, is_write).
    """

    def __init__(self, clock, base: int, image: np.ndarray) -> None:
        self.clock, self.base = clock, base
        self.image = image.copy()
        self.latency: tuple[int, int] = (0, 0)
        self.random = random.Random(1)
        self.outside: list[tuple[int, int]] = []
        self.fail = lambda address, is_write: False

    async def read(self, address: int, length: int) -> bytes:
        start = await self._access(address, length, False)
        return self.image[start : start + length].tobytes()

    async def write(self, address: int, data: bytes) -> None:
        start = await self._access(address, len(data), True)
        self.image[start : start + len(data)] = np.frombuffer(bytes(data), np.uint8)

    async def _access(self, address: int, length: int, is_write: bool) -> int:
        cycles = self.random.randint(*self.latency)
        if cycles and not is_write:
            await ClockCycles(self.clock, cycles)
        start = address - self.base
        if start < 0 or start + length > self.image.size:
            self.outside.append((address, length))
            raise ValueError(f"access outside the window at {address:#x}")
        if self.fail(address, is_write):
            raise ValueError(f"injected fault at {address:#x}")
        return start


def stalls(seed: int, probability: float, longest: int = 8) -> Iterator[bool]:
    """A deterministic stall pattern for a channel: true in cycles in which it stands still."""
    rng = random.Random(seed)
    while True:
        if rng.random() < probability:
            yield from [True] * rng.randint(1, longest)
        yield False


def stall_all(slave: AxiSlave, seed: int, probability: float) -> None:
    """Stall all five channels of a slave, each with its own pattern."""
    write, read = slave.write_if, slave.read_if
    channels = (read.ar_channel, read.r_channel, write.aw_channel, write.w_channel, write.b_channel)
    for i, channel in enumerate(channels):
        channel.set_pause_generator(stalls(seed * len(channels) + i, probability))
