"""The burst splitter against a loop over bytes, and the gate against the window."""

import random

import pytest

from loralith.rtl.bursts import BurstSplitter
from loralith.rtl.gate import BurstGate
from loralith.spec.config import Config
from loralith.verif.block_test import assert_each_equal, simulate


def config(bus_bytes: int, max_burst: int) -> Config:
    return Config("test", 16, 16, bus_bytes, 4, 65536, 65536, 65536, 1024, max_burst=max_burst)


def model(transfer: dict, bus_bytes: int, max_burst: int) -> list[tuple[int, int, int]]:
    """Word by word: a new burst where a row begins, a 4 KiB boundary begins or the burst is full."""
    bursts = []
    for row in range(transfer["rows"]):
        for i in range(transfer["beats"]):
            address = transfer["address"] + row * transfer["stride"] + i * bus_bytes
            if i == 0 or address % 4096 == 0 or bursts[-1][1] == max_burst:
                bursts.append([address, 0, 0])
            bursts[-1][1] += 1
    bursts[-1][2] = 1
    return [tuple(b) for b in bursts]


def split(bus_bytes, max_burst, transfers, stall, seed=0):
    dut = BurstSplitter(config(bus_bytes, max_burst))
    rng, got, cycles = random.Random(seed), [], []
    number = sum(len(model(t, bus_bytes, max_burst)) for t in transfers)

    async def feed(ctx):
        for transfer in transfers:
            ctx.set(dut.i.payload, transfer)
            ctx.set(dut.i.valid, 1)
            taken = False
            while not taken:
                _, _, taken = await ctx.tick().sample(dut.i.ready)
            ctx.set(dut.i.valid, 0)

    async def take(ctx):
        held, cycle = None, 0
        while len(got) < number:
            ctx.set(dut.o.ready, rng.random() >= stall)
            _, _, valid, ready, payload = await ctx.tick().sample(dut.o.valid, dut.o.ready, dut.o.payload)
            cycle += 1
            burst = (payload.address, payload.beats, payload.last)
            assert held is None or (valid and burst == held), "a burst changed before it was taken"
            held = burst if valid and not ready else None
            if valid and ready:
                got.append(burst)
                cycles.append(cycle)
        for _ in range(5):
            await ctx.tick()
        assert not ctx.get(dut.o.valid)
        assert not ctx.get(dut.busy)

    simulate(dut, take, background=[feed])
    return got, cycles


@pytest.mark.parametrize(("bus_bytes", "max_burst"), [(8, 64), (8, 1), (16, 5), (32, 256), (64, 64)])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_bursts_cover_each_row_and_cross_no_line(bus_bytes, max_burst, stall):
    rng = random.Random(max_burst)
    transfers = [
        {
            "address": rng.choice([0, 4096 - bus_bytes, 0xFFFF_F000, rng.randrange(0, 1 << 40, bus_bytes)]),
            "rows": rng.choice([1, 2, 9]),
            "beats": rng.choice([1, 2, max_burst, max_burst + 1, rng.randint(1, 300)]),
            "stride": rng.randrange(0, 1 << 14, bus_bytes),
        }
        for _ in range(20)
    ]
    got, _ = split(bus_bytes, max_burst, transfers, stall)
    wanted = [(burst, transfer) for transfer in transfers for burst in model(transfer, bus_bytes, max_burst)]
    assert_each_equal("burst", got, [burst for burst, _ in wanted], [transfer for _, transfer in wanted])


def test_one_burst_per_cycle_while_rows_fit_one():
    transfer = {"address": 64, "rows": 200, "beats": 1, "stride": 48}
    got, cycles = split(16, 64, [transfer], 0.0)
    assert len(got) == 200
    assert cycles[-1] - cycles[0] == 199


@pytest.mark.parametrize(
    ("address", "beats", "passes"),
    [
        (0x1000, 1, True),
        (0x0FF8, 1, False),
        (0x1010, 4, True),
        (0x1010, 5, True),  # the last word holds the window's last bytes
        (0x1010, 6, False),
        (0x1FF8, 1, False),
        (0x0000, 256, False),
        (0x1008, 0, False),
    ],
)
@pytest.mark.parametrize("limit", [0x1031, 0x1034, 0x1038])
def test_the_gate_passes_bursts_in_the_window_only(address, beats, passes, limit):
    dut = BurstGate(config(8, 64))

    async def bench(ctx):
        ctx.set(dut.window_base, 0x1000)
        ctx.set(dut.window_limit, limit)
        ctx.set(dut.o.ready, 1)
        for source, (tried, expected) in enumerate(((0x1000, True), (address, passes))):
            ctx.set(dut.i_source, source)
            ctx.set(dut.i.payload, {"address": tried, "beats": 1 if tried == 0x1000 and expected else beats})
            ctx.set(dut.i.valid, 1)
            await ctx.tick()
            ctx.set(dut.i.valid, 0)
            assert not ctx.get(dut.o.valid), "the verdict takes a cycle"
            await ctx.tick()
            assert ctx.get(dut.o.valid) == expected, f"burst at {tried:#x}"
            assert not expected or ctx.get(dut.o_source) == source
            await ctx.tick()
        assert ctx.get(dut.refused) == (not passes)
        if not passes:
            assert ctx.get(dut.refused_address) == address
            assert ctx.get(dut.refused_source) == 1, "the requester of the refused burst"
            ctx.set(dut.i.valid, 1)
            assert not ctx.get(dut.i.ready), "nothing follows a refused burst"

    simulate(dut, bench)


@pytest.mark.parametrize(("limit", "passes"), [(0x1030, True), (0x1028, False)])
def test_a_word_that_begins_at_the_limit_is_outside(limit, passes):
    dut = BurstGate(config(8, 64))

    async def bench(ctx):
        ctx.set(dut.window_limit, limit)
        ctx.set(dut.i.payload, {"address": 0x1028, "beats": 1})
        ctx.set(dut.i.valid, 1)
        await ctx.tick().repeat(2)
        assert ctx.get(dut.o.valid) == passes

    simulate(dut, bench)


@pytest.mark.parametrize("bus_bytes", [8, 16, 32, 64])
def test_a_burst_of_more_than_a_line_does_not_wrap_round_the_gate(bus_bytes):
    dut = BurstGate(config(bus_bytes, 64))

    async def bench(ctx):
        ctx.set(dut.window_limit, 1 << 32)
        ctx.set(dut.i.payload, {"address": 0x2000 - bus_bytes, "beats": min(4096 // bus_bytes + 2, 511)})
        ctx.set(dut.i.valid, 1)
        await ctx.tick()
        assert not ctx.get(dut.o.valid)
        await ctx.tick()
        assert ctx.get(dut.refused)

    simulate(dut, bench)
