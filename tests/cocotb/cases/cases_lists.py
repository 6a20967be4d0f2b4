"""Programs at the bus pins: memory, status and counters, whatever the memory's timing."""

from pathlib import Path

import numpy as np
from cocotb.triggers import SimTimeoutError

from loralith.spec.status import Code
from loralith.verif.bench.program import Program
from loralith.verif.bench.runner import job
from loralith.verif.bench.testbench import Bench, case


def programs() -> dict[str, Program]:
    return {Path(path).stem: Program.load(Path(path)) for path in job()["programs"]}


async def each(dut, run) -> None:
    """One bench for all programs: memories keep what earlier lists left, as they do between a host's lists."""
    todo = programs()
    size = max(program.before.size for program in todo.values())
    bench = Bench(dut)
    memory = run(bench, next(iter(todo.values())).base, size)
    await bench.reset()
    for name, program in todo.items():
        memory.image = program.before.copy()
        await bench.open(program.base, program.base + program.before.size)
        try:
            await bench.run_program(program)
        except (AssertionError, SimTimeoutError) as error:
            raise AssertionError(f"{name}: {error}") from error


def image(size: int) -> np.ndarray:
    return np.zeros(size, np.uint8)


@case
async def plain(dut) -> None:
    await each(dut, lambda bench, base, size: bench.attach(base, image(size)))


@case
async def stalled(dut) -> None:
    await each(dut, lambda bench, base, size: bench.attach(base, image(size), stall=0.1, latency=(0, 30), seed=3))


@case
async def stalled_hard(dut) -> None:
    await each(dut, lambda bench, base, size: bench.attach(base, image(size), stall=0.5, latency=(0, 3), seed=4))


@case
async def by_the_benchs_own_memory(dut) -> None:
    await each(dut, lambda bench, base, size: bench.attach_pins(base, image(size)))


@case
async def back_to_back(dut) -> None:
    """The next doorbell follows at once, ten times, without a reset."""
    program = next(iter(programs().values()))
    bench = Bench(dut)
    memory = bench.attach_pins(program.base, program.before)
    await bench.reset()
    await bench.open(program.base, program.base + program.before.size)
    for _ in range(10):
        memory.image = program.before.copy()
        assert (await bench.run(program.list_base, program.list_length))[0] is Code.OK
        assert not program.difference(memory.image)
