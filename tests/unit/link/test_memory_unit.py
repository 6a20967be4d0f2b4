# amaranth: UnusedElaboratable=no
"""The link's memory operations against a byte array, on a bus that stalls and fails, with operations that are abandoned at any time."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

import pytest

from loralith.soc.link.memory_unit import MemoryUnit
from loralith.spec.link import MAX_PAYLOAD, Operation, Status
from loralith.verif.axi_model import AxiMemory, Stalls
from loralith.verif.block_test import simulate

BYTES, SIZE, BAD = 8, 1 << 13, (0x1400, 0x1410)
"""Bytes of a bus word, of memory, and the words that answer SLVERR."""


@dataclass
class Request:
    operation: Operation
    address: int
    data: bytes
    """What is written; of a read or a hash, as many bytes."""

    @classmethod
    def random(cls, rng: random.Random) -> Request:
        operation = rng.choice([Operation.READ_MEMORY, Operation.WRITE_MEMORY, Operation.FILL_MEMORY, Operation.HASH_MEMORY])
        data = rng.randbytes(rng.choice([1, 2, 7, 8, 9, 60, 200, rng.randrange(1, MAX_PAYLOAD + 1)]))
        address = BAD[0] - rng.randrange(100) if rng.random() < 0.2 else rng.randrange(SIZE - len(data) + 1)
        if operation is Operation.FILL_MEMORY:
            pattern = data[:4].ljust(4, b"\x5a")
            data = bytes(pattern[at % 4] for at in range(address, address + len(data)))
        return cls(operation, address, data)

    @property
    def writes(self) -> bool:
        return self.operation in (Operation.WRITE_MEMORY, Operation.FILL_MEMORY)

    def failing(self) -> int | None:
        """Address of the first word that answers with an error."""
        return next((word for word in BAD if self.address // BYTES * BYTES <= word < self.address + len(self.data)), None)

    def pattern(self) -> int:
        """The word of a fill: its bytes at addresses 0 to 3 modulo 4."""
        at = {(self.address + i) % 4: byte for i, byte in enumerate(self.data[:4])}
        return sum(at.get(lane, 0) << 8 * lane for lane in range(4))


class Rig:
    """The unit, its memory and what drives it."""

    def __init__(self, rng: random.Random, stalls: Stalls, errors: tuple[int, ...] = BAD) -> None:
        self.rng, self.unit = rng, MemoryUnit(BYTES)
        self.memory = AxiMemory(self.unit.axi, BYTES, 0, SIZE, stalls=stalls, seed=rng.random(), error=lambda at: 2 * (at in errors))
        self.memory.put(0, rng.randbytes(SIZE))
        self.patience = 0.7  # chance per cycle that a byte is offered or taken

    def run(self, bench) -> None:
        simulate(self.unit, bench, background=[self.memory.read_side, self.memory.write_side])

    async def execute(self, ctx, request: Request, abandon_after: int | None = None) -> int | None:
        """Starts it; returns the cycles until it was done, or None where it has been abandoned."""
        unit, control = self.unit, self.unit.control
        for name, value in (("operation", request.operation), ("address", request.address), ("length", len(request.data))):
            ctx.set(getattr(unit, name), value)
        ctx.set(unit.operand, request.pattern())
        await ctx.tick()
        await self.ready(ctx)
        ctx.set(control.start, 1)
        await ctx.tick()
        ctx.set(control.start, 0)
        sent, cycles = 0, 1
        while not ctx.get(control.done):
            offered = request.operation is Operation.WRITE_MEMORY and sent < len(request.data) and self.rng.random() < self.patience
            ctx.set(unit.i.valid, offered)
            if offered:
                ctx.set(unit.i.payload.byte, request.data[sent])
                ctx.set(unit.i.payload.last, sent == len(request.data) - 1)
            ctx.set(control.abandon, cycles == abandon_after)
            sent += offered and ctx.get(unit.i.ready)
            await ctx.tick()
            if cycles == abandon_after:
                ctx.set(control.abandon, 0)
                ctx.set(unit.i.valid, 0)
                return None
            cycles += 1
            assert cycles < 20_000
        ctx.set(unit.i.valid, 0)
        return cycles

    async def ready(self, ctx) -> None:
        while not ctx.get(self.unit.control.ready):
            assert not ctx.get(self.unit.control.done), "after the operation has been abandoned"
            await ctx.tick()

    async def answer(self, ctx, size: int) -> bytes:
        """The bytes of a read, all of which are there."""
        out, data = self.unit.o, bytearray()
        for _ in range(40 * size):
            ready = self.rng.random() < self.patience
            ctx.set(out.ready, ready)
            if ready and ctx.get(out.valid):
                data.append(ctx.get(out.payload.byte))
                assert ctx.get(out.payload.last) == (len(data) == size)
            await ctx.tick()
            ctx.set(out.ready, 0)
            if len(data) == size:
                break
        assert not ctx.get(out.valid)
        return bytes(data)


def written(request: Request, before: bytes) -> set[bytes]:
    """Memory after each word of a write that may have been its last one, beginning with none. The word that fails is written too."""
    found, image = {before}, bytearray(before)
    for at, byte in enumerate(request.data, request.address):
        image[at] = byte
        if at % BYTES == BYTES - 1 or at == request.address + len(request.data) - 1:
            found.add(bytes(image))
            if at // BYTES * BYTES in BAD:
                break
    return found


@pytest.mark.parametrize("seed", range(4))
def test_operations_do_what_a_byte_array_does_and_abandoned_ones_leave_nothing_behind(seed: int) -> None:
    rng = random.Random(seed)
    rig = Rig(rng, Stalls.random(rng))

    async def bench(ctx) -> None:
        control, memory = rig.unit.control, rig.memory
        for _ in range(40):
            request, before = Request.random(rng), memory.get(0, SIZE)
            abandon_after = rng.choice([None, None, rng.randrange(1, 60), rng.randrange(1, 400)])
            cycles = await rig.execute(ctx, request, abandon_after)
            if cycles is None:
                await rig.ready(ctx)
                assert memory.get(0, SIZE) in (written(request, before) if request.writes else {before})
                continue
            failing = request.failing()
            assert ctx.get(control.status) == (Status.OK if failing is None else Status.SLAVE_ERROR)
            if failing is not None:
                assert ctx.get(control.value) == failing
                continue
            after = memory.get(0, SIZE)
            end = request.address + len(request.data)
            if request.writes:
                assert after == before[: request.address] + request.data + before[end:]
            else:
                assert after == before
            if request.operation is Operation.HASH_MEMORY:
                assert ctx.get(control.value) == zlib.crc32(before[request.address : end])
            if request.operation is Operation.READ_MEMORY:
                assert await rig.answer(ctx, len(request.data)) == before[request.address : end]

    rig.run(bench)


def test_a_hash_takes_a_byte_per_cycle_and_a_fill_two_cycles_for_each() -> None:
    """On a bus that answers within ten cycles: what a march over 32 MB takes depends on it."""
    rig = Rig(random.Random(9), Stalls(latency=4), errors=())

    async def bench(ctx) -> None:
        size = 4000
        for operation, cycles_per_word in ((Operation.HASH_MEMORY, BYTES), (Operation.FILL_MEMORY, 2 * BYTES + 10)):
            cycles = await rig.execute(ctx, Request(operation, 3, bytes(size)))
            assert cycles is not None
            assert cycles <= cycles_per_word * (size // BYTES + 1) + 30

    rig.run(bench)
