"""Programs at the bus pins: memory, status and counters, whatever the memory's timing."""

from pathlib import Path

import cocotb

from loralith.spec.status import Code
from loralith.verif.bench.bench import Bench
from loralith.verif.bench.program import Program
from loralith.verif.bench.runner import job


def programs() -> list[Program]:
    return [Program.load(Path(path)) for path in job()["programs"]]


async def each(dut, run) -> None:
    """One bench for all programs: memories keep what earlier lists left, as they do between a host's lists."""
    todo = programs()
    size = max(program.before.size for program in todo)
    bench = Bench(dut)
    memory = run(bench, todo[0].base, size)
    await bench.reset()
    for program in todo:
        memory.image = program.before.copy()
        await bench.open(program.base, program.base + program.before.size)
        await bench.run_program(program)


def image(size: int):
    import numpy as np

    return np.zeros(size, np.uint8)


@cocotb.test
async def plain(dut) -> None:
    await each(dut, lambda bench, base, size: bench.attach(base, image(size)))


@cocotb.test
async def stalled(dut) -> None:
    await each(dut, lambda bench, base, size: bench.attach(base, image(size), stall=0.1, latency=(0, 30), seed=3))


@cocotb.test
async def stalled_hard(dut) -> None:
    await each(dut, lambda bench, base, size: bench.attach(base, image(size), stall=0.5, latency=(0, 3), seed=4))


@cocotb.test
async def by_the_benchs_own_memory(dut) -> None:
    await each(dut, lambda bench, base, size: bench.attach_pins(base, image(size)))


@cocotb.test
async def back_to_back(dut) -> None:
    """The next doorbell follows at once, ten times, without a reset."""
    program = programs()[0]
    bench = Bench(dut)
    memory = bench.attach_pins(program.base, program.before)
    await bench.reset()
    await bench.open(program.base, program.base + program.before.size)
    for _ in range(10):
        memory.image = program.before.copy()
        assert (await bench.run(program.list_base, program.list_length))[0] is Code.OK
        assert not program.difference(memory.image)
