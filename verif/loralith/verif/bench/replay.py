"""A cocotb test module: a program with a recorded run, which must take the same cycles and leave the same memory."""

import json
import time
from pathlib import Path

import cocotb

from loralith.verif.bench.bench import Bench
from loralith.verif.bench.program import Program
from loralith.verif.bench.runner import job


@cocotb.test
async def replay(dut) -> None:
    """Of `job()`: `program`, a file; `output`, a file for the figures {cycles, seconds, cycles_per_second}, or nothing."""
    data = job()
    program = Program.load(Path(data["program"]))
    bench = Bench(dut)
    memory = bench.attach_pins(program.base, program.before, program.trace)
    await bench.reset()
    await bench.open(program.base, program.base + program.before.size)
    started, cycles = time.perf_counter(), memory.cycles
    await bench.run_program(program, most_cycles=2 * len(program.trace) + 100_000)
    seconds, cycles = time.perf_counter() - started, memory.cycles - cycles
    if data.get("output"):
        figures = {"cycles": cycles, "seconds": seconds, "cycles_per_second": cycles / seconds}
        Path(data["output"]).write_text(json.dumps(figures), encoding="utf-8")
