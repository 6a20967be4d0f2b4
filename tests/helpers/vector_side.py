"""A vector side with an output buffer, and what drives both."""

import dataclasses

from amaranth.hdl import Elaboratable, Module
from amaranth.lib.wiring import connect

from loralith.rtl.memories import OutputMemory
from loralith.rtl.vector.side import VectorSide
from loralith.spec.commands import Command, Opcode
from loralith.spec.config import PRESETS
from loralith.spec.vector.program import INSTRUCTION

LANES = 2
CONFIG = dataclasses.replace(PRESETS["tiny"], name="tiny-vector", vector_lanes=LANES, v0_words=16, v1_words=32)


class Side:
    """A vector side with an output buffer, and what drives both. All waits have a limit."""

    def __init__(self, ctx, dut: VectorSide, out: OutputMemory) -> None:
        self.ctx, self.dut, self.out = ctx, dut, out

    async def until(self, signal, limit: int = 3000) -> int:
        """Ticks until the signal is high in a cycle; how many cycles it took."""
        for cycle in range(limit):
            _, _, there = await self.ctx.tick().sample(signal)
            if there:
                return cycle
        raise AssertionError(f"{signal!r} stays low for {limit} cycles")

    async def program(self, *codes: dict) -> None:
        for number, code in enumerate(codes):
            bits = sum(int(value) << INSTRUCTION.fields[name].offset for name, value in code.items())
            for half in range(2):
                await self.write(self.dut.program_write, address=2 * number + half, data=bits >> 32 * half & 0xFFFFFFFF)

    async def write(self, port, **values: int) -> None:
        for name, value in {**values, "en": 1}.items():
            self.ctx.set(getattr(port, name), value)
        await self.ctx.tick()
        self.ctx.set(port.en, 0)

    async def scalar(self, address: int, word: int) -> None:
        self.ctx.set(self.dut.scalar_write.payload, {"address": address, "data": word})
        self.ctx.set(self.dut.scalar_write.valid, 1)
        await self.until(self.dut.scalar_write.ready)
        self.ctx.set(self.dut.scalar_write.valid, 0)

    async def words(self, memory: int, base: int, words: list[list[int]]) -> None:
        for address, lanes in enumerate(words, base):
            packed = sum(word << 25 * lane for lane, word in enumerate(lanes))
            self.ctx.set(self.dut.vector_load.payload, {"memory": memory, "address": address, "data": packed})
            self.ctx.set(self.dut.vector_load.valid, 1)
            await self.until(self.dut.vector_load.ready)
        self.ctx.set(self.dut.vector_load.valid, 0)

    async def stored(self, memory: int, base: int, count: int) -> list[list[int]]:
        found = []
        for address in range(base, base + count):
            self.ctx.set(self.dut.vector_store.payload, {"memory": memory, "address": address})
            self.ctx.set(self.dut.vector_store.valid, 1)
            await self.until(self.dut.vector_store.ready)
            self.ctx.set(self.dut.vector_store.valid, 0)
            for _ in range(VectorSide.store_delay - 1):
                assert not self.ctx.get(self.dut.vector_stored.valid)
                await self.ctx.tick()
            assert self.ctx.get(self.dut.vector_stored.valid)
            packed = self.ctx.get(self.dut.vector_stored.data)
            found.append([packed >> 25 * lane & 0x1FFFFFF for lane in range(LANES)])
            await self.ctx.tick()
        return found

    async def offer(self, index: int = 0, reserved: int = 0, **fields: int) -> None:
        bits = int.from_bytes(Command.make(Opcode.VECTOR, **fields).pack(), "little") | reserved
        self.ctx.set(self.dut.vector_commands.payload, {"bits": bits, "index": index})
        self.ctx.set(self.dut.vector_commands.valid, 1)

    async def run(self, index: int = 0, reserved: int = 0, **fields: int) -> tuple[int, int, int, int] | None:
        """Code, detail, command and address of the fault, or None: then it is complete and its tokens are given."""
        dut, ctx = self.dut, self.ctx
        await self.offer(index, reserved, **fields)
        ctx.set(dut.vector_wait.ready, 1)
        ctx.set(dut.vector_done.ready, 1)
        for _ in range(4000):
            _, _, taken, fault = await ctx.tick().sample(dut.vector_commands.ready, dut.vector_fault.valid)
            if fault:
                return tuple(ctx.get(getattr(dut.vector_fault, name)) for name in ("code", "detail", "command", "address"))
            if taken:
                ctx.set(dut.vector_commands.valid, 0)
                await self.until(dut.vector.complete)
                return None
        raise AssertionError("the command does not end")

    async def end_list(self) -> None:
        """What the controller does after a fault, and at the next doorbell."""
        ctx, dut = self.ctx, self.dut
        ctx.set(dut.vector.stop, 1)
        for _ in range(300):
            _, _, busy = await ctx.tick().sample(dut.vector.busy)
            if not busy:
                break
        else:
            raise AssertionError("a stopped unit stays busy")
        ctx.set(dut.vector_commands.valid, 0)
        await ctx.tick()
        ctx.set(dut.vector.clear, 1)
        await ctx.tick()
        ctx.set(dut.vector.clear, 0)
        ctx.set(dut.vector.stop, 0)
        await ctx.tick()
        assert not ctx.get(dut.vector_fault.valid)


class SideAndOutput(Elaboratable):
    def __init__(self) -> None:
        self.side, self.out = VectorSide(CONFIG), OutputMemory(CONFIG)

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.side, m.submodules.out = self.side, self.out
        connect(m, self.side.integers, self.out.integers)
        return m
