"""What the vector unit's tests share: words for corner cases, and a bench that streams operands through a component."""

import random
from collections.abc import Callable

import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

from loralith.spec.vector import numbers

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

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
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
