# amaranth: UnusedElaboratable=no
"""The memory controller's parts, each against a model in integers."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, replace

import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import Component
from amaranth.sim import Simulator

from helpers.streams import feeder
from loralith.soc.sdram.arbiter import DirectionArbiter
from loralith.soc.sdram.bank import Bank
from loralith.soc.sdram.data_path import BeatReader, BeatWriter
from loralith.soc.sdram.gate import CreditGate
from loralith.soc.sdram.opener import RowOpener
from loralith.soc.sdram.scheduler import Scheduler
from loralith.soc.sdram.split import ChunkSplitter
from loralith.spec.sdram import MOST_POSTPONED, ULX3S, SdramTiming

TIMING = replace(SdramTiming.of(ULX3S, 100), power_up=50)
IDS = 2
Fields = dict[str, int]


def simulate(dut: Component | Module, *benches, background=()) -> None:
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    for bench in background:
        sim.add_testbench(bench, background=True)
    for bench in benches:
        sim.add_testbench(bench)
    sim.run()


def taker(stream, count: int, rng: random.Random, stall: float, got: list[Fields], names: tuple[str, ...], limit: int = 20_000):
    async def take(ctx) -> None:
        held = None
        for _ in range(limit):
            if len(got) == count:
                return
            ctx.set(stream.ready, rng.random() >= stall)
            _, _, valid, ready, payload = await ctx.tick().sample(stream.valid, stream.ready, stream.payload)
            fields = {name: int(getattr(payload, name)) for name in names}
            assert held is None or (valid and fields == held), "a payload changed before it was taken"
            held = fields if valid and not ready else None
            if valid and ready:
                got.append(fields)
        raise AssertionError(f"{len(got)} of {count} in {limit} cycles")

    return take


CHUNK = ("write", "bank", "row", "column", "beats", "id", "last", "error")


def chunks_of(burst: Fields, write: int) -> list[Fields]:
    """Beat by beat: a new chunk at every multiple of sixteen beats. A row has 128."""
    found: list[Fields] = []
    for i in range(burst["length"] + 1):
        beat = burst["beat"] + i
        if i == 0 or beat % 16 == 0:
            row = beat // 512
            common = {"write": write, "id": burst["id"], "error": burst["error"], "last": 0, "beats": -1}
            found.append(common | {"column": beat % 128, "row": row, "bank": beat // 128 % 4 ^ row % 4})
        found[-1]["beats"] += 1
    found[-1]["last"] = 1
    return found


@pytest.mark.parametrize("write", [0, 1])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_the_splitter_cuts_at_every_sixteenth_beat(write: int, stall: float) -> None:
    rng = random.Random(write)
    bursts = [
        {"beat": rng.randrange((1 << 22) - 256), "length": rng.choice([0, 1, 15, 16, 17, 255, rng.randrange(256)]), "id": 1, "error": i % 2}
        for i in range(40)
    ]
    expected = [chunk for burst in bursts for chunk in chunks_of(burst, write)]
    dut, got = ChunkSplitter(ULX3S, IDS, write=bool(write)), []
    simulate(dut, feeder(dut.i, bursts, rng, stall), taker(dut.o, len(expected), rng, stall, got, CHUNK))
    assert got == expected, bursts


def random_chunks(rng: random.Random, count: int, banks: int = 4, rows: int = 3, **fixed: int) -> list[Fields]:
    found = []
    for _ in range(count):
        beats = rng.choice([0, 0, 1, 3, 15])
        chunk = {"write": rng.randrange(2), "bank": rng.randrange(banks), "row": rng.randrange(rows), "beats": beats, "error": 0}
        found.append(chunk | {"column": rng.randrange(128 - beats), "id": rng.randrange(4), "last": rng.randrange(2)} | fixed)
    return found


@pytest.mark.parametrize("credits", [0, 32])
def test_the_gate_passes_a_chunk_when_there_are_credits_for_all_its_beats(credits: int) -> None:
    rng, got, level = random.Random(credits), [], credits
    dut = CreditGate(ULX3S, IDS, 32, credits=credits)
    chunks = random_chunks(rng, 150)

    async def count(ctx) -> None:
        nonlocal level
        while True:
            add = level < 32 and rng.random() < 0.4
            ctx.set(dut.credit, add)
            _, _, valid, ready, beats = await ctx.tick().sample(dut.o.valid, dut.o.ready, dut.o.payload.beats)
            if valid and ready:
                assert level >= beats + 1, "a chunk went ahead of its credits"
                level -= beats + 1
            level += add

    simulate(dut, feeder(dut.i, chunks, rng, 0.2), taker(dut.o, len(chunks), rng, 0.2, got, CHUNK), background=[count])
    assert got == chunks


def test_a_gate_with_less_than_a_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="at least a chunk's 16 beats, not 8"):
        CreditGate(ULX3S, IDS, 8, credits=0)


def test_the_arbiter_stays_with_a_direction_and_starves_none() -> None:
    rng, got = random.Random(3), []
    dut = DirectionArbiter(ULX3S, IDS, run=64)
    reads, writes = (random_chunks(rng, 100, write=write, beats=7) for write in (0, 1))
    total = len(reads) + len(writes)
    simulate(dut, feeder(dut.read, reads, rng, 0), feeder(dut.write, writes, rng, 0), taker(dut.o, total, rng, 0.3, got, CHUNK))
    assert [chunk for chunk in got if not chunk["write"]] == reads
    assert [chunk for chunk in got if chunk["write"]] == writes
    runs = [len(run) for run in "".join(str(chunk["write"]) for chunk in got[:160]).replace("01", "0 1").replace("10", "1 0").split()]
    assert set(runs[1:-1]) == {8}, "64 beats are eight chunks of eight"


def test_a_bank_takes_each_command_at_its_time_and_not_before() -> None:
    """Random commands as soon as they are allowed, or later; the flags against the cycles of the last commands."""
    rng, dut, timing = random.Random(4), Bank(TIMING, chunks=4), TIMING

    async def bench(ctx) -> None:
        never = -1000
        active = precharge = read = write = never
        is_open, pending = False, 0
        for now in range(3000):
            can_precharge = now >= max(active + timing.ras, read + 4, write + 3 + timing.wr) and not pending
            expected = {
                "open": is_open,
                "can_activate": not is_open and now >= precharge + timing.rp,
                "can_column": is_open and now >= active + timing.rcd,
                "can_precharge": is_open and can_precharge,
                "drained": can_precharge,
            }
            assert {name: bool(ctx.get(getattr(dut, name))) for name in expected} == expected, now
            choice = rng.choice(["activate", "precharge", "read", "write", "push", "none"])
            allowed = {
                "activate": expected["can_activate"],
                "precharge": expected["can_precharge"],
                "read": expected["can_column"] and pending > 0 and now >= max(read, write) + 4,
                "write": expected["can_column"] and pending > 0 and now >= max(read, write) + 4,
                "push": pending < 4,
                "none": True,
            }[choice]
            pulses = dict.fromkeys(("activate", "precharge", "read", "write", "push", "done"), 0)
            if allowed and choice != "none":
                pulses[choice] = 1
            if allowed and choice in ("read", "write"):
                pulses["done"] = 1
            for name, value in pulses.items():
                ctx.set(getattr(dut, name), value)
            await ctx.tick()
            if pulses["activate"]:
                active, is_open = now, True
            if pulses["precharge"]:
                precharge, is_open = now, False
            read, write = (now if pulses["read"] else read), (now if pulses["write"] else write)
            pending += pulses["push"] - pulses["done"]

    simulate(dut, bench)


def test_times_that_one_counter_does_not_cover_are_refused() -> None:
    with pytest.raises(ValueError, match="ras must be at most rcd \\+ 4 cycles, not 9"):
        Bank(replace(TIMING, ras=9), chunks=4)


def test_an_rrd_that_two_actives_do_not_keep_is_refused() -> None:
    with pytest.raises(ValueError, match="rrd must be at most 3 cycles, not 4"):
        RowOpener(ULX3S, replace(TIMING, rrd=4), IDS)


@dataclass
class Checker:
    """The chip's rules in cycles, from the commands alone; raises AssertionError."""

    timing: SdramTiming
    now: int = 0

    def __post_init__(self) -> None:
        self.rows: list[int | None] = [None] * 4
        self.last: dict[tuple[str, int], int] = {}
        self.started: int | None = None
        self.refreshes = 0
        self.columns: list[tuple[int, int, int, int]] = []

    def need(self, what: str, bank: int, cycles: int) -> None:
        assert self.now - self.last.get((what, bank), -1000) >= cycles, f"{cycles} cycles after {what} of bank {bank} at {self.now}"

    def step(self, operation: int, bank: int, address: int) -> None:
        timing = self.timing
        if operation != 7:
            self.need("refresh", 0, timing.rfc)
            self.need("mode", 0, timing.mrd)
            assert self.now >= timing.power_up
        if operation == 3:
            assert self.rows[bank] is None
            assert self.started is not None
            self.need("precharge", bank, timing.rp)
            self.need("active", bank, timing.rc)
            for other in range(4):
                self.need("active", other, timing.rrd)
            self.rows[bank] = address
            self.last["active", bank] = self.now
        elif operation == 2:
            for one in range(4) if address >> 10 & 1 else [bank]:
                self.need("active", one, timing.ras)
                self.need("read", one, 4)
                self.need("write", one, 3 + timing.wr)
                self.rows[one] = None
                self.last["precharge", one] = self.now
        elif operation in (4, 5):
            row = self.rows[bank]
            assert row is not None, "a column command to a closed bank"
            self.need("active", bank, timing.rcd)
            for one in range(4):
                self.need("read", one, 4 + (timing.cas + 1) * (operation == 4))
                self.need("write", one, 4)
            self.last["write" if operation == 4 else "read", bank] = self.now
            self.columns.append((int(operation == 4), bank, row, address // 4))
        elif operation in (0, 1):
            assert self.rows == [None] * 4
            for one in range(4):
                self.need("precharge", one, timing.rp)
            self.last["refresh" if operation == 1 else "mode", 0] = self.now
            self.refreshes += operation == 1
            if operation == 0:
                assert self.refreshes >= 8
                assert address == timing.cas << 4 | 2
                self.started, self.refreshes = self.now, 0
        if self.started is not None:
            assert (self.now - self.started) // timing.interval - self.refreshes <= MOST_POSTPONED, "a refresh is late"
        self.now += 1


@pytest.mark.parametrize(("cas", "stall", "rows", "banks"), [(3, 0.0, 3, 4), (2, 0.0, 2, 2), (3, 0.9, 3, 4), (3, 0.0, 500, 1)])
def test_the_scheduler_keeps_the_chip_s_rules_and_the_chunks_order(cas: int, stall: float, rows: int, banks: int) -> None:
    timing = replace(SdramTiming.of(ULX3S, 100, cas), power_up=50, interval=500)
    rng, checker = random.Random(cas + banks), Checker(timing)
    chunks = random_chunks(rng, 250, banks, rows)
    expected = [(c["write"], c["bank"], c["row"], c["column"] + i) for c in chunks for i in range(c["beats"] + 1)]
    tags = [(c["write"], c["id"], int(c["last"] and i == c["beats"])) for c in chunks for i in range(c["beats"] + 1)]
    dut, seen = Scheduler(ULX3S, timing, IDS), []

    async def watch(ctx) -> None:
        while len(checker.columns) < len(expected):
            _, _, command, column = await ctx.tick().sample(dut.command, dut.column)
            checker.step(command.operation.value, command.bank, command.address)
            assert bool(column.valid) == (command.operation.value in (4, 5))
            if column.valid:
                seen.append((column.write, column.id, column.last))
            assert checker.now < 60_000

    simulate(dut, watch, background=[feeder(dut.i, chunks, rng, stall)])
    assert checker.columns == expected, chunks
    assert seen == tags
    if not stall and banks == 4:
        assert checker.refreshes > 0


def test_an_open_row_is_read_after_the_scheduler_s_delay() -> None:
    dut, chunk = Scheduler(ULX3S, TIMING, IDS), random_chunks(random.Random(0), 1, beats=0, write=0)[0]
    waits: list[int] = []

    async def bench(ctx) -> None:
        await ctx.tick().until(dut.started)
        await ctx.tick().repeat(20)
        for _ in range(2):  # the first one opens the row
            ctx.set(dut.i.payload, chunk)
            ctx.set(dut.i.valid, 1)
            await ctx.tick()
            ctx.set(dut.i.valid, 0)
            for wait in range(1, 20):
                if ctx.get(dut.column.valid):
                    waits.append(wait)
                await ctx.tick()

    simulate(dut, bench)
    assert waits[1] == dut.delay


def test_beats_go_out_as_words_and_come_in_again() -> None:
    """What the writer puts on the pins comes back to the reader a number of cycles later, as a chip would give it."""
    rng = random.Random(6)
    m, writer, reader = Module(), BeatWriter(IDS), BeatReader(IDS, latency=5)
    m.submodules.writer, m.submodules.reader = writer, reader
    beats = [rng.randrange(1 << 64) for _ in range(30)]
    got: list[int] = []

    async def bench(ctx) -> None:
        pins: deque[tuple[int, int]] = deque([(0, 0)] * 4)  # from the cycle of the WRITE to the word at dq: five, one of them the writer's
        for beat in beats:
            ctx.set(writer.i.payload, {"data": beat, "strobe": 0xFF})
            ctx.set(writer.i.valid, 1)
            for cycle in range(rng.choice([4, 4, 6])):
                ctx.set(writer.column, {"valid": cycle == 0, "write": 1, "id": 1, "last": 1, "error": 0})
                ctx.set(reader.column, {"valid": cycle == 0, "write": 0, "id": 2, "last": 0, "error": 0})
                pins.append((ctx.get(writer.oe), ctx.get(writer.dq)))
                ctx.set(reader.dq, pins.popleft()[1])
                if ctx.get(reader.o.valid):
                    got.append(ctx.get(reader.o.beat.data))
                    assert ctx.get(reader.o.beat.id) == 2
                await ctx.tick()
        assert all(not ctx.get(writer.dqm) for _ in range(1))

    simulate(m, bench)
    assert got == beats[: len(got)]
    assert len(got) >= len(beats) - 3


@pytest.mark.parametrize("error", [0, 1])
def test_the_writer_masks_what_is_not_to_be_written(error: int) -> None:
    dut, masks = BeatWriter(IDS), []

    async def bench(ctx) -> None:
        ctx.set(dut.i.payload, {"data": 0, "strobe": 0b10_11_00_01})
        ctx.set(dut.column, {"valid": 1, "write": 1, "id": 0, "last": 1, "error": error})
        await ctx.tick()
        ctx.set(dut.column.valid, 0)
        assert ctx.get(dut.done.valid)
        assert ctx.get(dut.done.error) == error
        for _ in range(4):
            assert ctx.get(dut.oe)
            masks.append(ctx.get(dut.dqm))
            await ctx.tick()
        assert not ctx.get(dut.oe)

    simulate(dut, bench)
    assert masks == ([3] * 4 if error else [0b10, 0b11, 0b00, 0b01])


def test_times_in_cycles_of_the_clock() -> None:
    at = SdramTiming.of(ULX3S, 100, 2)
    assert (at.rc, at.ras, at.rp, at.rcd, at.wr, at.rrd, at.rfc, at.mrd) == (7, 5, 2, 2, 2, 2, 7, 2)
    assert at.power_up == 20_000
    assert at.interval * (8192 + 2 * MOST_POSTPONED) <= 6_400_000
    slow = SdramTiming.of(ULX3S, 80)
    assert (slow.rc, slow.ras, slow.rp, slow.rcd, slow.rfc) == (6, 4, 2, 2, 6)


@pytest.mark.parametrize(("mhz", "cas", "says"), [(100, 4, "CAS latency must be one of 2, 3, not 4"), (101, 2, "10..100 MHz, not 101")])
def test_a_clock_that_the_chip_does_not_take_is_refused(mhz: float, cas: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SdramTiming.of(ULX3S, mhz, cas)
