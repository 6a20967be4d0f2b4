"""Addresses of an instruction's words, INT32 words read ahead, and a command's tokens, each by itself."""

import dataclasses
import random

from amaranth.sim import Simulator

from loralith.rtl.vector.addresses import VectorAddresses
from loralith.rtl.vector.control import VectorControl
from loralith.rtl.vector.integer_reader import IntegerReader
from loralith.spec.commands import Command, Opcode
from loralith.spec.config import PRESETS
from loralith.spec.status import Check
from loralith.spec.vector.program import Source, Target

CONFIG = dataclasses.replace(PRESETS["tiny"], name="tiny-vector", vector_lanes=2, v0_words=16, v1_words=32)
DEPTHS = (16, 64, 32)


def simulate(dut, bench) -> None:
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def test_addresses_count_with_elements_and_tell_the_first_word_beyond_a_memory():
    rng = random.Random(1)
    delay = 2
    dut = VectorAddresses(DEPTHS, delay)
    named = {Source.V0: (0, Check.V0), Source.V1: (1, Check.V1), Source.OUT32: (2, Check.OUT)}
    seen = set()

    async def bench(ctx) -> None:
        for _ in range(60):
            x, y, target = rng.choice(list(Source)), rng.choice([Source.NONE, Source.V0, Source.V1]), rng.choice(list(Target))
            ctx.set(dut.instruction.x_source, x)
            ctx.set(dut.instruction.y_source, y)
            ctx.set(dut.instruction.target, target)
            firsts, strides = [rng.randrange(20) for _ in range(3)], [rng.choice([0, 1, 2, 2**16 - 1]) for _ in range(3)]
            for at in range(3):
                ctx.set(dut.firsts[at], firsts[at])
                ctx.set(dut.strides[at], strides[at])
            await ctx.tick().repeat(2)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            ports = (
                named,
                dict(list(named.items())[:2]),
                {Target.V0: named[Source.V0], Target.V1: named[Source.V1]},
            )
            reads, element = [], 0
            for _ in range(30):
                now = [(first + element * stride) % 2**16 for first, stride in zip(firsts, strides, strict=True)]
                faults = [
                    port[kind][1]
                    for kind, port, address in zip((x, y, target), ports, now, strict=True)
                    if kind in port and address >= DEPTHS[port[kind][0]]
                ]
                assert ctx.get(dut.beyond) == bool(faults)
                if faults:
                    assert ctx.get(dut.detail) == faults[0]
                    seen.add(faults[0])
                if len(reads) >= delay:
                    assert [ctx.get(dut.reads[at]) for at in range(2)] == reads[-delay]
                issue = rng.random() < 0.7
                ctx.set(dut.issue, issue)
                reads.append(now[:2])
                await ctx.tick()
                element += issue
            ctx.set(dut.issue, 0)

    simulate(dut, bench)
    assert seen == {Check.V0, Check.V1, Check.OUT}


def test_words_are_read_ahead_in_order_and_no_more_than_there_is_room_for():
    rng = random.Random(2)
    dut = IntegerReader(CONFIG)
    latency = 3

    async def bench(ctx) -> None:
        for start, stride, count, takes in ((5, 3, 20, 0.9), (60000, 2000, 30, 0.2), (9, 2**16 - 1, 5, 0.5)):
            for name, value in (("address", start), ("stride", stride), ("count", count), ("start", 1)):
                ctx.set(getattr(dut, name), value)
            await ctx.tick()
            ctx.set(dut.start, 0)
            pipeline: list[int | None] = [None] * latency
            found, asked, most = [], 0, 0
            for _ in range(400):
                answer = pipeline.pop(0)
                ctx.set(dut.read.valid, answer is not None)
                ctx.set(dut.read.data, [answer or 0, ~(answer or 0) & 0xFFFFFFFF])
                ready, take = rng.random() < 0.6, rng.random() < takes
                ctx.set(dut.read.request.ready, ready)
                ctx.set(dut.o.ready, take)
                _, _, asks, address, there, word = await ctx.tick().sample(
                    dut.read.request.valid, dut.read.request.payload, dut.o.valid, dut.o.payload
                )
                pipeline.append(address if asks and ready else None)
                asked += asks and ready
                if there and take:
                    assert word[1] == ~word[0] & 0xFFFFFFFF
                    found.append(word[0])
                most = max(most, asked - len(found))
            assert found == [(start + stride * at) % 2**16 for at in range(count)]
            assert most <= IntegerReader.ahead
        # What was not taken is forgotten, and a stop asks for nothing more.
        ctx.set(dut.o.ready, 0)
        ctx.set(dut.start, 1)
        ctx.set(dut.stop, 0)
        await ctx.tick()
        ctx.set(dut.start, 0)
        ctx.set(dut.stop, 1)
        await ctx.tick()
        assert not ctx.get(dut.read.request.valid)

    simulate(dut, bench)


def test_a_command_that_waits_for_tokens_takes_none_after_a_stop_and_none_of_the_next_list():
    dut = VectorControl(CONFIG)
    fields = {"count": 1, "outer": 1, "inner": 1, "lanes": 1, "wait": 2}

    async def bench(ctx) -> None:
        ctx.set(dut.commands.payload.bits, int.from_bytes(Command.make(Opcode.VECTOR, **fields).pack(), "little"))
        ctx.set(dut.commands.valid, 1)
        await ctx.tick().until(dut.wait.valid)
        assert ctx.get(dut.control.busy)
        ctx.set(dut.control.stop, 1)
        await ctx.tick()
        ctx.set(dut.wait.ready, 1)
        for _ in range(5):
            assert not ctx.get(dut.wait.valid)
            assert not ctx.get(dut.control.busy)
            assert not ctx.get(dut.command.valid)
            await ctx.tick()
        ctx.set(dut.wait.ready, 0)
        ctx.set(dut.commands.valid, 0)
        ctx.set(dut.control.clear, 1)
        await ctx.tick()
        ctx.set(dut.control.clear, 0)
        ctx.set(dut.control.stop, 0)
        for _ in range(10):
            await ctx.tick()
            assert not ctx.get(dut.wait.valid)

    simulate(dut, bench)
