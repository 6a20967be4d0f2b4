"""Drivers of valid/ready streams with random stalls."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from loralith.spec.commands import Command
from loralith.verif.block_test import Testbench, simulate


def feeder(stream: Any, items: Sequence[Any], rng: random.Random, stall: float) -> Testbench:
    """Offers ``items`` one after the other; before each it pauses, a cycle at a time, with probability ``stall``."""

    async def feed(ctx: Any) -> None:
        for item in items:
            while rng.random() < stall:
                await ctx.tick()
            ctx.set(stream.payload, item)
            ctx.set(stream.valid, 1)
            await ctx.tick().until(stream.ready)
            ctx.set(stream.valid, 0)

    return feed


def entries_to(stream: Any, commands: Sequence[Command]) -> Testbench:
    """Offers ``commands`` as a queue does, each with its index in the list. May be left waiting at the end of a run."""

    async def feed(ctx: Any) -> None:
        for index, command in enumerate(commands):
            ctx.set(stream.payload, {"bits": int.from_bytes(command.pack(), "little"), "index": index})
            ctx.set(stream.valid, 1)
            taken = False
            while not taken:
                _, _, taken = await ctx.tick().sample(stream.ready)
            ctx.set(stream.valid, 0)

    return feed


async def stepped(ctx: Any, dut: Any, items: Sequence[Any], rng: random.Random) -> AsyncIterator[Any]:
    """Pulses ``dut.begin``, then ``dut.step`` once for each of ``items`` with pauses between; yields each item before its step."""
    ctx.set(dut.begin, 1)
    await ctx.tick()
    ctx.set(dut.begin, 0)
    for item in items:
        while rng.random() < 0.3:
            await ctx.tick()
        yield item
        ctx.set(dut.step, 1)
        await ctx.tick()
        ctx.set(dut.step, 0)


def run_stream(
    dut: Any, given: Sequence[Any], wanted: int, read: Callable[..., Any], rng: random.Random, stall: float, also: Sequence[Any] = ()
) -> tuple[list[Any], list[int]]:
    """Feeds ``given`` to ``dut.i`` and takes from ``dut.o`` until ``wanted`` payloads have come, with stalls on both sides.

    Returns what ``read`` makes of each payload and of the signals ``also`` in the same cycle, and the cycles. A payload more, or none in
    50,000 cycles, is an AssertionError.
    """
    found: list[Any] = []
    cycles: list[int] = []

    async def take(ctx: Any) -> None:
        cycle = 0
        while len(found) < wanted:
            ready = rng.random() >= stall
            ctx.set(dut.o.ready, ready)
            _, _, valid, payload, *others = await ctx.tick().sample(dut.o.valid, dut.o.payload, *also)
            cycle += 1
            assert cycle < 50_000, f"{len(found)} payloads of {wanted}, then none"
            if valid and ready:
                found.append(read(payload, *others))
                cycles.append(cycle)
        _, _, valid = await ctx.tick().sample(dut.o.valid)
        assert not valid, "a payload too many"

    simulate(dut, take, background=[feeder(dut.i, given, rng, stall)])
    return found, cycles
