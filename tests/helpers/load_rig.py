"""The LOAD unit with its read master on a memory that stalls, and the scratchpads as docs/machine.md describes them, in numpy."""

from __future__ import annotations

import random

import numpy as np
from amaranth.hdl import Module
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from helpers.streams import entries_to
from loralith.rtl.axi import Axi4ReadSignature
from loralith.rtl.load import LoadUnit
from loralith.rtl.memories import OperandMemory
from loralith.rtl.read_master import ReadMaster
from loralith.spec.commands import Command, LoadTarget, Opcode
from loralith.spec.config import PRESETS, Config
from loralith.verif.axi_model import AxiMemory
from loralith.verif.block_test import design

BASE, SIZE = 0x8_0001_0000, 1 << 16  # not at the start of 4 GB: a bound is compared in halves
WRITE_DELAY = OperandMemory.write_delay


class Rig(Component):
    """Load unit and read master; the fetch side is idle."""

    def __init__(self, config):
        self.master, self.unit = ReadMaster(config), LoadUnit(config, WRITE_DELAY)
        super().__init__({"axi": Out(Axi4ReadSignature(config.bus_bytes)), "stop": In(1), "clear": In(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.master, m.submodules.unit = master, unit = self.master, self.unit
        connect(m, master.axi, flipped(self.axi))
        connect(m, unit.bursts, master.load)
        connect(m, master.load_beats, unit.beats)
        m.d.comb += [
            unit.refused.eq(master.load_refused),
            unit.refused_address.eq(master.refused_address),
            master.stop.eq(self.stop),
            unit.control.stop.eq(self.stop),
            master.clear.eq(self.clear),
            unit.control.clear.eq(self.clear),
        ]
        for block in (master, unit):
            m.d.comb += [block.window_base.eq(BASE), block.window_limit.eq(BASE + SIZE)]
        return m


def ones(mask: int) -> list[int]:
    """The places of a mask's ones."""
    return [place for place in range(mask.bit_length()) if mask >> place & 1]


class Pads:
    """The scratchpads as docs/machine.md describes them: element (lane, seq)."""

    def __init__(self, config: Config):
        self.config = config
        self.left = np.full((config.left_depth, config.banks, config.rows), 0xEE, np.uint8)
        self.right = np.full((config.right_depth, config.banks, config.cols), 0xEE, np.uint8)
        self.scale = np.full((config.scale_depth, 4 * config.rows), 0xEE, np.uint8)

    def model(self, c: Command, dram: AxiMemory):
        W = self.config.banks
        rows = [self.row(c, dram, c["address"] + i * c["row_stride"]) for i in range(c["rows"])]
        if c["target"] == LoadTarget.SCALE:
            flat = rows[0] + bytes(-len(rows[0]) % W)
            start = c["base"] * 4 * self.config.rows
            self.scale.reshape(-1)[start : start + len(flat)] = np.frombuffer(flat, np.uint8)
            return
        pad = self.right if c["target"] == LoadTarget.RIGHT else self.left
        self.fill(pad, c["base"], c["block_stride"], rows + [bytes(c["row_bytes"])] * c["pad_rows"], c["transpose"])
        if c["target"] == LoadTarget.BOTH:
            self.fill(self.right, c["right_base"], c["right_stride"], rows, 0)

    @staticmethod
    def row(c: Command, dram: AxiMemory, address: int) -> bytes:
        """The elements of a DRAM row."""
        if not c["packed4"]:
            return dram.get(address, c["row_bytes"])
        signed = [*range(8), *range(0xF8, 0x100)]
        elements = [signed[nibble] for byte in dram.get(address, -(-c["row_bytes"] // 2)) for nibble in (byte % 16, byte // 16)]
        return bytes(elements[: c["row_bytes"]])

    def fill(self, pad, base, stride, rows, transpose):
        W, lanes = self.config.banks, pad.shape[2]

        def put(a, s, value):
            pad[base + a // lanes * stride + s // W, s % W, a % lanes] = value

        for i, row in enumerate(rows):
            if transpose:
                for j, value in enumerate(row + bytes(-len(row) % W)):
                    put(i, j, value)
            else:
                for j, value in enumerate(row + bytes(-len(row) % min(W, lanes))):
                    put(j, i, value)

    def write(self, p):
        word, seq = list(p.word), list(p.seq)  # fields of a payload are slow to read
        if p.both:
            for b in ones(p.right_bank_mask):
                for lane in ones(p.right_lane_mask):
                    self.right[p.right_row, b, lane] = word[lane]
        pad, row, transpose = self.right if p.right else self.left, p.row, p.transpose
        lanes = ones(p.lane_mask)
        for b in ones(p.bank_mask):
            for lane in lanes:
                pad[row, b, lane] = seq[b] if transpose else word[lane]

    def write_scale(self, p):
        W = self.config.bus_bytes
        self.scale[p.row, p.group * W : p.group * W + W] = list(p.data)


def assert_equal(got: Pads, want: Pads, commands: list[Command]) -> None:
    """The memories are equal; else the first byte that differs is named, with the loads that should have written it."""
    for name in ("left", "right", "scale"):
        one, other = getattr(got, name), getattr(want, name)
        for place in np.argwhere(one != other)[:1]:
            at = tuple(place.tolist())
            raise AssertionError(f"{name}{at} is {one[at]:#x}, not {other[at]:#x}, after {[c.fields for c in commands]}")


def bus_words(c: Command, config: Config) -> int:
    """Words of one row on the bus."""
    return -(-c["row_bytes"] // (config.bus_bytes * (2 if c["packed4"] else 1)))


def some_load(config: Config, rng: random.Random, index: int) -> Command:
    W = config.bus_bytes
    target = rng.choice([LoadTarget.LEFT, LoadTarget.LEFT, LoadTarget.RIGHT, LoadTarget.RIGHT, LoadTarget.SCALE, LoadTarget.BOTH])
    if target == LoadTarget.BOTH and config.cols < W:
        target = LoadTarget.LEFT
    address = BASE + rng.randrange(0, SIZE // 4, W)
    extra = {"wait": 1 << index % 16 if index % 3 == 0 else 0, "signal": 1 << index % 16}
    if target == LoadTarget.SCALE:
        return Command.make(
            Opcode.LOAD, target=target, address=address, rows=1, row_bytes=rng.randint(1, 8 * config.rows), base=rng.randrange(2), **extra
        )
    lanes, depth = (config.cols, config.right_depth) if target == LoadTarget.RIGHT else (config.rows, config.left_depth)
    transpose = target == LoadTarget.BOTH or rng.random() < 0.5
    while True:
        rows, row_bytes, pad = rng.randint(1, 3 * W), rng.randint(1, rng.choice([W, 4 * W])), rng.choice([0, 0, 3, W]) * (not transpose)
        along_lanes, along_seq = (rows, row_bytes) if transpose else (row_bytes, rows + pad)
        per_block = -(-along_seq // W)
        base = rng.randrange(4)
        beside, right_base = -(-rows // W), rng.randrange(4)
        fits = target != LoadTarget.BOTH or right_base + -(-row_bytes // config.cols) * beside <= config.right_depth
        if fits and base + -(-along_lanes // lanes) * per_block <= depth:
            break
    stride = rng.choice([-(-row_bytes // W) * W, -(-row_bytes // W) * W + W, 256])
    return Command.make(
        Opcode.LOAD,
        target=target,
        transpose=transpose,
        address=address,
        rows=rows,
        pad_rows=pad,
        row_bytes=row_bytes,
        row_stride=stride,
        base=base,
        block_stride=per_block,
        **({"right_base": right_base, "right_stride": beside} if target == LoadTarget.BOTH else {}),
        **({"packed4": 1} if rng.random() < 0.5 else {}),
        **extra,
    )


def simulate(config, commands, stalls, *, seed=0, write_stall=0.0, error=lambda a: 0, until_fault=False, limit=20_000):
    """Runs the commands; returns (rig's memory, scratchpads, events, fault). Events: ("write" | "done" | "wait", cycle, detail)."""
    rng = random.Random(seed)
    load = design(Rig, config)
    rig = load.dut
    unit = rig.unit
    memory = AxiMemory(rig.axi, config.bus_bytes, BASE, SIZE, stalls=stalls, seed=seed, error=error)
    memory.data[:] = rng.randbytes(SIZE)
    pads, events, result = Pads(config), [], {}

    async def tokens(ctx):
        while True:
            ctx.set(unit.wait.ready, rng.random() >= write_stall)
            ctx.set(unit.signal.ready, rng.random() >= write_stall)
            await ctx.tick()

    async def watch(ctx):
        done, cycle = 0, 0
        ports = (unit.operand, unit.scale)
        while done < len(commands) or not events:
            for port in ports:
                ctx.set(port.ready, rng.random() >= write_stall)
            samples = [s for p in ports for s in (p.valid, p.ready, p.payload)]
            _, _, *got = await ctx.tick().sample(
                *samples, unit.signal.valid, unit.signal.ready, unit.signal.mask, unit.fault.valid, unit.wait.valid, unit.wait.ready
            )
            cycle += 1
            assert cycle < limit, "the unit hangs"
            if got[0] and got[1]:
                pads.write(got[2])
                events.append(("write", cycle, 0))
            if got[3] and got[4]:
                pads.write_scale(got[5])
                events.append(("write", cycle, 1))
            if got[6] and got[7]:
                events.append(("done", cycle, got[8]))
                done += 1
            if got[10] and got[11]:
                events.append(("wait", cycle, 0))
            assert until_fault or not got[9], "a fault"
            if got[9]:
                for tick in range(300):
                    ctx.set(rig.stop, tick >= 20)  # the controller is far away
                    *_, written = await ctx.tick().sample(unit.operand.valid & unit.operand.ready)
                    events.extend([("write", -1, 0)] * written)
                assert not ctx.get(rig.master.busy)
                assert memory.responses_due == 0
                break
        for _ in range(10):
            await ctx.tick()
        result["fault"] = {n: ctx.get(getattr(unit.fault, n)) for n in ("valid", "code", "detail", "command", "address")}
        result["busy"] = ctx.get(unit.control.busy) | ctx.get(rig.master.busy)

    load.simulate(watch, background=(memory.read_side, entries_to(unit.commands, commands), tokens))
    return memory, pads, events, result


def odd(name, **sizes):
    return Config(
        name,
        **(
            {"rows": 4, "cols": 8, "bus_bytes": 8, "max_fold": 4}
            | {"left_bytes": 4096, "right_bytes": 8192, "out_bytes": 4096, "acc_bytes": 1024, "scale_bytes": 512}
            | sizes
        ),
    )


CONFIGS = [
    PRESETS["tiny"],
    odd("narrow", rows=2, cols=16, max_burst=3, right_bytes=16384),
    odd("wide", rows=8, cols=4, bus_bytes=32, left_bytes=16384, right_bytes=8192, out_bytes=8192),
    odd("square", rows=16, cols=16, bus_bytes=16, left_bytes=16384, right_bytes=16384, outstanding_reads=3),
]
