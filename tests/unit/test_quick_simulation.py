"""The tests' quicker simulator gives the values of Amaranth's own, cycle by cycle."""

import random

import pytest
from amaranth.hdl import Cat, Elaboratable, Module, Signal, signed
from amaranth.lib.memory import Memory
from amaranth.sim import Simulator, _pyrtl

from helpers import quick_simulation


class Mixture(Elaboratable):
    """Signed sums, nested choices, signals of which two processes drive a part each, arrays, and a memory."""

    def __init__(self) -> None:
        self.a, self.b = Signal(7), Signal(signed(5))
        self.outputs = [Signal(signed(9), name="sum"), Signal(8, name="halves"), Signal(6, name="kept", init=5), Signal(8, name="read")]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total, halves, kept, read = self.outputs
        m.submodules.memory = memory = Memory(shape=8, depth=8, init=range(8))
        write, port = memory.write_port(), memory.read_port()
        m.d.comb += [total.eq(self.a - self.b), halves[:4].eq(self.a), write.addr.eq(self.a), write.data.eq(total), write.en.eq(self.b[0])]
        m.d.comb += [port.addr.eq(Cat(self.b[1:3])), port.en.eq(1), read.eq(port.data)]
        m.d.sync += halves[4:].eq(self.b + kept)
        with m.If(self.a[0] & (self.b > 2)):
            m.d.sync += kept.eq(kept + self.a)
        with m.Elif(self.b < -3):
            m.d.sync += kept[2:].eq(~kept[1:])
        return m


def run() -> list[list[int]]:
    dut, rng, found = Mixture(), random.Random(1), []

    async def bench(ctx) -> None:
        for _ in range(200):
            ctx.set(dut.a, rng.getrandbits(7))
            ctx.set(dut.b, rng.randrange(-16, 16))
            found.append([ctx.get(signal) for signal in dut.outputs])
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found


def test_values_are_those_of_amaranth(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = run()
    monkeypatch.delattr(_pyrtl, "compile")
    assert quick == run()
    assert all(len(set(values)) > 3 for values in zip(*quick, strict=True))


def test_amaranth_writes_what_is_made_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise nothing is gained, and nobody would notice."""
    sources: list[str] = []
    quicker = quick_simulation.quicker
    monkeypatch.setattr(quick_simulation, "quicker", lambda source: sources.append(source) or quicker(source))
    quick_simulation._compiled.cache_clear()
    run()
    changed = [source for source in sources if quicker(source) != source]
    assert len(changed) >= 2
    assert any(quick_simulation.TWICE.search(source) for source in sources)
