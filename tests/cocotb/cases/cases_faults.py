"""What goes wrong at the bus pins: error responses, windows, watchdog, abort, broken commands. The next list always runs right."""

import random
from pathlib import Path

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles

from loralith.spec.commands import COMMAND_BYTES
from loralith.spec.status import Code, Unit
from loralith.verif.bench.bench import Bench, Refused
from loralith.verif.bench.pins import DECERR, OKAY, SLVERR
from loralith.verif.bench.program import Program
from loralith.verif.bench.runner import job

FLIPS = 60
WATCHDOG = 3000


class Faulty:
    """The first program of the job, on the bench's own memory."""

    def __init__(self, dut) -> None:
        self.dut = dut
        self.program = Program.load(Path(job()["programs"][0]))
        self.bench = Bench(dut)
        self.memory = self.bench.attach_pins(self.program.base, self.program.before)
        self.window = self.program.base, self.program.base + self.program.before.size

    async def open(self) -> None:
        await self.bench.reset()
        await self.bench.open(*self.window)
        await self.bench.set("WATCHDOG", WATCHDOG)

    async def run(self, image: np.ndarray | None = None):
        self.memory.image = (self.program.before if image is None else image).copy()
        return await self.bench.run(self.program.list_base, self.program.list_length)

    async def good_list_runs(self) -> None:
        self.memory.respond = lambda address, is_write: OKAY
        assert (await self.run())[0] is Code.OK
        assert not self.program.difference(self.memory.image)
        assert not self.memory.outside


@cocotb.test
async def read_errors(dut) -> None:
    it = Faulty(dut)
    await it.open()
    rng = random.Random(1)
    addresses: list[int] = []

    def note(address: int, is_write: bool) -> int:
        if not is_write:
            addresses.append(address)
        return OKAY

    it.memory.respond = note
    await it.run()
    for response in (SLVERR, DECERR):
        for address in rng.sample(sorted(set(addresses)), 12):
            it.memory.respond = lambda a, is_write, address=address, response=response: response if a == address and not is_write else OKAY
            code, _, unit = await it.run()
            assert code is Code.AXI_READ_ERROR
            assert unit in (Unit.FETCH, Unit.LOAD)
            assert await it.bench.get("ERROR_ADDRESS") == address
            await it.good_list_runs()


@cocotb.test
async def write_errors(dut) -> None:
    it = Faulty(dut)
    await it.open()
    addresses: list[int] = []

    def note(address: int, is_write: bool) -> int:
        if is_write:
            addresses.append(address)
        return OKAY

    it.memory.respond = note
    await it.run()
    for response in (SLVERR, DECERR):
        for address in addresses[:: max(1, len(addresses) // 8)]:
            it.memory.respond = lambda a, is_write, address=address, response=response: response if a == address and is_write else OKAY
            code, _, unit = await it.run()
            assert (code, unit) == (Code.AXI_WRITE_ERROR, Unit.STORE)
            assert await it.bench.get("ERROR_ADDRESS") == address
            await it.good_list_runs()


@cocotb.test
async def flipped_bits(dut) -> None:
    it = Faulty(dut)
    await it.open()
    rng = random.Random(2)
    start = it.program.list_base - it.program.base
    for _ in range(FLIPS):
        bit = rng.randrange(it.program.list_length * COMMAND_BYTES * 8)
        image = it.program.before.copy()
        image[start + bit // 8] ^= 1 << bit % 8
        await it.run(image)  # raises where the status is not decoded or the list does not end
        assert not it.memory.outside, f"bit {bit}"
        await it.good_list_runs()


@cocotb.test
async def windows(dut) -> None:
    it = Faulty(dut)
    await it.open()
    changed = np.flatnonzero(it.program.before != it.program.after)
    last = it.program.base + int(changed[-1])
    for limit in (it.program.list_base + COMMAND_BYTES, it.program.list_base + it.program.list_length * COMMAND_BYTES, last):
        await it.bench.open(it.window[0], limit)
        code, _, _ = await it.run()
        assert code is Code.DRAM_WINDOW, f"limit {limit:#x}"
        assert not it.memory.outside
    await it.bench.open(*it.window)
    await it.good_list_runs()


@cocotb.test
async def watchdog(dut) -> None:
    it = Faulty(dut)
    await it.open()
    image = it.program.before.copy()
    image[it.program.list_base - it.program.base + 5] |= 0x80  # the first command waits for semaphore 15, which nobody gives
    code, _, _ = await it.run(image)
    assert code is Code.WATCHDOG
    await it.good_list_runs()


@cocotb.test
async def abort_and_restart(dut) -> None:
    it = Faulty(dut)
    await it.open()
    rng = random.Random(3)
    for _ in range(15):
        it.memory.image = it.program.before.copy()
        await it.bench.start(it.program.list_base, it.program.list_length)
        await ClockCycles(dut.aclk, rng.randrange(1200))
        await it.bench.set("CONTROL", 2)
        for _ in range(200):
            if not await it.bench.get("STATUS") & 1:
                break
        else:
            raise AssertionError("the machine stays busy after an abort")
        assert (await it.bench.status())[0] in (Code.HOST_ABORT, Code.OK)
        await it.good_list_runs()


@cocotb.test
async def doorbell_while_busy_is_refused(dut) -> None:
    it = Faulty(dut)
    await it.open()
    it.memory.image = it.program.before.copy()
    await it.bench.start(it.program.list_base, it.program.list_length)
    try:
        await it.bench.set("CONTROL", 1)
    except Refused:
        pass
    else:
        raise AssertionError("a second doorbell was taken")
    assert (await it.bench.end())[0] is Code.OK
    assert not it.program.difference(it.memory.image)


@cocotb.test
async def reset_in_the_middle(dut) -> None:
    """A reset of machine and memory together, at any time, leaves a machine that runs."""
    program = Program.load(Path(job()["programs"][0]))
    bench = Bench(dut)
    memory = bench.attach(program.base, program.before)
    await bench.reset()
    rng = random.Random(4)
    for _ in range(5):
        await bench.open(program.base, program.base + program.before.size)
        await bench.start(program.list_base, program.list_length)
        await ClockCycles(dut.aclk, rng.randrange(600))
        await bench.reset()
        memory.image = program.before.copy()
    await bench.open(program.base, program.base + program.before.size)
    await bench.run_program(program)
