"""What the vector unit's tests share: words for corner cases, operands streamed through a component, a driver of the whole unit."""

import random
from collections.abc import Callable

import pytest
from amaranth.hdl import Value

from loralith.rtl.vector.command import VectorCommand
from loralith.rtl.vector.unit import VectorUnit
from loralith.spec.vector import numbers
from loralith.spec.vector.program import INSTRUCTION, INSTRUCTION_BYTES, SCALARS, Source, Target
from loralith.verif.block_test import design, simulate

ONE = numbers.ONE
LARGEST = 254 << numbers.FRACTION_BITS | (1 << numbers.FRACTION_BITS) - 1


def bits_of(word: int) -> int:
    """A word as the hardware's tests compare it: what lies beside the exponent of a zero says nothing."""
    return word if word >> numbers.FRACTION_BITS & 0xFF else 0


def corner_words() -> list[int]:
    """Zeros, powers of two, all ones, one place more and less, of both signs and at small, middle and large exponents."""
    found = [0, 0x5555, 1 << 24 | 3]
    for exponent in (1, 2, 17, 64, 110, 111, 126, 127, 128, 129, 133, 134, 143, 144, 253, 254):
        for fraction in (0, 1, 2, 0x7FFF, 0x8000, 0x8001, 0xFFFE, 0xFFFF, 0x00FF, 0x0100, 0xFC00, 0xFC01, 0xFE00, 0xFF80):
            found += [sign << 24 | exponent << 16 | fraction for sign in (0, 1)]
    return found


def random_word(rng: random.Random, low: int = 1, high: int = 254) -> int:
    """A word with an exponent of ``low`` to ``high``; its fraction has long runs of ones or zeros half of the time."""
    fraction = rng.getrandbits(16)
    if rng.random() < 0.5:
        run = (1 << rng.randrange(17)) - 1
        fraction = fraction | run if rng.random() < 0.5 else fraction & ~run
    return rng.getrandbits(1) << 24 | rng.randint(low, high) << 16 | fraction


def stream(dut, delay: int, inputs: list[dict[str, int]], outputs: tuple[str, ...], constants: dict[str, int] | None = None):
    """Sets the ports of ``inputs`` cycle by cycle; what ``outputs`` hold ``delay`` cycles later, as one tuple per input."""
    results = []

    def port(name: str) -> Value:
        found = dut
        for part in name.split("."):
            found = found[int(part)] if part.isdigit() else getattr(found, part)
        return Value.cast(found)

    async def bench(ctx):
        for name, value in (constants or {}).items():
            ctx.set(port(name), value)
        for cycle in range(len(inputs) + delay):
            for name, value in inputs[min(cycle, len(inputs) - 1)].items():
                ctx.set(port(name), value)
            if cycle >= delay:
                results.append(tuple(ctx.get(port(name)) for name in outputs))
            await ctx.tick()

    simulate(dut, bench)
    return results


class Bench:
    """The helpers above, for tests, which cannot import this file."""

    ONE, LARGEST = ONE, LARGEST
    bits_of = staticmethod(bits_of)
    corner_words = staticmethod(corner_words)
    random_word = staticmethod(random_word)
    stream = staticmethod(stream)

    @staticmethod
    def expect(function: Callable[..., int], *operands: int) -> int | None:
        """The definition's word, None where it raises RangeError."""
        try:
            return function(*operands)
        except numbers.RangeError:
            return None

    @staticmethod
    def check(found: list[tuple[int, int]], wanted: list[int | None], operands: list) -> None:
        """Every (word, fault) of ``found`` is that of ``wanted``, where None stands for a fault."""
        assert len(found) == len(wanted)
        for (word, fault), want, operand in zip(found, wanted, operands, strict=True):
            got = None if fault else bits_of(word)
            assert got == want, f"{operand}: {got} instead of {want}"


@pytest.fixture
def bench() -> Bench:
    return Bench()


class UnitDriver:
    """Drives the unit's ports as the queue, LOAD, STORE and the array would."""

    def __init__(self, dut: VectorUnit, ctx, rng: random.Random) -> None:
        self.dut, self.ctx, self.rng = dut, ctx, rng
        self.lanes, self.depths = dut.lanes, dut.depths

    async def program(self, first: int, program: list[dict]) -> None:
        for number, code in enumerate(program, first):
            bits = sum((int(value) << INSTRUCTION.fields[name].offset) for name, value in code.items())
            for half in range(INSTRUCTION_BYTES // 4):
                for name, value in (("write", 1), ("address", 2 * number + half), ("data", bits >> 32 * half & 0xFFFFFFFF)):
                    self.ctx.set(getattr(self.dut, f"program_{name}"), value)
                await self.ctx.tick()
        self.ctx.set(self.dut.program_write, 0)

    async def put(self, port, address: int, value: int) -> None:
        self.ctx.set(port.payload.address, address)
        self.ctx.set(port.payload.data, value)
        self.ctx.set(port.valid, 1)
        await self.ctx.tick().until(port.ready)
        self.ctx.set(port.valid, 0)

    async def load(self, state) -> None:
        """Memories and scalars; lane registers by one instruction each, from V0."""
        for port, memory in zip((self.dut.load0, self.dut.load1), state.memories, strict=True):
            for address, words in enumerate(memory):
                await self.put(port, address, sum(value << 25 * lane for lane, value in enumerate(words)))
        for address, value in enumerate(state.scalars):
            await self.put(self.dut.scalar_write, address, value)

    async def registers(self, state) -> None:
        for lane, words in enumerate(state.registers):
            await self.put(self.dut.load0, 0, sum(value << 25 * i for i, value in enumerate(words)))
            await self.program(0, [{"x_source": Source.V0, "target": Target.LANE, "lane": lane}])
            await self.command({"first": 0, "count": 1, "outer": 1, "inner": 1, "lanes": (1 << self.lanes) - 1}, [])

    async def command(self, command: dict, integers: list[list[int]], pauses: list[int] | None = None) -> dict:
        """Runs it, each of the integers after a pause of its own, or of a random one.

        Returns what it wrote to the left scratchpad, whether it faulted and where, clipped results, cycles."""
        dut, ctx, seen = self.dut, self.ctx, {"left": [], "fault": None}
        ctx.set(dut.command.payload, VectorCommand.const(command))
        ctx.set(dut.command.valid, 1)
        waiting, paused = [list(row) for row in integers], 0
        for cycle in range(20000):
            pause = pauses[len(integers) - len(waiting)] if pauses and waiting else 0
            there = bool(waiting) and (paused >= pause if pauses else self.rng.random() < 0.7)
            paused += 1
            ctx.set(dut.fetch.ready, 1)
            ctx.set(dut.integers.valid, there)
            if waiting:
                for lane in range(self.lanes):
                    ctx.set(dut.integers.payload[lane], waiting[0][lane] % 2**32)
            if there and ctx.get(dut.integers.ready):
                waiting.pop(0)
                paused = 0
            if ctx.get(dut.left_valid):
                packed = ctx.get(dut.left_bytes)
                row = [packed >> 8 * lane & 0xFF for lane in range(self.lanes)]
                seen["left"].append((ctx.get(dut.left_address), ctx.get(dut.left_lanes), row))
            done = ctx.get(dut.done)
            if done and ctx.get(dut.fault):
                seen["fault"] = ctx.get(dut.fault_instruction)
            await ctx.tick()
            if done:
                seen["cycles"] = cycle + 1
                break
        else:
            raise AssertionError("the command does not end")
        ctx.set(dut.command.valid, 0)
        ctx.set(dut.integers.valid, 0)
        seen |= {"unused": len(waiting), "saturations": ctx.get(dut.saturations)}
        return seen

    async def stored(self, number: int) -> list[list[int]]:
        """Everything in V0 or V1, as STORE reads it."""
        dut, ctx, found = self.dut, self.ctx, []
        port = (dut.store0, dut.store1)[number]
        for address in range(self.depths[number]):
            ctx.set(port.payload, address)
            ctx.set(port.valid, 1)
            await ctx.tick().until(port.ready)
            ctx.set(port.valid, 0)
            await ctx.tick()
            assert ctx.get((dut.stored0, dut.stored1)[number])
            value = ctx.get((dut.read_data0, dut.read_data1)[number])
            found.append([value >> 25 * lane & 0x1FFFFFF for lane in range(self.lanes)])
        return found

    async def scalars(self) -> list[int]:
        found = []
        for address in range(SCALARS):
            self.ctx.set(self.dut.scalar_read, address)
            await self.ctx.tick()
            found.append(self.ctx.get(self.dut.scalar_read_data))
        return found


def vector_unit(lanes: int, depths: tuple[int, int]) -> VectorUnit:
    return VectorUnit(lanes, depths, left_target=True)


@pytest.fixture
def on_unit() -> Callable:
    """Runs a scenario, ``async def scenario(driver)``, on a vector unit."""

    def simulate(scenario: Callable, lanes: int, depths: tuple[int, int], rng: random.Random) -> None:
        unit = design(vector_unit, lanes, depths)

        async def run(ctx):
            await scenario(UnitDriver(unit.dut, ctx, rng))

        unit.simulate(run)

    return simulate
