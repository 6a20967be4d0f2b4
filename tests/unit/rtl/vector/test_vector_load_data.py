"""LOADs into the vector unit's memories: bus words to words, instructions, scalars and key, against docs/machine.md."""

import random
import struct

import pytest

from loralith.rtl.vector.load_data import ElementGatherer, ElementPositions, VectorLoadData
from loralith.spec.commands import FORMAT_BYTES, LoadTarget, VectorFormat
from loralith.spec.config import Config
from loralith.spec.status import Check, Code
from loralith.verif.block_test import simulate

CONFIGS = [
    Config("tiny", 4, 4, 8, 4, 4096, 4096, 2048, 1024, vector_lanes=4),
    Config("few-lanes", 4, 4, 16, 4, 4096, 4096, 2048, 1024, vector_lanes=2),
    Config("many-lanes", 16, 4, 8, 4, 16384, 16384, 8192, 1024, vector_lanes=16),
    Config("wide", 16, 16, 32, 4, 16384, 16384, 16384, 1024, vector_lanes=16),
]
FORMATS = list(VectorFormat)
SPECIAL = (0, 0x80000000, 1, 0x80000001, 0x007FFFFF, 0x00800000, 0x80800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F800000, 0x3F8000FF, 0x3F80FFFF)


def word_of(raw: bytes, form: VectorFormat) -> int:
    """The 25 bits of one element."""
    if form is VectorFormat.INT8:
        value = int.from_bytes(raw, "little", signed=True)
        if not value:
            return 0
        exponent = abs(value).bit_length() - 1
        return (value < 0) << 24 | 127 + exponent << 16 | (abs(value) << 16 - exponent) - (1 << 16)
    bits = int.from_bytes(raw, "little") << (16 if form is VectorFormat.BF16 else 0)
    return bits >> 7 if bits >> 23 & 0xFF else 0


def element(form: VectorFormat, rng: random.Random) -> bytes:
    """A finite one."""
    if form is VectorFormat.INT8:
        return bytes([rng.choice([0, 1, 127, 128, 129, 255, rng.randrange(256)])])
    bits = rng.choice([rng.choice(SPECIAL), rng.getrandbits(1) << 31 | rng.randrange(255) << 23 | rng.getrandbits(23)])
    return struct.pack("<I", bits)[4 - FORMAT_BYTES[form] :]


def draw(config: Config, rng: random.Random, index: int, target: LoadTarget | None = None) -> tuple[dict, list[bytes]]:
    """The fields of a load and its rows."""
    fields = {"target": target or rng.choice(list(LoadTarget)[4:]), "index": index, "address": 4096 * index, "rows": 1}
    fields |= {"signal": rng.getrandbits(16), "row_stride": rng.randrange(512, 1024, config.bus_bytes), "format": 0, "broadcast": 0}
    form = VectorFormat.FP32
    if fields["target"] in (LoadTarget.V0, LoadTarget.V1):
        form = rng.choice(FORMATS)
        fields |= {"format": int(form), "broadcast": rng.randrange(2), "rows": rng.randint(1, 4), "base": rng.randrange(512)}
        count = rng.choice([1, config.vector_lanes, rng.randint(1, 3 * max(config.vector_lanes, config.bus_bytes))])
        fields["block_stride"] = count + rng.randrange(3)
    elif fields["target"] == LoadTarget.KEY:
        count = 2
    else:
        count = 2 * rng.randint(1, 9)
        fields["base"] = rng.randrange(16)
    rows = [b"".join(element(form, rng) for _ in range(count)) for _ in range(fields["rows"])]
    fields["row_bytes"] = len(rows[0])
    fields["beats"] = -(-len(rows[0]) // config.bus_bytes)
    return fields, rows


def model(config: Config, fields: dict, rows: list[bytes]) -> list[tuple]:
    """The writes: (target, address, value)."""
    target, base, lanes = fields["target"], fields.get("base", 0), config.vector_lanes
    if target in (LoadTarget.PROGRAM, LoadTarget.KEY):
        halves = [int.from_bytes(rows[0][i : i + 4], "little") for i in range(0, len(rows[0]), 4)]
        return [(target, 2 * base + i, half) for i, half in enumerate(halves)]
    form = VectorFormat(fields["format"])
    size, written = FORMAT_BYTES[form], []
    for i, row in enumerate(rows):
        words = [word_of(row[j : j + size], form) for j in range(0, len(row), size)]
        if target == LoadTarget.SCALARS:
            written += [(target, base + j, word) for j, word in enumerate(words)]
            continue
        row_lanes = [[w] * lanes for w in words]
        if not fields.get("broadcast"):
            row_lanes = [(words[j : j + lanes] + [0] * lanes)[:lanes] for j in range(0, len(words), lanes)]
        for j, values in enumerate(row_lanes):
            address = (base + i * fields["block_stride"] + j) % (1 << 16)
            written.append((target, address, sum(value << 25 * lane for lane, value in enumerate(values))))
    return written


def beats_of(config: Config, rows: list[bytes], rng: random.Random) -> list[bytes]:
    """The bus words, with junk after the end of each row."""
    W = config.bus_bytes
    padded = [row + rng.randbytes(-len(row) % W) for row in rows]
    return [row[i : i + W] for row in padded for i in range(0, len(row), W)]


class Bench:
    """Drives ``VectorLoadData`` with loads and their bus words, and collects what it writes and what ends."""

    def __init__(self, config: Config, loads: list, rng: random.Random, stall: float, bad: int | None = None) -> None:
        self.dut, self.loads, self.rng, self.stall = VectorLoadData(config), loads, rng, stall
        self.beats = [beat for _, rows in loads for beat in beats_of(config, rows, rng)]
        self.bad = bad
        self.log: list[tuple] = []
        self.cycles = 0
        self.fault: list[int] | None = None

    @staticmethod
    async def offer(ctx, port, payload) -> None:
        ctx.set(port.payload, payload)
        ctx.set(port.valid, 1)
        ready = False
        while not ready:
            _, _, ready = await ctx.tick().sample(port.ready)
        ctx.set(port.valid, 0)

    async def feed_loads(self, ctx):
        for fields, _ in self.loads:
            await self.offer(ctx, self.dut.transfers, fields)
            while self.rng.random() < self.stall:
                await ctx.tick()

    async def feed_beats(self, ctx):
        for number, beat in enumerate(self.beats):
            while self.rng.random() < self.stall:
                await ctx.tick()
            await self.offer(ctx, self.dut.beats, {"data": list(beat), "error": number == self.bad})

    async def watch(self, ctx):
        dut = self.dut
        ended = idle = 0
        while ended < len(self.loads) and idle < 300:
            self.cycles += 1
            ready = [self.rng.random() >= self.stall for _ in range(3)]
            ctx.set(dut.writes.ready, ready[0])
            ctx.set(dut.scalars.ready, ready[1])
            ctx.set(dut.done.ready, ready[2])
            sampled = await ctx.tick().sample(
                *(dut.writes.valid, dut.writes.payload, dut.scalars.valid, dut.scalars.payload),
                *(dut.program.en, dut.program.address, dut.program.data, dut.key.en, dut.key.which, dut.key.data),
                *(
                    dut.done.valid,
                    dut.done.payload,
                    dut.fault.valid,
                    dut.fault.code,
                    dut.fault.detail,
                    dut.fault.command,
                    dut.fault.address,
                ),
            )
            writes, write, scalars, scalar, program, half, instruction, key, which, key_data, done, mask, *fault = sampled[2:]
            before = len(self.log)
            if writes and ready[0]:
                self.log.append(((LoadTarget.V0, LoadTarget.V1)[write.memory], write.address, write.data))
            if scalars and ready[1]:
                self.log.append((LoadTarget.SCALARS, scalar.address, scalar.data))
            if program:
                self.log.append((LoadTarget.PROGRAM, half, instruction))
            if key:
                self.log.append((LoadTarget.KEY, which, key_data))
            if done and ready[2]:
                self.log.append(("done", mask))
                ended += 1
            idle = 0 if len(self.log) > before else idle + 1
            if fault[0]:
                self.fault = fault[1:]
                break

    def run(self) -> None:
        simulate(self.dut, self.watch, background=[self.feed_loads, self.feed_beats])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_every_element_comes_to_its_place_and_a_load_ends_after_its_last_write(config, stall):
    rng = random.Random(config.name)
    loads = [draw(config, rng, index) for index in range(20)]
    bench = Bench(config, loads, rng, stall)
    bench.run()
    assert bench.fault is None
    wanted = [one for load in loads for one in [*model(config, *load), ("done", load[0]["signal"])]]
    for i, (found, want) in enumerate(zip(bench.log, wanted, strict=False)):
        assert found == want, f"write {i}"
    assert len(bench.log) == len(wanted)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("broadcast", [0, 1])
def test_a_bus_word_or_a_word_goes_on_every_cycle(config, form, broadcast):
    rng = random.Random(1)
    size = FORMAT_BYTES[form]
    rows = [b"".join(element(form, rng) for _ in range(16 * config.bus_bytes // size)) for _ in range(4)]
    fields = {"target": LoadTarget.V1, "format": int(form), "broadcast": broadcast, "rows": 4, "row_bytes": len(rows[0])}
    fields |= {"beats": len(rows[0]) // config.bus_bytes, "row_stride": 4096, "block_stride": 1024}
    bench = Bench(config, [(fields, rows)], rng, 0.0)
    bench.run()
    words = len(model(config, fields, rows))
    assert len(bench.log) == words + 1
    assert bench.cycles <= max(words, 4 * fields["beats"]) + 8


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("form", [VectorFormat.FP32, VectorFormat.BF16])
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_a_number_that_is_infinite_or_none_ends_the_list_wherever_it_lies(config, form, stall):
    rng = random.Random(config.name)
    size = FORMAT_BYTES[form]
    for number in range(4):
        good = draw(config, rng, 1, LoadTarget.V0)
        fields, rows = draw(config, rng, 2, LoadTarget.V0)
        rows = [b"".join(element(form, rng) for _ in range(1 + fields["row_bytes"] // 4)) for _ in rows]
        fields |= {"format": int(form), "row_bytes": len(rows[0]), "beats": -(-len(rows[0]) // config.bus_bytes)}
        fields |= {"target": LoadTarget.SCALARS, "rows": 1, "broadcast": 0} if number == 3 and form is VectorFormat.FP32 else {}
        rows = rows[: fields["rows"]]
        row, place = rng.randrange(len(rows)), rng.choice([0, len(rows[0]) // size - 1, rng.randrange(len(rows[0]) // size)])
        bits = rng.getrandbits(1) << 31 | 0xFF << 23 | rng.choice([0, 1 << 22, rng.getrandbits(23)])
        bad = struct.pack("<I", bits)[4 - size :]
        rows[row] = rows[row][: place * size] + bad + rows[row][(place + 1) * size :]
        bench = Bench(config, [good, (fields, rows)], rng, stall)
        bench.run()
        assert bench.fault == [Code.VECTOR_RANGE, Check.NONE, 2, 0]
        before = [*model(config, *good), ("done", good[0]["signal"])]
        assert bench.log[: len(before)] == before
        assert not any(one[0] == "done" for one in bench.log[len(before) :])


def test_the_exponent_field_of_an_instruction_a_key_and_an_int8_says_nothing():
    config, rng = CONFIGS[0], random.Random(3)
    loads = []
    for target, rows in ((LoadTarget.PROGRAM, [b"\xff" * 48]), (LoadTarget.KEY, [b"\xff" * 8])):
        loads.append(({"target": target, "rows": 1, "row_bytes": len(rows[0]), "beats": len(rows[0]) // config.bus_bytes}, rows))
    fields = {"target": LoadTarget.V0, "format": int(VectorFormat.INT8), "rows": 1, "row_bytes": 32, "beats": 4, "block_stride": 0}
    loads.append((fields, [b"\xff\x7f" * 16]))
    bench = Bench(config, loads, rng, 0.0)
    bench.run()
    assert bench.fault is None
    assert [one for one in bench.log if one[0] != "done"] == [one for load in loads for one in model(config, *load)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_a_read_error_has_the_address_of_its_bus_word(config, stall):
    rng = random.Random(config.name)
    for _ in range(2):
        loads = [draw(config, rng, index, LoadTarget.V1) for index in range(3)]
        fields = loads[1][0]
        first = loads[0][0]["beats"] * loads[0][0]["rows"]
        row, word = rng.randrange(fields["rows"]), rng.randrange(fields["beats"])
        bench = Bench(config, loads, rng, stall, bad=first + row * fields["beats"] + word)
        bench.run()
        address = fields["address"] + row * fields["row_stride"] + word * config.bus_bytes
        assert bench.fault == [Code.AXI_READ_ERROR, Check.NONE, 1, address]
        assert sum(one[0] == "done" for one in bench.log) == 1


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_positions_count_the_groups_of_a_load(config):
    """The last group of a word, of a bus word and of the load, and each word's address."""
    rng = random.Random(config.name)
    dut = ElementPositions(config)

    async def bench(ctx):
        for index in range(30):
            fields, rows = draw(config, rng, index)
            ctx.set(dut.load, fields)
            ctx.set(dut.begin, 1)
            await ctx.tick()
            ctx.set(dut.begin, 0)
            ctx.set(dut.step, 1)
            addresses, beats, ended = [], 0, False
            for _ in range(10000):
                position = ctx.get(dut.position)
                addresses += [position.address] * position.word_ends
                beats, ended = beats + position.beat_ends, position.load_ends
                await ctx.tick()
                if ended:
                    break
            ctx.set(dut.step, 0)
            assert addresses == [address for _, address, _ in model(config, fields, rows)], fields
            assert beats == fields["rows"] * fields["beats"], fields

    simulate(dut, bench)


def test_a_gatherer_rests_while_it_is_not_enabled_and_forgets_at_clear():
    config = CONFIGS[0]
    dut = ElementGatherer(config)

    async def bench(ctx):
        ctx.set(dut.enable, 1)
        ctx.set(dut.format, VectorFormat.INT8)
        ctx.set(dut.position, {"word_ends": 1, "address": 7})
        ctx.set(dut.data, 0x04030201)
        ctx.set(dut.valid, 1)
        await ctx.tick()
        ctx.set(dut.valid, 0)
        ctx.set(dut.enable, 0)
        for _ in range(3):
            await ctx.tick()
            assert not ctx.get(dut.word_valid)
        ctx.set(dut.enable, 1)
        await ctx.tick()
        assert (ctx.get(dut.word_valid), ctx.get(dut.address)) == (1, 7)
        want = [word_of(bytes([value]), VectorFormat.INT8) for value in (1, 2, 3, 4)]
        assert [ctx.get(dut.word) >> 25 * lane & 0x1FFFFFF for lane in range(4)] == want
        ctx.set(dut.valid, 1)
        await ctx.tick()
        ctx.set(dut.valid, 0)
        ctx.set(dut.enable, 0)
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        ctx.set(dut.enable, 1)
        for _ in range(3):
            assert not ctx.get(dut.word_valid)
            await ctx.tick()

    simulate(dut, bench)
