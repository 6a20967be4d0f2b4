"""Which of several faults of one cycle is told: of a latch's sources the lowest index, of the controller's units the first."""

import pytest

from loralith.rtl.controller import UNITS, Controller
from loralith.rtl.fault import FaultLatch
from loralith.spec.status import Code, Unit
from loralith.verif.block_test import simulate

SOURCES = 3
PAIRS = [(low, high) for low in range(4) for high in range(low + 1, 4)]


async def raise_fault(ctx, port, number: int) -> None:
    """A fault whose fields all tell its number."""
    for name, value in {"code": 1 + number, "detail": 20 + number, "command": 300 + number, "address": 4000 + number}.items():
        ctx.set(getattr(port, name), value)
    ctx.set(port.valid, 1)


@pytest.mark.parametrize(("low", "high"), [pair for pair in PAIRS if max(pair) < SOURCES])
def test_a_latch_keeps_the_lowest_index_of_one_cycle(low: int, high: int) -> None:
    dut = FaultLatch(SOURCES)

    async def bench(ctx) -> None:
        for number in (high, low):
            await raise_fault(ctx, dut.sources[number], number)
        await ctx.tick()
        for number in (high, low):
            ctx.set(dut.sources[number].valid, 0)
        found = [ctx.get(getattr(dut.fault, name)) for name in ("valid", "code", "detail", "command", "address")]
        assert found == [1, 1 + low, 20 + low, 300 + low, 4000 + low]

    simulate(dut, bench)


async def started(ctx, dut: Controller, watchdog: int) -> None:
    """A list runs."""
    ctx.set(dut.list_length, 1)
    ctx.set(dut.watchdog, watchdog)
    ctx.set(dut.start, 1)
    await ctx.tick()
    ctx.set(dut.start, 0)
    await ctx.tick().repeat(3)
    assert ctx.get(dut.busy)


def status_after(stimulus, watchdog: int = 1000) -> list[int]:
    """Code, detail, unit, command and address of a list in whose run `stimulus(ctx, dut)` happens in one cycle."""
    dut = Controller()
    found: list[int] = []

    async def bench(ctx) -> None:
        await started(ctx, dut, watchdog)
        await stimulus(ctx, dut)
        await ctx.tick()
        ctx.set(dut.abort, 0)
        for _ in range(20):
            await ctx.tick()
        assert (ctx.get(dut.busy), ctx.get(dut.error)) == (0, 1)
        found.extend(ctx.get(getattr(dut, name)) for name in ("code", "detail", "unit", "error_command", "error_address"))

    simulate(dut, bench)
    return found


@pytest.mark.parametrize(("low", "high"), PAIRS)
def test_the_controller_reports_the_first_unit_of_one_cycle(low: int, high: int) -> None:
    async def stimulus(ctx, dut) -> None:
        for number in (high, low):
            await raise_fault(ctx, getattr(dut, f"{UNITS[number].name.lower()}_fault"), number)

    assert status_after(stimulus) == [1 + low, 20 + low, UNITS[low], 300 + low, 4000 + low]


@pytest.mark.parametrize("number", range(4))
def test_a_unit_s_fault_goes_before_an_abort_of_its_cycle(number: int) -> None:
    async def stimulus(ctx, dut) -> None:
        ctx.set(dut.abort, 1)
        await raise_fault(ctx, getattr(dut, f"{UNITS[number].name.lower()}_fault"), number)

    assert status_after(stimulus) == [1 + number, 20 + number, UNITS[number], 300 + number, 4000 + number]


def test_an_abort_goes_before_the_watchdog_of_its_cycle() -> None:
    waited = 0

    async def until_stopped(ctx, dut) -> None:
        nonlocal waited
        while not ctx.get(dut.stop):
            await ctx.tick()
            waited += 1

    assert status_after(until_stopped, watchdog=10)[:3] == [Code.WATCHDOG, 0, Unit.NONE]

    async def abort_in_the_last_cycle(ctx, dut) -> None:
        await ctx.tick().repeat(waited - 1)
        assert not ctx.get(dut.stop)
        ctx.set(dut.abort, 1)

    assert status_after(abort_in_the_last_cycle, watchdog=10)[:3] == [Code.HOST_ABORT, 0, Unit.HOST]
