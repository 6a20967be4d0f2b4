"""The LOAD unit with its read master on a memory that stalls, against docs/machine.md written out in numpy."""

import random

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from loralith.rtl.axi import Axi4ReadSignature
from loralith.rtl.load import LoadUnit
from loralith.rtl.memories import OperandMemory
from loralith.rtl.read_master import ReadMaster
from loralith.spec.commands import Command, LoadTarget, Opcode
from loralith.spec.config import PRESETS, Config
from loralith.spec.status import Check, Code
from loralith.verif.axi_model import AxiMemory, Stalls
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

    async def feed(ctx):
        for index, command in enumerate(commands):
            ctx.set(unit.commands.payload, {"bits": int.from_bytes(command.pack(), "little"), "index": index})
            ctx.set(unit.commands.valid, 1)
            taken = False
            while not taken:
                _, _, taken = await ctx.tick().sample(unit.commands.ready)
            ctx.set(unit.commands.valid, 0)

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

    load.simulate(watch, background=(memory.read_side, feed, tokens))
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


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("seed", range(3))
def test_scratchpads_hold_what_the_rules_say(config, seed):
    rng = random.Random(seed)
    commands = [some_load(config, rng, i) for i in range(12)]
    stall = rng.choice([0.0, 0.4])
    memory, pads, events, result = simulate(config, commands, Stalls.random(rng), seed=seed, write_stall=stall)
    want = Pads(config)
    for command in commands:
        want.model(command, memory)
    assert_equal(pads, want, commands)
    assert [detail for kind, _, detail in events if kind == "done"] == [c["signal"] for c in commands]
    assert not result["fault"]["valid"]
    assert not result["busy"]
    assert sum(beats for _, beats in memory.reads) == sum(c["rows"] * bus_words(c, config) for c in commands)


def test_a_load_is_signalled_after_its_last_byte_is_readable():
    config = PRESETS["tiny"]
    rng = random.Random(5)
    commands = [some_load(config, rng, i) for i in range(6)]
    _, _, events, _ = simulate(config, commands, Stalls(), write_stall=0.3)
    writes = [cycle for kind, cycle, _ in events if kind == "write"]
    dones = [cycle for kind, cycle, _ in events if kind == "done"]
    seen = 0
    for command, done in zip(commands, dones, strict=True):
        lanes = {LoadTarget.LEFT: config.rows, LoadTarget.RIGHT: config.cols}.get(command["target"], 64)
        step = config.bus_bytes if command["transpose"] else min(config.bus_bytes, lanes)
        seen += (command["rows"] + command["pad_rows"]) * -(-command["row_bytes"] // step)
        assert done >= writes[seen - 1] + WRITE_DELAY


@pytest.mark.parametrize("rows", [1, 2])
def test_a_load_is_signalled_as_soon_as_its_last_byte_is_readable(rows):
    """Nothing stalls: not a cycle sooner, and not one later than the unit needs to hand the mask on."""
    command = Command.make(Opcode.LOAD, address=BASE, rows=rows, row_bytes=8, row_stride=8, base=0, block_stride=1, signal=1)
    _, _, events, _ = simulate(PRESETS["tiny"], [command], Stalls())
    last_write = max(cycle for kind, cycle, _ in events if kind == "write")
    assert [cycle - last_write for kind, cycle, _ in events if kind == "done"] == [WRITE_DELAY + 1]


@pytest.mark.parametrize("pad_rows", [1, 2])
@pytest.mark.parametrize("row_bytes", [1, 9, 24])
@pytest.mark.parametrize("target", [LoadTarget.LEFT, LoadTarget.RIGHT])
def test_rows_of_padding_are_as_long_as_the_others(target, row_bytes, pad_rows):
    """Zeros lie in the scratchpad up to the last bus word of the last row, and the next load is not disturbed."""
    config = PRESETS["tiny"]
    stride = -(-row_bytes // 8) * 8
    fields = {"target": target, "row_bytes": row_bytes, "row_stride": stride, "block_stride": 2}
    commands = [
        Command.make(Opcode.LOAD, address=BASE, rows=3, pad_rows=pad_rows, base=0, **fields),
        Command.make(Opcode.LOAD, address=BASE + 4096, rows=2, base=40, **fields),
    ]
    memory, pads, _, result = simulate(config, commands, Stalls())
    want = Pads(config)
    for command in commands:
        want.model(command, memory)
    assert_equal(pads, want, commands)
    assert not result["busy"]


@pytest.mark.parametrize(("block_stride", "right_stride"), [(5, 2), (3, 7)])
@pytest.mark.parametrize("packed4", [0, 1])
def test_the_halves_of_a_load_into_both_have_strides_of_their_own(block_stride, right_stride, packed4):
    """Several blocks of lanes on both sides."""
    config = CONFIGS[3]
    command = Command.make(
        Opcode.LOAD,
        **{"target": LoadTarget.BOTH, "transpose": 1, "address": BASE, "rows": 20, "row_bytes": 40, "row_stride": 48, "packed4": packed4},
        **{"base": 1, "block_stride": block_stride, "right_base": 3, "right_stride": right_stride},
    )
    memory, pads, _, result = simulate(config, [command], Stalls())
    want = Pads(config)
    want.model(command, memory)
    assert_equal(pads, want, [command])
    assert not result["fault"]["valid"]


def test_latency_shows_once_and_not_per_command():
    """Sixteen loads of 16 one-beat rows behind 100 cycles of latency: one beat per cycle but for a cycle per load."""
    config = odd("base", rows=16, cols=16, bus_bytes=16, left_bytes=16384, right_bytes=16384, outstanding_reads=128)
    commands = [
        Command.make(Opcode.LOAD, address=BASE + 1024 * i, rows=64, row_bytes=16, row_stride=16, base=0, block_stride=4, transpose=i % 2)
        for i in range(16)
    ]
    memory, *_ = simulate(config, commands, Stalls(latency=100))
    assert memory.read_cycles[-1] - memory.read_cycles[0] <= 16 * (64 + 2)


@pytest.mark.parametrize(
    "fields", [{}, {"transpose": 1}, {"transpose": 1, "target": LoadTarget.BOTH}], ids=["natural", "transposed", "both"]
)
@pytest.mark.parametrize("row_bytes", [1, 2, 15, 16, 17, 31, 32, 33, 48, 64])
def test_a_packed_row_of_any_length_moves_half_the_words_and_takes_a_cycle_per_write(fields, row_bytes):
    config = CONFIGS[3]
    command = Command.make(
        Opcode.LOAD, address=BASE + 64, rows=33, row_bytes=row_bytes, row_stride=64, block_stride=4, right_stride=4, packed4=1, **fields
    )
    memory, pads, events, _ = simulate(config, [command], Stalls())
    want = Pads(config)
    want.model(command, memory)
    assert_equal(pads, want, [command])
    assert sum(beats for _, beats in memory.reads) == 33 * -(-row_bytes // 32)
    writes = [cycle for kind, cycle, _ in events if kind == "write"]
    assert len(writes) == 33 * -(-row_bytes // 16)
    if row_bytes > 32:  # else the memory's bursts of one word are the limit
        assert writes[-1] - writes[0] <= len(writes) + 2


def test_a_packed_load_of_long_rows_writes_every_cycle():
    """Words come as fast as the bus has them, and wait until they are written: two cycles for each."""
    config = CONFIGS[3]
    command = Command.make(Opcode.LOAD, address=BASE, rows=16, row_bytes=1024, row_stride=512, transpose=1, packed4=1)
    _, _, events, _ = simulate(config, [command], Stalls())
    writes = [cycle for kind, cycle, _ in events if kind == "write"]
    assert writes[-1] - writes[0] == 16 * 64 - 1


def check_fault(command, code, detail, address=0, config=PRESETS["tiny"]):
    good = Command.make(Opcode.LOAD, address=BASE, rows=2, row_bytes=9, row_stride=16, base=0, block_stride=1)
    _, _, events, result = simulate(config, [good, command, good], Stalls(), until_fault=True)
    assert sum(kind == "wait" for kind, *_ in events) <= 1, "a bad load takes no tokens"
    assert result["fault"] == {"valid": 1, "code": code, "detail": detail, "command": 1, "address": address}
    assert not result["busy"]


GOOD = {"address": BASE, "rows": 2, "row_bytes": 9, "row_stride": 16, "base": 0, "block_stride": 1}


@pytest.mark.parametrize(
    ("change", "code", "detail", "address"),
    [
        ({"target": 4}, Code.BAD_FIELD, Check.ENUM, 0),
        ({"target": 3, "transpose": 1}, Code.BAD_FIELD, Check.ENUM, 0),
        ({"transpose": 1, "pad_rows": 1}, Code.BAD_FIELD, Check.ENUM, 0),
        ({"target": 2}, Code.BAD_FIELD, Check.ENUM, 0),
        ({"target": 2, "rows": 1}, Code.BAD_FIELD, Check.ENUM, 0),
        ({"target": 2, "rows": 1, "block_stride": 0, "packed4": 1}, Code.BAD_FIELD, Check.ENUM, 0),
        ({"row_bytes": 0, "packed4": 1}, Code.BAD_FIELD, Check.SIZE, 0),
        ({"row_stride": 12, "packed4": 1}, Code.MISALIGNED, Check.STRIDE, BASE),
        ({"address": BASE + 4, "packed4": 1}, Code.MISALIGNED, Check.ADDRESS, BASE + 4),
        ({"base": 126, "packed4": 1}, Code.SCRATCHPAD_BOUNDS, Check.LEFT, 0),
        ({"address": BASE + SIZE - 24, "row_bytes": 17, "packed4": 1}, Code.DRAM_WINDOW, Check.ADDRESS, BASE + SIZE - 24),
        ({"rows": 0}, Code.BAD_FIELD, Check.SIZE, 0),
        ({"row_bytes": 0, "address": 1}, Code.BAD_FIELD, Check.SIZE, 0),
        ({"address": BASE + 4, "row_stride": 1}, Code.MISALIGNED, Check.ADDRESS, BASE + 4),
        ({"row_stride": 17}, Code.MISALIGNED, Check.STRIDE, BASE),
        ({"base": 126}, Code.SCRATCHPAD_BOUNDS, Check.LEFT, 0),
        ({"base": 125, "block_stride": 2, "target": 1, "address": 0}, Code.SCRATCHPAD_BOUNDS, Check.RIGHT, 0),
        ({"base": 127, "transpose": 1}, Code.SCRATCHPAD_BOUNDS, Check.LEFT, 0),
        ({"base": 63, "rows": 1, "row_bytes": 17, "target": 2, "block_stride": 0}, Code.SCRATCHPAD_BOUNDS, Check.SCALE, 0),
        ({"address": BASE - 8}, Code.DRAM_WINDOW, Check.ADDRESS, BASE - 8),
        ({"address": BASE + SIZE - 24}, Code.DRAM_WINDOW, Check.ADDRESS, BASE + SIZE - 24),
        ({"address": 2**64 - 8}, Code.DRAM_WINDOW, Check.ADDRESS, 2**64 - 8),
    ],
)
def test_a_bad_load_stops_the_unit_with_its_code(change, code, detail, address):
    check_fault(Command.make(Opcode.LOAD, **(GOOD | change)), code, detail, address)


BOTH = {"target": LoadTarget.BOTH, "transpose": 1}


@pytest.mark.parametrize(
    ("change", "code", "detail"),
    [
        ({"transpose": 0}, Code.BAD_FIELD, Check.ENUM),
        ({"pad_rows": 1}, Code.BAD_FIELD, Check.ENUM),
        ({"base": 64}, Code.SCRATCHPAD_BOUNDS, Check.LEFT),
        ({"base": 64, "right_base": 64}, Code.SCRATCHPAD_BOUNDS, Check.LEFT),
        ({"right_base": 64}, Code.SCRATCHPAD_BOUNDS, Check.RIGHT),
        ({"right_base": 63, "right_stride": 1, "row_bytes": 17, "row_stride": 32}, Code.SCRATCHPAD_BOUNDS, Check.RIGHT),
        ({"right_base": 63, "rows": 17}, Code.SCRATCHPAD_BOUNDS, Check.RIGHT),
        ({"right_base": 62, "right_stride": 2, "row_bytes": 17, "row_stride": 32}, Code.SCRATCHPAD_BOUNDS, Check.RIGHT),
    ],
)
def test_a_bad_load_into_both_stops_the_unit_with_its_code(change, code, detail):
    check_fault(Command.make(Opcode.LOAD, **(GOOD | BOTH | change)), code, detail, config=CONFIGS[3])


@pytest.mark.parametrize(
    "change",
    [
        {"base": 63, "right_base": 63},
        {"rows": 17, "block_stride": 40, "right_base": 61, "right_stride": 1, "row_bytes": 17, "row_stride": 32},
    ],
)
def test_a_load_into_both_at_the_edge_is_good(change):
    command = Command.make(Opcode.LOAD, **(GOOD | BOTH | change))
    *_, result = simulate(CONFIGS[3], [command], Stalls())
    assert not result["fault"]["valid"]


@pytest.mark.parametrize(
    "change",
    [
        *({"base": 125}, {"address": BASE + SIZE - 32}, {"rows": 1, "row_stride": 1}, {"block_stride": 63, "base": 1}),
        *({"address": BASE + SIZE - 24, "row_bytes": 16, "packed4": 1}, {"address": BASE + SIZE - 24, "row_bytes": 15, "packed4": 1}),
    ],
)
def test_a_load_at_the_edge_is_good(change):
    command = Command.make(Opcode.LOAD, **(GOOD | change))
    *_, result = simulate(PRESETS["tiny"], [command], Stalls())
    assert not result["fault"]["valid"]


def test_a_reserved_bit_stops_the_unit():
    class Reserved:
        def pack(self):
            return Command.make(Opcode.LOAD, **GOOD).pack()[:-1] + b"\x80"

    check_fault(Reserved(), Code.BAD_FIELD, Check.RESERVED)


@pytest.mark.parametrize("seed", range(3))
def test_a_read_error_names_the_beat_and_takes_in_what_is_outstanding(seed):
    rng = random.Random(seed)
    config = PRESETS["tiny"]
    commands = [
        Command.make(Opcode.LOAD, address=BASE + 4096 * i, rows=9, row_bytes=40, row_stride=64, base=0, block_stride=2) for i in range(4)
    ]
    bad = BASE + 4096 * 2 + 3 * 64 + 8 * 2
    _, _, events, result = simulate(
        config, commands, Stalls.random(rng), seed=seed, error=lambda a: 2 + seed % 2 if a == bad else 0, until_fault=True
    )
    assert result["fault"] == {"valid": 1, "code": Code.AXI_READ_ERROR, "detail": 0, "command": 2, "address": bad}
    assert sum(kind == "done" for kind, *_ in events) == 2
    # A beat is two writes of four lanes: of two whole loads, of three rows and of two beats; none of what comes after the error.
    assert sum(kind == "write" for kind, *_ in events) == 2 * (2 * 9 * 5 + 3 * 5 + 2)


@pytest.mark.parametrize("word", [0, 1, 2])
def test_a_read_error_of_a_packed_load_names_the_word_on_the_bus(word):
    config = PRESETS["tiny"]
    commands = [
        Command.make(Opcode.LOAD, address=BASE + 4096 * i, rows=9, row_bytes=40, row_stride=64, base=0, block_stride=2, packed4=1)
        for i in range(2)
    ]
    bad = BASE + 4096 + 3 * 64 + 8 * word
    *_, result = simulate(config, commands, Stalls(), error=lambda a: 2 if a == bad else 0, until_fault=True)
    assert result["fault"] == {"valid": 1, "code": Code.AXI_READ_ERROR, "detail": 0, "command": 1, "address": bad}
