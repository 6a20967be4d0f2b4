"""The bus side with memories and a compute unit that only waits, and lists for it."""

from __future__ import annotations

import random

import numpy as np
from amaranth.hdl import Value

from loralith.rtl.bus import BusSide
from loralith.rtl.memories import OperandMemory, OutputMemory, Statistics
from loralith.spec.commands import COMMAND_BYTES, Command, Opcode, StoreSource
from loralith.spec.config import PRESETS, Config
from loralith.spec.registers import COUNTERS, REGISTERS, address_of
from loralith.verif.axi_model import AxiLiteHost, AxiMemory, Stalls
from loralith.verif.block_test import design

BASE, SIZE = 0x1_0000_0000, 1 << 17
LIST = BASE + SIZE - 0x4000 - 0x40  # so that lists cross 4 KiB boundaries
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
