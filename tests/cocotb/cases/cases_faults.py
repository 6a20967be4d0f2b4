"""What goes wrong at the bus pins: error responses, windows, watchdog, abort, broken commands. The next list always runs right."""

import random
from pathlib import Path

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles

from loralith.spec.commands import COMMAND_BYTES
from loralith.spec.status import Code, Unit
from loralith.verif.bench.pins import CHANNELS, DECERR, OKAY, SLVERR
from loralith.verif.bench.program import Program
from loralith.verif.bench.runner import job
from loralith.verif.bench.testbench import Bench, Refused, case

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


@case
async def read_errors(dut) -> None:
    it = Faulty(dut)
    await it.open()
    addresses: list[int] = []

    def note(address: int, is_write: bool) -> int:
        if not is_write:
            addresses.append(address)
        return OKAY

    it.memory.respond = note
    await it.run()
    for response in (SLVERR, DECERR):
        for address in sorted(set(addresses)):
            it.memory.respond = lambda a, is_write, address=address, response=response: response if a == address and not is_write else OKAY
            code, _, unit = await it.run()
            in_list = 0 <= address - it.program.list_base < it.program.list_length * COMMAND_BYTES
            assert (code, unit) == (Code.AXI_READ_ERROR, Unit.FETCH if in_list else Unit.LOAD)
            assert await it.bench.get("ERROR_ADDRESS") == address
            await it.good_list_runs()


@case
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
        for address in addresses:
            it.memory.respond = lambda a, is_write, address=address, response=response: response if a == address and is_write else OKAY
            code, _, unit = await it.run()
            assert (code, unit) == (Code.AXI_WRITE_ERROR, Unit.STORE)
            assert await it.bench.get("ERROR_ADDRESS") == address
            await it.good_list_runs()


@cocotb.test(timeout_time=1000, timeout_unit="ms")  # two lists for each bit of one
async def flipped_bits(dut) -> None:
    it = Faulty(dut)
    await it.open()
    start, bits = it.program.list_base - it.program.base, it.program.list_length * COMMAND_BYTES * 8
    flips = job()["flips"]
    for bit in range(bits) if flips == "all" else random.Random(2).sample(range(bits), flips):
        image = it.program.before.copy()
        image[start + bit // 8] ^= 1 << bit % 8
        await it.run(image)  # raises where the status is not decoded or the list does not end
        assert not it.memory.outside, f"bit {bit}"
        await it.good_list_runs()


@case
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


@case
async def watchdog(dut) -> None:
    it = Faulty(dut)
    await it.open()
    image = it.program.before.copy()
    image[it.program.list_base - it.program.base + 5] |= 0x80  # the first command waits for semaphore 15, which nobody gives
    code, _, _ = await it.run(image)
    assert code is Code.WATCHDOG
    await it.good_list_runs()


@case
async def silent_memory(dut) -> None:
    """A channel that stands still expires the watchdog; the machine takes in what is outstanding once it moves again."""
    it = Faulty(dut)
    await it.open()
    for name, channel in CHANNELS.items():
        it.memory.image, it.memory.silent = it.program.before.copy(), channel
        await it.bench.start(it.program.list_base, it.program.list_length)
        await ClockCycles(dut.aclk, 2 * WATCHDOG + 2000)
        assert (await it.bench.status())[0] is Code.WATCHDOG, name
        it.memory.silent = 0
        assert (await it.bench.end())[0] is Code.WATCHDOG, name
        assert not await it.bench.get("STATUS") & 1, name
        await it.good_list_runs()


@case
async def error_responses_of_the_other_memory(dut) -> None:
    """SLVERR from cocotbext-axi's slave, under stalls."""
    program = Program.load(Path(job()["programs"][0]))
    bench = Bench(dut)
    memory = bench.attach(program.base, program.before, stall=0.2, latency=(0, 20), seed=5)
    await bench.reset()
    await bench.open(program.base, program.base + program.before.size)
    written = program.base + int(np.flatnonzero(program.before != program.after)[0])
    for is_write, code in ((False, Code.AXI_READ_ERROR), (True, Code.AXI_WRITE_ERROR)):
        for _ in range(5):
            memory.image = program.before.copy()
            memory.fail = lambda address, write, is_write=is_write: write == is_write and (not write or address == written)
            assert (await bench.run(program.list_base, program.list_length))[0] is code
            memory.fail = lambda address, write: False
            memory.image = program.before.copy()
            await bench.run_program(program)


@case
async def abort_and_restart(dut) -> None:
    it = Faulty(dut)
    await it.open()
    rng = random.Random(3)
    for _ in range(30):
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


@case
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


@case
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
