"""Addresses of an instruction's words, INT32 words read ahead, and a command's tokens, each by itself."""

import dataclasses
import random

from loralith.rtl.vector.addresses import VectorAddresses
from loralith.rtl.vector.control import VectorControl
from loralith.rtl.vector.integer_reader import IntegerReader
from loralith.spec.commands import Command, Opcode
from loralith.spec.config import PRESETS
from loralith.spec.status import Check
from loralith.spec.vector.program import Source, Target
from loralith.verif.block_test import simulate

CONFIG = dataclasses.replace(PRESETS["tiny"], name="tiny-vector", vector_lanes=2, v0_words=16, v1_words=32)
DEPTHS = (16, 64, 32)


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
                ctx.set(dut.first_addresses[at], firsts[at])
                ctx.set(dut.strides[at], strides[at])
            await ctx.tick()
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            # What follows is set up meanwhile.
            for name in ("x_source", "y_source", "target"):
                ctx.set(getattr(dut.instruction, name), 0)
            for at in range(3):
                ctx.set(dut.strides[at], 7)
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
                assert ctx.get(dut.out_of_bounds) == bool(faults)
                if faults:
                    assert ctx.get(dut.detail) == faults[0]
                    seen.add(faults[0])
                assert ctx.get(dut.target) == now[2]
                issue = rng.random() < 0.7
                ctx.set(dut.issue, issue)
                if len(reads) >= delay:
                    for memory, address in enumerate(reads[-delay]):
                        assert ctx.get(dut.read_en) >> memory & 1 == (address is not None)
                        assert address is None or ctx.get(dut.read_address[memory]) == address
                reads.append([now[(x, y).index(source)] if issue and source in (x, y) else None for source in (Source.V0, Source.V1)])
                await ctx.tick()
                element += issue
            ctx.set(dut.issue, 0)

    simulate(dut, bench)
    assert seen == {Check.V0, Check.V1, Check.OUT}


def test_words_are_read_ahead_in_order_and_no_more_than_there_are_credits_for():
    rng = random.Random(2)
    dut = IntegerReader(CONFIG)
    latency = 3

    async def bench(ctx) -> None:
        # Two jobs at a time: the second one's words follow those of the first one without a pause.
        for jobs, takes in (([(5, 3, 20), (7, 1, 3)], 0.9), ([(60000, 2000, 30), (9, 2**16 - 1, 5)], 0.2), ([(1, 1, 1), (2, 1, 9)], 0.5)):
            waiting = list(jobs)
            pipeline: list[int | None] = [None] * latency
            found, requested, most = [], 0, 0
            for _ in range(600):
                answer = pipeline.pop(0)
                ctx.set(dut.read.valid, answer is not None)
                ctx.set(dut.read.data, [answer or 0, ~(answer or 0) & 0xFFFFFFFF])
                ready, take = rng.random() < 0.6, rng.random() < takes
                ctx.set(dut.read.request.ready, ready)
                ctx.set(dut.o.ready, take)
                ctx.set(dut.request.valid, bool(waiting))
                if waiting:
                    ctx.set(dut.request.payload, dict(zip(("address", "stride", "count"), waiting[0], strict=True)))
                _, _, accepted, requests, address, there, word = await ctx.tick().sample(
                    dut.request.ready, dut.read.request.valid, dut.read.request.payload, dut.o.valid, dut.o.payload
                )
                if accepted and waiting:
                    waiting.pop(0)
                pipeline.append(address if requests and ready else None)
                requested += requests and ready
                if there and take:
                    assert word[1] == ~word[0] & 0xFFFFFFFF
                    found.append(word[0])
                most = max(most, requested - len(found))
            assert found == [(start + stride * at) % 2**16 for start, stride, count in jobs for at in range(count)]
            assert most <= IntegerReader.ahead
        # A stop requests nothing more, and a clear forgets what was not taken.
        ctx.set(dut.o.ready, 0)
        ctx.set(dut.read.request.ready, 0)
        ctx.set(dut.request.payload, {"address": 0, "stride": 1, "count": 5})
        ctx.set(dut.request.valid, 1)
        await ctx.tick().until(dut.request.ready)
        ctx.set(dut.request.valid, 0)
        assert ctx.get(dut.read.request.valid)
        ctx.set(dut.read.valid, 1)
        ctx.set(dut.stop, 1)
        await ctx.tick()
        ctx.set(dut.read.valid, 0)
        await ctx.tick()
        assert not ctx.get(dut.read.request.valid)
        assert ctx.get(dut.request.ready)
        assert ctx.get(dut.o.valid)
        ctx.set(dut.clear, 1)
        await ctx.tick()
        assert not ctx.get(dut.o.valid)

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
