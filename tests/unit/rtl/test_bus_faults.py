"""The bus side at bad lists, bus errors, aborts and the watchdog: what status says, and that nothing stays outstanding."""

import random

import pytest

from helpers.bus_machine import BASE, LIST, SIZE, TARGET, TINY, Machine, chain, some_store, stored
from loralith.spec.commands import COMMAND_BYTES, SEMAPHORE_MAX, Command, Opcode
from loralith.spec.registers import address_of
from loralith.spec.status import Check, Code, Unit
from loralith.verif.axi_model import Stalls


def test_the_doorbell_is_refused_while_a_list_runs_and_works_again_after_a_fault():
    machine = Machine(TINY, Stalls(latency=50))
    bad = Command.make(Opcode.LOAD, address=BASE + 1, rows=1, row_bytes=1)

    async def scenario(ctx):
        await machine.ring(ctx, [*chain(3), bad, *chain(2)])
        assert await machine.host.write(ctx, address_of("CONTROL"), 1) == 2
        first = await machine.end(ctx)
        assert (first["error"], first["code"], first["detail"], first["unit"]) == (1, Code.MISALIGNED, Check.ADDRESS, Unit.LOAD)
        assert (first["error_command"], first["error_address"]) == (9, BASE + 1)
        for _ in range(2):
            await machine.ring(ctx, chain(3))
            again = await machine.end(ctx)
            assert (again["done"], again["error"], again["code"], again["commands_done"], again["error_address"]) == (1, 0, 0, 9, 0)
        await machine.ring(ctx, [*chain(1), bad])
        last = await machine.end(ctx)
        assert (last["code"], last["unit"], last["error_command"]) == (Code.MISALIGNED, Unit.LOAD, 3), "numbered from each list's own start"

    machine.simulate(scenario)


@pytest.mark.parametrize(
    ("address", "length", "code", "where"),
    [
        (LIST + 4, 3, Code.MISALIGNED, LIST + 4),
        (LIST, 0, Code.BAD_FIELD, LIST),
        (BASE - 8, 3, Code.DRAM_WINDOW, BASE - 8),
        (BASE + SIZE - 256, 3, Code.DRAM_WINDOW, BASE + SIZE - 256),
        (LIST, 1 << 31, Code.DRAM_WINDOW, LIST),
    ],
)
def test_a_bad_list_reads_nothing(address, length, code, where):
    machine = Machine(TINY, Stalls())

    async def scenario(ctx):
        await machine.ring(ctx, chain(1), address, length)
        result = await machine.end(ctx)
        assert (result["error"], result["code"], result["detail"], result["unit"]) == (1, code, Check.LIST, Unit.FETCH)
        assert (result["error_command"], result["error_address"], result["commands_done"]) == (0, where, 0)
        assert machine.memory.reads == []

    machine.simulate(scenario)


def test_an_unknown_opcode_names_its_command():
    machine = Machine(TINY, Stalls())
    result = machine.run([*chain(2), b"\x09" + bytes(127), *chain(1)])
    assert (result["code"], result["detail"], result["unit"], result["error_command"]) == (Code.BAD_OPCODE, 0, Unit.FETCH, 6)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("offset", [0, 24, 120])
def test_a_read_error_in_the_list_names_its_beat(seed, offset):
    bad = LIST + 4 * COMMAND_BYTES + offset
    machine = Machine(TINY, Stalls.random(random.Random(seed)), seed, error=lambda a: 3 if a == bad else 0)
    result = machine.run(chain(4))
    assert (result["code"], result["unit"], result["error_command"]) == (Code.AXI_READ_ERROR, Unit.FETCH, 4)
    assert result["error_address"] == bad


@pytest.mark.parametrize("seed", range(3))
def test_a_write_error_names_its_burst_and_issued_bursts_finish(seed):
    rng = random.Random(seed)
    stores = [some_store(TINY, rng, i) for i in range(12)]
    clean = Machine(TINY, Stalls(), seed)
    clean.run(stores)
    bad = clean.memory.writes[len(clean.memory.writes) // 2][0]
    owner = next(i for i, c in enumerate(stores) if bad in stored(clean, c))
    machine = Machine(TINY, Stalls.random(rng), seed, error=lambda a: 2 if a == bad else 0)
    result = machine.run(stores)
    assert (result["error"], result["code"], result["unit"]) == (1, Code.AXI_WRITE_ERROR, Unit.STORE)
    assert (result["error_address"], result["error_command"]) == (bad, owner)


def test_a_write_error_is_told_while_an_earlier_store_waits_for_room_for_its_token():
    stores = [
        Command.make(Opcode.STORE, address=TARGET + 64 * i, rows=1, row_bytes=8, base=0, signal=1 << 3 if i <= SEMAPHORE_MAX else 0)
        for i in range(SEMAPHORE_MAX + 3)
    ]
    bad = TARGET + 64 * (SEMAPHORE_MAX + 2)
    result = Machine(TINY, Stalls(), error=lambda a: 2 if a == bad else 0).run(stores)
    assert (result["code"], result["error_command"], result["commands_done"]) == (Code.AXI_WRITE_ERROR, SEMAPHORE_MAX + 2, SEMAPHORE_MAX)


def test_an_abort_takes_in_beats_that_the_scratchpads_would_not():
    machine = Machine(TINY, Stalls(latency=10))
    machine.write_ready = 0
    big = Command.make(Opcode.LOAD, address=BASE, rows=64, row_bytes=8, row_stride=8, base=0, block_stride=8)

    async def scenario(ctx):
        await machine.ring(ctx, [big])
        for _ in range(300):
            await ctx.tick()
        assert machine.memory.responses_due
        assert await machine.host.write(ctx, address_of("CONTROL"), 2) == 0
        assert (await machine.end(ctx))["code"] == Code.HOST_ABORT

    machine.simulate(scenario)


def test_the_watchdog_ends_a_list_that_waits_for_nothing():
    machine = Machine(TINY, Stalls())
    result = machine.run([*chain(1), Command.make(Opcode.COMPUTE, m_rows=1, n_cols=1, k0=1, wait=1 << 9)], WATCHDOG=500)
    assert (result["error"], result["code"], result["unit"], result["commands_done"]) == (1, Code.WATCHDOG, Unit.NONE, 3)
    assert 500 < result["n_cycles"] < 1500


@pytest.mark.parametrize("delay", [0, 3, 40, 150, 400])
def test_an_abort_takes_in_what_is_outstanding(delay):
    machine = Machine(TINY, Stalls(latency=80, w=0.5, aw=0.5))

    async def scenario(ctx):
        await machine.ring(ctx, chain(20))
        for _ in range(delay):
            await ctx.tick()
        assert await machine.host.write(ctx, address_of("CONTROL"), 2) == 0
        result = await machine.end(ctx)
        assert (result["error"], result["code"], result["unit"], result["busy"]) == (1, Code.HOST_ABORT, Unit.HOST, 0)
        for _ in range(200):
            await ctx.tick()
        assert not ctx.get(machine.dut.axi.arvalid) | ctx.get(machine.dut.axi.awvalid) | ctx.get(machine.dut.axi.wvalid)
        await machine.ring(ctx, chain(2))
        assert (await machine.end(ctx))["done"]

    machine.simulate(scenario)
