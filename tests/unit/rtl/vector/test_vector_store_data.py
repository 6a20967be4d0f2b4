"""STOREs of the vector unit's memories: words and scalars to bus words with strobes, against docs/machine.md."""

import random

import pytest

from loralith.rtl.vector.store_data import BeatPacker, VectorStoreData, WordRequests
from loralith.spec.commands import FORMAT_BYTES, StoreSource, VectorFormat
from loralith.spec.config import Config
from loralith.verif.block_test import simulate

CONFIGS = [
    Config("tiny", 4, 4, 8, 4, 4096, 4096, 2048, 1024, vector_lanes=4),
    Config("few-lanes", 4, 4, 16, 4, 4096, 4096, 2048, 1024, vector_lanes=2),
    Config("many-lanes", 16, 4, 8, 4, 16384, 16384, 8192, 1024, vector_lanes=16),
    Config("wide", 16, 16, 32, 4, 16384, 16384, 16384, 1024, vector_lanes=16),
]
MEMORIES = {StoreSource.V0: 0, StoreSource.V1: 1}


def word(rng: random.Random, form: VectorFormat) -> int:
    """Any bits, the exponents at the edges among them; or, of INT8, what an instruction leaves of a number."""
    if form is VectorFormat.INT8:
        return rng.randrange(256)
    exponent = rng.choice([0, 1, 127, 254, rng.randrange(1, 255)])
    return rng.getrandbits(1) << 24 | exponent << 16 | rng.getrandbits(16)


def element(value: int, form: VectorFormat) -> bytes:
    if form is VectorFormat.INT8:
        return bytes([value & 0xFF])
    if form is VectorFormat.FP32 and not value >> 16 & 0xFF:
        value = 0  # a word with the exponent field 0 is zero, whatever its other bits say
    return (value << 7).to_bytes(4, "little")[4 - FORMAT_BYTES[form] :]


class Memory:
    """What the unit's memories hold, and how a store's rows come from them."""

    def __init__(self, config: Config, rng: random.Random, form: VectorFormat) -> None:
        self.lanes = config.vector_lanes
        self.words = [[[word(rng, form) for _ in range(self.lanes)] for _ in range(256)] for _ in range(2)]
        self.scalars = [word(rng, VectorFormat.FP32) for _ in range(32)]

    def packed(self, memory: int, address: int) -> int:
        return sum(value << 25 * lane for lane, value in enumerate(self.words[memory][address % 256]))

    def rows(self, fields: dict) -> list[bytes]:
        form = VectorFormat(fields["format"])
        count = fields["row_bytes"] // FORMAT_BYTES[form]
        if fields["source"] == StoreSource.SCALARS:
            return [b"".join(element(self.scalars[fields["base"] + j], form) for j in range(count))]
        memory, rows = self.words[MEMORIES[fields["source"]]], []
        for i in range(fields["rows"]):
            first = fields["base"] + i * fields["block_stride"]
            places = [(first + j, 0) if fields["broadcast"] else (first + j // self.lanes, j % self.lanes) for j in range(count)]
            rows.append(b"".join(element(memory[at % 256][lane], form) for at, lane in places))
        return rows


def draw(config: Config, rng: random.Random, form: VectorFormat, index: int) -> dict:
    source = rng.choice([StoreSource.V0, StoreSource.V1] + [StoreSource.SCALARS] * (form is VectorFormat.FP32))
    fields = {"source": source, "format": int(form), "broadcast": rng.randrange(2), "rows": rng.randint(1, 4), "index": index}
    count = rng.choice([1, config.vector_lanes, rng.randint(1, 3 * max(config.vector_lanes, config.bus_bytes))])
    fields |= {"base": rng.randrange(100), "block_stride": rng.randrange(4)}
    if source == StoreSource.SCALARS:
        count = rng.randint(1, 16)
        fields |= {"rows": 1, "broadcast": 0, "base": rng.randrange(16), "block_stride": 0}
    fields["row_bytes"] = count * FORMAT_BYTES[form]
    return fields | {"beats": -(-fields["row_bytes"] // config.bus_bytes)}


def beats_of(config: Config, rows: list[bytes]) -> list[tuple[bytes, int]]:
    """(bytes that are written, strobe) of each bus word."""
    W = config.bus_bytes
    parts = [row[i : i + W] for row in rows for i in range(0, len(row), W)]
    return [(part, (1 << len(part)) - 1) for part in parts]


def run(config: Config, memory: Memory, stores: list[dict], rng: random.Random, stall: float, delay: int) -> tuple[list, int]:
    """The bus words, and the cycles that they took; every read waits as ``stall`` says and is answered ``delay`` cycles later."""
    dut = VectorStoreData(config)
    wanted = sum(fields["rows"] * fields["beats"] for fields in stores)
    got: list[tuple[bytes, int]] = []
    cycles = 0

    async def feed(ctx):
        for fields in stores:
            ctx.set(dut.transfers.payload, fields)
            ctx.set(dut.transfers.valid, 1)
            ready = False
            while not ready:
                _, _, ready = await ctx.tick().sample(dut.transfers.ready)
            ctx.set(dut.transfers.valid, 0)
            while rng.random() < stall:
                await ctx.tick()

    async def memories(ctx):
        answers: list[int | None] = [None] * delay
        address = 0
        while True:
            ready = rng.random() >= stall
            ctx.set(dut.reads.ready, ready)
            answer = answers.pop(0)
            ctx.set(dut.read_data.valid, answer is not None)
            ctx.set(dut.read_data.data, rng.getrandbits(25) if answer is None else answer)
            ctx.set(dut.scalars.data, memory.scalars[address])
            _, _, valid, read, address = await ctx.tick().sample(dut.reads.valid, dut.reads.payload, dut.scalars.address)
            answers.append(memory.packed(read.memory, read.address) if valid and ready else None)

    async def take(ctx):
        nonlocal cycles
        while len(got) < wanted:
            cycles += 1
            assert cycles < 40 * wanted + 200, f"bus word {len(got)} does not come"
            ready = rng.random() >= stall
            ctx.set(dut.beats.ready, ready)
            _, _, valid, beat = await ctx.tick().sample(dut.beats.valid, dut.beats.payload)
            if valid and ready:
                strobe = beat.strobe
                got.append((bytes(byte for i, byte in enumerate(beat.data) if strobe >> i & 1), strobe))
        for _ in range(20):
            _, _, valid, asks = await ctx.tick().sample(dut.beats.valid, dut.reads.valid)
            assert valid + asks == 0, "a bus word or a read too many"

    simulate(dut, take, background=[feed, memories])
    return got, cycles


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("form", list(VectorFormat))
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_the_bytes_of_a_store_come_from_its_words(config, form, stall):
    rng = random.Random(f"{config.name}{form}")
    memory = Memory(config, rng, form)
    stores = [draw(config, rng, form, index) for index in range(15)]
    got, _ = run(config, memory, stores, rng, stall, rng.choice([2, 3, 5]))
    wanted = [(store, beat) for store in stores for beat in beats_of(config, memory.rows(store))]
    for i, ((store, want), found) in enumerate(zip(wanted, got, strict=True)):
        assert found == want, f"bus word {i}, of {store}"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("form", list(VectorFormat))
@pytest.mark.parametrize("broadcast", [0, 1])
def test_a_word_or_a_bus_word_goes_on_every_cycle(config, form, broadcast):
    rng = random.Random(2)
    row_bytes = 16 * config.bus_bytes
    fields = {"source": StoreSource.V1, "format": int(form), "broadcast": broadcast, "rows": 3, "row_bytes": row_bytes, "beats": 16}
    fields |= {"base": 0, "block_stride": 5}
    memory = Memory(config, rng, form)
    got, cycles = run(config, memory, [fields], rng, 0.0, 3)
    assert got == beats_of(config, memory.rows(fields))
    words = row_bytes // FORMAT_BYTES[form] // (1 if broadcast else config.vector_lanes)
    assert cycles <= 3 * max(16, words) + 14


def test_a_request_waits_while_the_queue_is_full_and_clear_ends_a_store():
    dut = WordRequests()

    async def bench(ctx):
        ctx.set(dut.store, {"rows": 3, "base": 5, "block_stride": 10})
        ctx.set(dut.words, 3)
        ctx.set(dut.begin, 1)
        await ctx.tick()
        ctx.set(dut.begin, 0)
        assert not ctx.get(dut.o.valid)
        ctx.set(dut.not_full, 1)
        ctx.set(dut.o.ready, 1)
        for address in (5, 6, 7, 15, 16, 17, 25, 26, 27):
            assert (ctx.get(dut.o.valid), ctx.get(dut.o.payload)) == (1, address)
            await ctx.tick()
        assert ctx.get(dut.done)
        assert not ctx.get(dut.o.valid)
        ctx.set(dut.begin, 1)
        await ctx.tick()
        ctx.set(dut.begin, 0)
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        assert ctx.get(dut.done)
        assert not ctx.get(dut.o.valid)

    simulate(dut, bench)


def test_a_packer_is_done_with_the_last_bus_word_that_is_taken():
    config = CONFIGS[0]
    dut = BeatPacker(config)

    async def bench(ctx):
        assert ctx.get(dut.done)
        ctx.set(dut.store, {"rows": 1, "row_bytes": 12, "beats": 2})
        ctx.set(dut.words, 1)
        ctx.set(dut.begin, 1)
        await ctx.tick()
        ctx.set(dut.begin, 0)
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.i.payload, 127 << 16 | 128 << 41 | 129 << 66)
        seen = []
        for cycle in range(16):
            ready = cycle % 4 == 3
            ctx.set(dut.o.ready, ready)
            assert ctx.get(dut.done) == (len(seen) == 2)
            _, _, taken, valid, beat = await ctx.tick().sample(dut.i.ready, dut.o.valid, dut.o.payload)
            if taken:
                ctx.set(dut.i.valid, 0)
            if valid and ready:
                seen.append((bytes(beat.data)[: beat.strobe.bit_count()], beat.strobe))
        assert seen == [(bytes.fromhex("0000803f00000040"), 0xFF), (bytes.fromhex("00008040"), 0x0F)]

    simulate(dut, bench)
