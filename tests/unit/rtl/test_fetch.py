"""The parts of the command fetch: the list's check, the requests of descriptors, and the words' way to their queues."""

import random

import pytest
from amaranth.sim import Simulator

from loralith.rtl.dispatch import Dispatcher
from loralith.rtl.fetch import Fetch
from loralith.rtl.fetch_list import DescriptorRequests, ListCheck
from loralith.spec.commands import COMMAND_BYTES, Opcode
from loralith.spec.config import PRESETS
from loralith.spec.status import Code

TINY = PRESETS["tiny"]
WORDS = COMMAND_BYTES // TINY.bus_bytes
QUEUES = {Opcode.LOAD: "load", Opcode.COMPUTE: "compute", Opcode.STORE: "store"}


def simulate(dut, *processes) -> None:
    """Runs the first process to its end, beside the others."""
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    for process in processes[1:]:
        sim.add_testbench(process, background=True)
    sim.add_testbench(processes[0])
    sim.run()


def judged(base: int, length: int, window: tuple[int, int]) -> Code | None:
    """docs/machine.md: what is wrong with a list, if anything."""
    if base % TINY.bus_bytes:
        return Code.MISALIGNED
    if not length:
        return Code.BAD_FIELD
    return None if window[0] <= base and base + length * COMMAND_BYTES <= window[1] else Code.DRAM_WINDOW


def test_a_list_is_checked_in_whole_numbers():
    rng = random.Random(1)
    dut = ListCheck(TINY)
    seen = set()

    async def bench(ctx):
        for _ in range(200):
            length = rng.choice([0, 1, rng.randrange(1, 100), rng.getrandbits(32)])
            base = rng.choice([0, rng.getrandbits(64), rng.getrandbits(33), (1 << 64) - 8]) & -8
            end = min(base + length * COMMAND_BYTES + rng.choice([-1, 0, 0, 8]), (1 << 64) - 1)
            window = max(base + rng.choice([-8, 0, 0, 1]), 0) & (1 << 64) - 1, max(end, 0)
            base |= rng.choice([0, 0, 0, 4])
            for name, value in (("base", base), ("length", length), ("window_base", window[0]), ("window_limit", window[1])):
                ctx.set(getattr(dut, name), value)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            assert not ctx.get(dut.done)
            await ctx.tick().repeat(dut.delay - 1)
            assert ctx.get(dut.done)
            want = judged(base, length, window)
            found = Code(ctx.get(dut.code)) if ctx.get(dut.fails) else None
            assert found == want, f"list of {length} at {base:#x}, window {window[0]:#x} to {window[1]:#x}"
            seen.add(want)

    simulate(dut, bench)
    assert seen == {None, Code.MISALIGNED, Code.BAD_FIELD, Code.DRAM_WINDOW}


@pytest.mark.parametrize("seed", range(3))
def test_descriptors_are_asked_for_in_order_and_within_the_credits(seed):
    rng = random.Random(seed)
    ahead, length, base = rng.choice([1, 2, 8]), rng.randint(1, 25), 0x1_0000_0000 - 256
    dut = DescriptorRequests(TINY, ahead)
    got = []

    async def bench(ctx):
        for name, value in (("clear", 1), ("base", base), ("length", length)):
            ctx.set(getattr(dut, name), value)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        await ctx.tick()  # as the check of the list does: ``more`` follows a cycle later
        ctx.set(dut.enable, 1)
        held = 0
        for cycle in range(400):
            credit = held > 0 and rng.random() < 0.2
            ready = rng.random() < 0.6
            ctx.set(dut.credit, credit)
            ctx.set(dut.o.ready, ready)
            _, _, valid, transfer = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            taken = valid and ready
            if taken:
                got.append((transfer.address, transfer.rows, transfer.beats))
            held += taken - credit
            assert held <= ahead, f"cycle {cycle}: {held} descriptors with {ahead} credits"
            assert ctx.get(dut.requested) == len(got)

    simulate(dut, bench)
    assert got == [(base + i * COMMAND_BYTES, 1, WORDS) for i in range(length)]


def descriptor(opcode: int, rng: random.Random) -> bytes:
    return bytes([opcode]) + rng.randbytes(COMMAND_BYTES - 1)


def words_of(descriptor: bytes) -> list[bytes]:
    return [descriptor[i : i + TINY.bus_bytes] for i in range(0, COMMAND_BYTES, TINY.bus_bytes)]


def dispatch(beats: list[tuple[bytes, bool]], stall: float, cycles: int, seed: int = 0, stop_at: int = -1):
    """The (bits, index) that each queue took of ``beats`` (data, error), when, and the word that waits at the end, if any."""
    rng = random.Random(seed)
    dut = Dispatcher(TINY)
    got = {name: [] for name in QUEUES.values()}
    taken_at, last = [], {}

    async def feed(ctx):
        for data, error in beats:
            while rng.random() < stall:
                await ctx.tick()
            ctx.set(dut.i.payload, {"data": list(data), "error": error})
            ctx.set(dut.i.valid, 1)
            taken = False
            while not taken:  # not `until`, which warns where the simulation ends meanwhile
                _, _, taken = await ctx.tick().sample(dut.i.ready)
            ctx.set(dut.i.valid, 0)

    async def bench(ctx):
        for cycle in range(cycles):
            ready = {name: rng.random() >= stall for name in got}
            for name, value in ready.items():
                ctx.set(getattr(dut, name).ready, value)
            ctx.set(dut.stop, 0 <= stop_at <= cycle)
            ports = [getattr(dut, name) for name in got]
            _, _, sent, word, *sampled = await ctx.tick().sample(dut.sent, dut.word, *(s for p in ports for s in (p.valid, p.payload)))
            taken = 0
            for i, name in enumerate(got):
                if sampled[2 * i] and ready[name]:
                    taken += 1
                    got[name].append((sampled[2 * i + 1].bits, sampled[2 * i + 1].index))
                    taken_at.append(cycle)
            assert sent == taken + word.dropped * sent, f"cycle {cycle}: {taken} queues took a word that was sent {sent} times"
        last.update(waiting=ctx.get(dut.waiting), word=ctx.get(dut.word))

    simulate(dut, bench, feed)
    return got, taken_at, last


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(2))
def test_words_go_to_the_queue_of_their_opcode_with_their_index(seed, stall):
    rng = random.Random(seed)
    part = 32 // WORDS
    opcodes = [rng.choice(list(QUEUES)) for _ in range(12)]
    descriptors = [descriptor(opcode, rng) for opcode in opcodes]
    got, taken_at, _ = dispatch([(word, False) for d in descriptors for word in words_of(d)], stall, 800, seed)
    want = {name: [] for name in QUEUES.values()}
    for index, (opcode, text) in enumerate(zip(opcodes, descriptors, strict=True)):
        for i, word in enumerate(words_of(text)):
            want[QUEUES[opcode]].append((int.from_bytes(word, "little"), index >> part * i & (1 << part) - 1))
    for name, words in want.items():
        assert len(got[name]) == len(words), f"words for {name}"
        for i, (found, word) in enumerate(zip(got[name], words, strict=True)):
            assert found == word, f"word {i} for {name}"
    if not stall:
        assert taken_at == [Dispatcher.delay + i for i in range(12 * WORDS)], "one word per cycle"


@pytest.mark.parametrize("bad", [(1, 0), (1, 3), (2, WORDS - 1)])
def test_nothing_is_sent_after_a_read_error(bad):
    rng = random.Random(3)
    texts = [descriptor(Opcode.LOAD, rng) for _ in range(4)]
    beats = [(word, (d, i) == bad) for d, text in enumerate(texts) for i, word in enumerate(words_of(text))]
    got, _, last = dispatch(beats, 0.2, 300)
    assert len(got["load"]) == bad[0] * WORDS + bad[1]
    assert last["waiting"]
    assert last["word"].beat.error
    assert not last["word"].queues


def test_an_unknown_command_goes_nowhere_and_its_last_word_stays():
    rng = random.Random(4)
    texts = [descriptor(opcode, rng) for opcode in (Opcode.STORE, 9, Opcode.LOAD)]
    got, _, last = dispatch([(word, False) for text in texts for word in words_of(text)], 0.2, 300)
    assert {name: len(words) for name, words in got.items()} == {"load": 0, "compute": 0, "store": WORDS}
    assert (last["waiting"], last["word"].known, last["word"].final) == (1, 0, 1)
    assert bytes(last["word"].beat.data) == words_of(texts[1])[-1]


def test_stop_holds_what_is_not_sent():
    rng = random.Random(5)
    beats = [(word, False) for word in words_of(descriptor(Opcode.COMPUTE, rng)) * 3]
    got, taken_at, last = dispatch(beats, 0.0, 60, stop_at=20)
    assert taken_at[-1] == 20
    assert len(got["compute"]) == 20 - Dispatcher.delay + 1
    assert last["waiting"]


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_a_list_in_memory_reaches_the_queues_and_the_fetch_ends(stall):
    rng = random.Random(8)
    base, window = 0x1_0000_0000 - 3 * COMMAND_BYTES, (0xFFFF_0000, 0x1_0001_0000)
    opcodes = [rng.choice(list(QUEUES)) for _ in range(11)]
    texts = [descriptor(opcode, rng) for opcode in opcodes]
    image, dut = b"".join(texts), Fetch(TINY)
    got = {name: [] for name in QUEUES.values()}
    bursts = []

    async def memory(ctx):
        while True:
            ctx.set(dut.bursts.ready, rng.random() >= stall)
            valid_ready = dut.bursts.valid & dut.bursts.ready
            _, _, taken, burst = await ctx.tick().sample(valid_ready, dut.bursts.payload)
            ctx.set(dut.bursts.ready, 0)
            if taken:
                bursts.append((burst.address, burst.beats))
                for i in range(burst.beats):
                    at = burst.address - base + i * TINY.bus_bytes
                    ctx.set(dut.beats.payload, {"data": list(image[at : at + TINY.bus_bytes]), "error": 0})
                    ctx.set(dut.beats.valid, 1)
                    _, _, ready = await ctx.tick().sample(dut.beats.ready)
                    assert ready, "beats are always taken"
                    ctx.set(dut.beats.valid, 0)

    async def bench(ctx):
        values = {"list_base": base, "list_length": len(texts), "window_base": window[0], "window_limit": window[1]}
        for name, value in values.items():
            ctx.set(getattr(dut, name), value)
        for pulse in (dut.control.clear, dut.start):
            ctx.set(pulse, 1)
            await ctx.tick()
            ctx.set(pulse, 0)
        ports, idle = [getattr(dut, name) for name in got], 0
        for _ in range(3000):
            ready = [rng.random() >= stall for _ in ports]
            for port, value in zip(ports, ready, strict=True):
                ctx.set(port.ready, value)
            _, _, busy, *sampled = await ctx.tick().sample(dut.control.busy, *(s for p in ports for s in (p.valid, p.payload)))
            for i, name in enumerate(got):
                if sampled[2 * i] and ready[i]:
                    got[name].append(sampled[2 * i + 1].bits)
            idle += not busy
            if idle > 10:
                break
        assert idle > 10, "the fetch does not end"
        assert not ctx.get(dut.fault.valid)

    simulate(dut, bench, memory)
    assert bursts == [(base + i * COMMAND_BYTES, WORDS) for i in range(len(texts))]
    for opcode, name in QUEUES.items():
        want = [
            int.from_bytes(word, "little") for code, text in zip(opcodes, texts, strict=True) if code == opcode for word in words_of(text)
        ]
        assert len(got[name]) == len(want), f"words for {name}"
        for i, (one, other) in enumerate(zip(got[name], want, strict=True)):
            assert one == other, f"word {i} for {name}"
