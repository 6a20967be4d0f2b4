"""The bus side as a whole: lists in DRAM, a stand-in for the compute unit, memories behind the read and write ports."""

import random

import numpy as np
import pytest

from helpers.bus_machine import BASE, LIST, TARGET, TINY, Machine, chain, some_store, stored
from helpers.same_values import assert_same_values
from loralith.spec.commands import COMMAND_BYTES, Command, Opcode
from loralith.spec.config import Config
from loralith.spec.registers import REGISTERS, address_of
from loralith.verif.axi_model import Stalls

NARROW = Config("narrow", 2, 16, 8, 4, 4096, 8192, 4096, 1024, scale_bytes=512, max_burst=5, outstanding_writes=2)
WIDE = Config("wide", 8, 4, 32, 4, 16384, 8192, 8192, 1024, scale_bytes=512, stat_slots=16)
TALL = Config("tall", 32, 4, 8, 4, 16384, 8192, 8192, 1024, scale_bytes=512, outstanding_reads=2)


@pytest.mark.parametrize(
    ("config", "seed"),
    [pytest.param(c, seed, id=f"{c.name}-{seed}") for i, c in enumerate([TINY, NARROW, WIDE, TALL]) for seed in (2 * i, 2 * i + 1)],
)
def test_stores_write_their_bytes_and_no_other(config, seed):
    rng = random.Random(seed)
    commands = [some_store(config, rng, i) for i in range(16)]
    machine = Machine(config, Stalls.random(rng), seed)
    before = bytearray(machine.memory.data)
    result = machine.run(commands)
    assert (result["done"], result["code"], result["commands_done"]) == (1, 0, 16)
    before[LIST - BASE : LIST - BASE + 16 * COMMAND_BYTES] = b"".join(c.pack() for c in commands)
    for command in commands:
        for address, value in stored(machine, command).items():
            before[address - BASE] = value
    wrong = [BASE + i for i, (a, b) in enumerate(zip(machine.memory.data, before, strict=True)) if a != b]
    assert not wrong, f"{len(wrong)} bytes differ, first {wrong[0]:#x}"
    assert result["n_bytes_written"] == sum(beats for _, beats in machine.memory.writes) * config.bus_bytes
    assert result["n_write_bursts"] == len(machine.memory.writes)
    assert result["n_bytes_read"] == 16 * COMMAND_BYTES
    assert result["n_read_bursts"] == len(machine.memory.reads)


def test_packed_rows_share_bus_words():
    """64 rows of 2 bytes are 16 words of 8 bytes in one burst, one beat per four reads."""
    command = Command.make(Opcode.STORE, packed=1, transpose=1, address=TARGET, rows=64, row_bytes=2, row_stride=2, base=0, block_stride=8)
    machine = Machine(TINY, Stalls())
    machine.run([command])
    assert machine.memory.writes == [(TARGET, 16)]
    assert machine.memory.write_cycles[-1] - machine.memory.write_cycles[0] == 60


def test_single_beat_rows_leave_at_one_beat_per_cycle():
    command = Command.make(Opcode.STORE, address=TARGET, rows=64, row_bytes=8, row_stride=16, base=0, block_stride=1)
    machine = Machine(TINY, Stalls(latency=20))
    machine.run([command])
    assert len(machine.memory.writes) == 64
    assert machine.memory.write_cycles[-1] - machine.memory.write_cycles[0] == 63


@pytest.mark.parametrize("seed", range(4))
def test_a_list_of_all_units_ends_with_its_counters(seed):
    rng = random.Random(seed)
    machine = Machine(TINY, Stalls.random(rng), seed)
    result = machine.run(chain(12))
    assert (result["done"], result["error"], result["busy"], result["commands_done"]) == (1, 0, 0, 36)
    assert [index for _, index in machine.log] == list(range(1, 36, 3))
    assert result["n_macs"] == 3 * 12 * machine.compute_cycles
    assert result["n_saturations"] == 12 * machine.compute_cycles
    assert result["n_busy"] == 12 * machine.compute_cycles
    for i in range(8, 12):  # the last load into each row
        want = np.frombuffer(machine.memory.get(BASE + 512 * i, 32), np.uint8).reshape(4, 8)
        assert_same_values(machine.left[i % 8 : i % 8 + 2, :4].transpose(1, 0, 2).reshape(4, 8)[:, :4], want[:, :4])


def test_cycles_are_counted_from_the_doorbell_to_the_end():
    """The first one is that of the units' clear, the last one that before the interrupt."""
    machine = Machine(TINY, Stalls())
    seen = []

    async def watch(ctx):
        cycle = 0
        while True:
            if ctx.get(machine.dut.compute.clear) or (ctx.get(machine.dut.irq) and len(seen) == 1):
                seen.append(cycle)
            await ctx.tick()
            cycle += 1

    async def scenario(ctx):
        await machine.ring(ctx, chain(2))
        result = await machine.end(ctx)
        assert result["n_cycles"] == seen[1] - seen[0]

    machine.simulate(scenario, watch)


def test_the_fetch_counts_as_waiting_for_loads():
    """A list without loads: what it waits for is its commands."""
    latency = 100
    machine = Machine(TINY, Stalls(latency=latency))
    result = machine.run([Command.make(Opcode.COMPUTE, m_rows=1, n_cols=1, k0=1)])
    assert (result["done"], result["n_busy"]) == (1, machine.compute_cycles)
    assert latency <= result["n_wait_load"] < result["n_cycles"] - machine.compute_cycles


def test_registers_read_back_and_unmapped_ones_answer_slverr():
    machine = Machine(TINY, Stalls())

    async def scenario(ctx):
        host = machine.host
        assert await machine.get(ctx, "ID") == REGISTERS["ID"].reset
        assert await machine.get(ctx, "CONFIG_HASH") == TINY.hash
        assert await machine.get(ctx, "WATCHDOG") == REGISTERS["WATCHDOG"].reset
        mapped = {r.offset + 4 * i for r in REGISTERS.values() for i in range(r.width // 32)}
        for offset in range(0, 512, 4):
            assert (await host.read(ctx, offset))[1] == (0 if offset in mapped else 2)
            if offset not in mapped:
                assert await host.write(ctx, offset, 1) == 2
        await machine.set(ctx, "LIST_BASE", 0x0123_4567_89AB_CDEF)
        assert await host.write(ctx, address_of("LIST_BASE") + 4, 0xFFFF_FFFF, 0b0101) == 0
        assert await machine.get(ctx, "LIST_BASE") == 0x01FF_45FF_89AB_CDEF
        assert await host.write(ctx, address_of("ID"), 5) == 0
        assert await machine.get(ctx, "ID") == REGISTERS["ID"].reset
        assert await host.write(ctx, address_of("CONTROL"), 1, 0b1110) == 0
        assert not await machine.get(ctx, "STATUS")

    machine.simulate(scenario)
