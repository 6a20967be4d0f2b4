"""The STORE unit with its write master on a memory that stalls, and what docs/machine.md says that a store writes."""

from __future__ import annotations

import random
from collections import deque

from amaranth.hdl import Module
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from helpers.streams import entries_to
from loralith.rtl.axi import Axi4WriteSignature
from loralith.rtl.memories import OutputMemory, Statistics
from loralith.rtl.store import StoreUnit
from loralith.rtl.write_master import WriteMaster
from loralith.spec.commands import STAT_BYTES, Command, Opcode, StoreSource
from loralith.spec.config import PRESETS, Config
from loralith.verif.axi_model import AxiMemory
from loralith.verif.block_test import design

BASE, SIZE = 0x8_0001_0000, 1 << 16  # not at the start of 4 GB: a bound is compared in halves
OUT_DELAY, STAT_DELAY = OutputMemory.delay, Statistics.delay


class Rig(Component):
    """Store unit and write master."""

    def __init__(self, config):
        self.master, self.unit = WriteMaster(config), StoreUnit(config, OUT_DELAY, STAT_DELAY)
        super().__init__({"axi": Out(Axi4WriteSignature(config.bus_bytes)), "stop": In(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.master, m.submodules.unit = master, unit = self.master, self.unit
        connect(m, master.axi, flipped(self.axi))
        connect(m, unit.bursts, master.bursts)
        connect(m, unit.beats, master.beats)
        m.d.comb += [master.stop.eq(self.stop), unit.control.stop.eq(self.stop)]
        for name in ("refused", "refused_address", "command_done", "error", "error_address"):
            m.d.comb += getattr(unit, name).eq(getattr(master, name))
        for block in (master, unit):
            m.d.comb += [block.window_base.eq(BASE), block.window_limit.eq(BASE + SIZE)]
        return m


class Memories:
    """Output buffer and statistics with random contents. out[row][bank][lane] is a byte, stats[slot] the 16 bytes of a slot."""

    def __init__(self, config: Config, rng: random.Random) -> None:
        self.config = config
        self.out = [[rng.randbytes(config.rows) for _ in range(config.bus_bytes)] for _ in range(config.out_depth)]
        self.stats = [rng.randbytes(STAT_BYTES) for _ in range(256)]

    def row(self, c: Command, i: int) -> bytes:
        """The bytes of DRAM row ``i`` of a store."""
        if c["source"] == StoreSource.STATS:
            return b"".join(self.stats[c["base"] : c["base"] + c["row_bytes"] // STAT_BYTES])
        places = [(j, i) if c["transpose"] else (i, j) for j in range(c["row_bytes"])]
        return bytes(self._element(c, lane, seq) for lane, seq in places)

    def _element(self, c: Command, lane: int, seq: int) -> int:
        R, W = self.config.rows, self.config.bus_bytes
        return self.out[c["base"] + lane // R * c["block_stride"] + seq // W][seq % W][lane % R]

    async def answer(self, ctx, out_read, stat_read) -> None:
        """The memories' read ports: data comes the memories' delays after ``en``, and random bytes between."""
        rng, W, R = random.Random(0), self.config.bus_bytes, self.config.rows
        outs, stats = deque([None] * (OUT_DELAY - 1)), deque([None] * (STAT_DELAY - 1))
        while True:
            _, _, en, row, lane, bank, stat, slot = await ctx.tick().sample(
                out_read.en, out_read.row, out_read.lane, out_read.bank, stat_read.en, stat_read.slot
            )
            outs.append((row, lane, bank) if en else None)
            stats.append(slot if stat else None)
            read, stat_slot = outs.popleft(), stats.popleft()
            ctx.set(out_read.lane_data, [word[read[1]] for word in self.out[read[0]]] if read else list(rng.randbytes(W)))
            ctx.set(out_read.word, list(self.out[read[0]][read[2]] if read else rng.randbytes(R)))
            data = self.stats[stat_slot] if stat_slot is not None else rng.randbytes(STAT_BYTES)
            ctx.set(stat_read.data, int.from_bytes(data, "little"))


def some_store(config: Config, rng: random.Random, index: int, address: int) -> Command:
    """A legal store to ``address``, with tokens. It reaches no further than 4,096 bytes."""
    R, W = config.rows, config.bus_bytes
    common = {"address": address, "wait": rng.getrandbits(16) * (index % 2), "signal": rng.getrandbits(16)}
    if rng.random() < 0.2:
        slots = rng.randint(1, 5)
        fields = {"source": StoreSource.STATS, "rows": 1, "row_bytes": STAT_BYTES * slots, "base": rng.randrange(config.stat_slots - slots)}
        return Command.make(Opcode.STORE, **fields, **common)
    transpose, packed = rng.getrandbits(1), rng.random() < 0.3
    while True:
        rows = rng.randint(1, 3 * W)
        row_bytes = 1 << rng.randrange((W - 1).bit_length()) if packed else rng.randint(1, 3 * W)
        row_stride = row_bytes if packed else -(-row_bytes // W) * W + rng.choice([0, W])
        lanes, seqs = (row_bytes, rows) if transpose else (rows, row_bytes)
        stride, base = -(-seqs // W) + rng.randrange(2), rng.randrange(4)
        if base + (-(-lanes // R) - 1) * stride + -(-seqs // W) <= config.out_depth and rows * row_stride <= 4096:
            break
    fields = {"rows": rows, "row_bytes": row_bytes, "row_stride": row_stride, "base": base, "block_stride": stride}
    return Command.make(Opcode.STORE, source=StoreSource.OUT, transpose=transpose, packed=packed, **fields, **common)


def simulate(config, commands, stalls, *, seed=0, token_stall=0.0, error=lambda a: 0, until_fault=False, limit=30_000):
    """Runs the commands. Returns (DRAM, memories, events, result); events: ("wait" | "done", cycle, mask); ``result``: the fault, and
    whether anything is ``busy`` at the end."""
    rng = random.Random(seed)
    store = design(Rig, config)
    rig, memories = store.dut, Memories(config, random.Random(seed))
    unit = rig.unit
    dram = AxiMemory(rig.axi, config.bus_bytes, BASE, SIZE, stalls=stalls, seed=seed, error=error)
    dram.data[:] = rng.randbytes(SIZE)
    events, result = [], {"before": bytes(dram.data)}

    async def answer(ctx):
        await memories.answer(ctx, unit.out_read, unit.stat_read)

    async def watch(ctx):
        done = cycle = 0
        while done < len(commands):
            for port in (unit.wait, unit.signal):
                ctx.set(port.ready, rng.random() >= token_stall)
            samples = [s for p in (unit.wait, unit.signal) for s in (p.valid & p.ready, p.mask)]
            _, _, taken, wait, given, signal, fault = await ctx.tick().sample(*samples, unit.fault.valid)
            cycle += 1
            assert cycle < limit, f"the unit hangs: {len(events)} events, the last ones {events[-3:]}"
            if taken:
                events.append(("wait", cycle, wait))
            if given:
                events.append(("done", cycle, signal))
                done += 1
            if fault:
                break
        for tick in range(300 if until_fault else 10):
            ctx.set(rig.stop, until_fault and tick >= 20)  # the controller is far away
            _, _, taken, wait = await ctx.tick().sample(unit.wait.valid & unit.wait.ready, unit.wait.mask)
            events.extend([("wait", cycle + tick, wait)] * taken)
        result["fault"] = {name: ctx.get(getattr(unit.fault, name)) for name in ("valid", "code", "detail", "command", "address")}
        result["busy"] = ctx.get(unit.control.busy) | ctx.get(rig.master.busy)
        assert until_fault or not result["fault"]["valid"], f"a fault: {result['fault']}"

    store.simulate(watch, background=(dram.write_side, answer, entries_to(unit.commands, commands)))
    return dram, memories, events, result


def odd(name, **sizes):
    common = {"rows": 4, "cols": 8, "bus_bytes": 8, "max_fold": 4}
    memories = {"left_bytes": 16384, "right_bytes": 16384, "out_bytes": 8192, "acc_bytes": 1024, "scale_bytes": 512}
    return Config(name, **(common | memories | sizes))


CONFIGS = [
    PRESETS["tiny"],
    odd("narrow", rows=2, cols=16, max_burst=3),
    odd("wide", rows=8, cols=4, bus_bytes=32),
    odd("square", rows=16, cols=16, bus_bytes=16, outstanding_writes=3),
]
