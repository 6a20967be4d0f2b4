"""The bus side as a whole: lists in DRAM, a stand-in for the compute unit, memories behind the read and write ports."""

import random

import numpy as np
import pytest
from amaranth.hdl import Value

from loralith.rtl.bus import BusSide
from loralith.rtl.memories import OperandMemory, OutputMemory, Statistics
from loralith.spec.commands import COMMAND_BYTES, SEMAPHORE_MAX, Command, Opcode, StoreSource
from loralith.spec.config import PRESETS, Config
from loralith.spec.registers import COUNTERS, REGISTERS, address_of
from loralith.spec.status import Check, Code, Unit
from loralith.verif.axi_model import AxiLiteHost, AxiMemory, Stalls
from loralith.verif.block_test import design

BASE, SIZE = 0x1_0000_0000, 1 << 17
LIST = BASE + SIZE - 0x4000 - 0x40  # so that lists cross 4 KB lines
TARGET = BASE + SIZE // 2
OUT_DELAY, STAT_DELAY = OutputMemory.delay, Statistics.delay
TINY = PRESETS["tiny"]
NOTHING = (-1, 0, 0)
"""No place of the output buffer is read."""


class Machine:
    """A bus side in a simulation. ``run`` rings the doorbell and waits for the end."""

    def __init__(self, config: Config, stalls: Stalls, seed: int = 0, error=lambda address: 0, compute_cycles: int = 20):
        self.config, self.rng, self.compute_cycles = config, random.Random(seed), compute_cycles
        self.design = design(BusSide, config, OperandMemory.write_delay, OUT_DELAY, STAT_DELAY)
        self.dut = self.design.dut
        self.memory = AxiMemory(self.dut.axi, config.bus_bytes, BASE, SIZE, stalls=stalls, seed=seed, error=error)
        self.memory.data[:] = self.rng.randbytes(SIZE)
        self.host = AxiLiteHost(self.dut.control, seed=seed, stall=self.rng.choice([0.0, 0.3]))
        self.out = np.frombuffer(self.rng.randbytes(config.out_bytes), np.uint8).reshape(config.out_depth, config.banks, config.rows)
        self.stats = [self.rng.getrandbits(128) for _ in range(config.stat_slots)]
        self.left = np.zeros((config.left_depth, config.banks, config.rows), np.uint8)
        self.log: list[tuple[str, int]] = []
        self.write_ready = 1

    async def memories(self, ctx):
        dut = self.dut
        outs, stats = [NOTHING] * (OUT_DELAY - 1), [0] * (STAT_DELAY - 1)
        ctx.set(dut.operand.ready, self.write_ready)
        ctx.set(dut.scale.ready, 1)
        read, stat, operand = dut.out_read, dut.stat_read, dut.operand
        shape, bits = operand.payload.shape(), Value.cast(operand.payload)
        shown = None
        while True:
            _, _, en, row, lane, bank, stat_en, slot, valid, write = await ctx.tick().sample(
                read.en, read.row, read.lane, read.bank, stat.en, stat.slot, operand.valid, bits
            )
            outs.append((row % self.config.out_depth, lane, bank) if en else NOTHING)
            stats.append(self.stats[slot % self.config.stat_slots] if stat_en else 0)
            place = outs.pop(0)
            if place != shown:  # a memory's output is set where it changes: that takes longer than a cycle of the machine
                shown = place
                if place == NOTHING:
                    lane_data, word = [0xBB] * self.config.bus_bytes, [0xBB] * self.config.rows
                else:
                    lane_data, word = self.out[place[0], :, place[1]].tolist(), self.out[place[0], place[2]].tolist()
                ctx.set(read.lane_data, lane_data)
                ctx.set(read.word, word)
            ctx.set(stat.data, stats.pop(0))
            if valid:
                self.write(shape.from_bits(write))

    def write(self, write) -> None:
        """A load's write into the left scratchpad."""
        if not write.right:
            seq, word = list(write.seq), list(write.word)
            row, transpose, bank_mask, lane_mask = write.row, write.transpose, write.bank_mask, write.lane_mask
            for b in range(self.config.banks):
                for a in range(self.config.rows):
                    if bank_mask >> b & 1 and lane_mask >> a & 1:
                        self.left[row, b, a] = seq[b] if transpose else word[a]

    async def compute(self, ctx):
        """Takes a command, its tokens, some cycles with steps, and gives its tokens."""
        dut = self.dut

        async def handshake(port):
            ctx.set(port.valid, 1)
            done = stop = False
            while not done and not stop:
                _, _, done, stop = await ctx.tick().sample(port.ready, dut.compute.stop)
            ctx.set(port.valid, 0)
            return not stop

        while True:
            ctx.set(dut.commands.ready, 1)
            _, _, valid, entry, stop = await ctx.tick().sample(dut.commands.valid, dut.commands.payload, dut.compute.stop)
            ctx.set(dut.commands.ready, 0)
            if not valid or stop:
                continue
            command = Command.unpack(entry.bits.to_bytes(COMMAND_BYTES, "little"))
            ctx.set(dut.compute.busy, 1)
            ctx.set(dut.compute_wait.mask, command["wait"])
            if await handshake(dut.compute_wait):
                self.log.append(("compute", entry.index))
                ctx.set(dut.step, 1)
                ctx.set(dut.macs, 3)
                ctx.set(dut.saturations, 1)
                ctx.set(dut.compute.progress, 1)
                for _ in range(self.compute_cycles):
                    await ctx.tick()
                for port in (dut.step, dut.macs, dut.saturations, dut.compute.progress):
                    ctx.set(port, 0)
                ctx.set(dut.compute_done.mask, command["signal"])
                if await handshake(dut.compute_done):
                    ctx.set(dut.compute.complete, 1)
                    await ctx.tick()
                    ctx.set(dut.compute.complete, 0)
            ctx.set(dut.compute.busy, 0)

    async def get(self, ctx, name: str) -> int:
        value = 0
        for i in range(REGISTERS[name].width // 32):
            word, response = await self.host.read(ctx, address_of(name) + 4 * i)
            assert response == 0
            value |= word << 32 * i
        return value

    async def set(self, ctx, name: str, value: int) -> None:
        for i in range(REGISTERS[name].width // 32):
            assert await self.host.write(ctx, address_of(name) + 4 * i, value >> 32 * i & 0xFFFF_FFFF) == 0

    async def ring(self, ctx, commands, address: int = LIST, length: int | None = None, **registers: int) -> None:
        content = b"".join(c if isinstance(c, bytes) else c.pack() for c in commands)
        if BASE <= address < BASE + SIZE - len(content):
            self.memory.put(address, content)
        values = {"LIST_BASE": address, "LIST_LENGTH": len(commands) if length is None else length}
        values |= {"WINDOW_BASE": BASE, "WINDOW_LIMIT": BASE + SIZE, "WATCHDOG": 5000, "IRQ_ENABLE": 3} | registers
        for name, value in values.items():
            await self.set(ctx, name, value)
        assert await self.host.write(ctx, address_of("CONTROL"), 1) == 0

    async def end(self, ctx, limit: int = 30_000) -> dict[str, int]:
        for _ in range(limit):
            if ctx.get(self.dut.irq):
                break
            await ctx.tick()
        assert ctx.get(self.dut.irq), "the list hangs"
        assert self.memory.responses_due == 0
        status = await self.get(ctx, "STATUS")
        found = {b.name: status >> b.lsb & (1 << b.width) - 1 for b in REGISTERS["STATUS"].bits}
        for name in ("ERROR_COMMAND", "ERROR_ADDRESS", "COMMANDS_DONE", *(name.upper() for name, _ in COUNTERS)):
            found[name.lower() if name in ("ERROR_COMMAND", "ERROR_ADDRESS", "COMMANDS_DONE") else "n_" + name.lower()] = await self.get(
                ctx, name
            )
        irq = await self.get(ctx, "IRQ_STATUS")
        assert irq == found["done"] | found["error"] << 1
        await self.set(ctx, "IRQ_STATUS", irq)
        assert not ctx.get(self.dut.irq)
        causes = ("busy", "wait_load", "wait_store", "fill_drain", "idle")
        assert sum(found["n_" + cause] for cause in causes) == found["n_cycles"]
        return found

    def simulate(self, scenario, *more) -> None:
        self.design.simulate(scenario, background=(self.memory.read_side, self.memory.write_side, self.memories, self.compute, *more))

    def run(self, commands, **registers) -> dict[str, int]:
        result = {}

        async def scenario(ctx):
            await self.ring(ctx, commands, **registers)
            result.update(await self.end(ctx))

        self.simulate(scenario)
        return result


def stored(machine: Machine, c: Command) -> dict[int, int]:
    """DRAM byte -> content of a STORE, as docs/machine.md says."""
    config, W = machine.config, machine.config.banks
    content = {}
    for i in range(c["rows"]):
        for j in range(c["row_bytes"]):
            if c["source"] == StoreSource.STATS:
                value = machine.stats[c["base"] + j // 16] >> 8 * (j % 16) & 0xFF
            else:
                a, s = (j, i) if c["transpose"] else (i, j)
                value = machine.out[c["base"] + a // config.rows * c["block_stride"] + s // W, s % W, a % config.rows]
            content[c["address"] + i * c["row_stride"] + j] = int(value)
    return content


def some_store(config: Config, rng: random.Random, slot: int, **extra) -> Command:
    W, R = config.bus_bytes, config.rows
    address = TARGET + slot * 2048 + rng.randrange(0, 64, W)
    kind = rng.random()
    if kind < 0.15:
        slots = rng.randint(1, 8)
        return Command.make(Opcode.STORE, source=1, address=address, rows=1, row_bytes=16 * slots, base=rng.randrange(4), **extra)
    transpose, packed = rng.random() < 0.5, kind < 0.5
    row_bytes = 1 << rng.randrange(W.bit_length() - 1) if packed else rng.randint(1, 3 * W)
    row_stride = row_bytes if packed else -(-row_bytes // W) * W + rng.choice([0, W])
    rows = rng.randint(1, min(1800 // row_stride, 4 * W))
    along_lanes, along_seq = (row_bytes, rows) if transpose else (rows, row_bytes)
    per_block = -(-along_seq // W)
    while rows > 1 and -(-along_lanes // R) * per_block > config.out_depth:
        rows //= 2
        along_lanes, along_seq = (row_bytes, rows) if transpose else (rows, row_bytes)
        per_block = -(-along_seq // W)
    fields = {"transpose": transpose, "packed": packed, "rows": rows, "row_bytes": row_bytes, "row_stride": row_stride}
    return Command.make(Opcode.STORE, address=address, base=0, block_stride=per_block, **fields, **extra)


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


def chain(number: int) -> list[Command]:
    """LOAD -> COMPUTE -> STORE, again and again, each waiting for the one before; loads may run two ahead."""
    commands = []
    for i in range(number):
        free = {"wait": 1 << 1} if i >= 2 else {}
        block = {"rows": 4, "row_bytes": 8, "row_stride": 8, "block_stride": 1}
        commands += [
            Command.make(Opcode.LOAD, address=BASE + 512 * i, base=i % 8, signal=1, **block, **free),
            Command.make(Opcode.COMPUTE, m_rows=1, n_cols=1, k0=1, wait=1, signal=1 << 2 | 1 << 1),
            Command.make(Opcode.STORE, address=TARGET + 512 * i, base=0, wait=1 << 2, **block),
        ]
    return commands


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
        assert np.array_equal(machine.left[i % 8 : i % 8 + 2, :4].transpose(1, 0, 2).reshape(4, 8)[:, :4], want[:, :4])


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
