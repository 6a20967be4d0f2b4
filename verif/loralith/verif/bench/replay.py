"""A cocotb test module: a program with a recorded run, which must take the same cycles and leave the same memory."""

import json
import time
from pathlib import Path

from loralith.verif.bench.program import Program
from loralith.verif.bench.runner import job
from loralith.verif.bench.testbench import Bench, case


@case
async def replay(dut) -> None:
    """Of `job()`: `program`, a file; `output`, a file for the figures {cycles, seconds, cpu_seconds}, or nothing."""
    data = job()
    program = Program.load(Path(data["program"]))
    bench = Bench(dut)
    memory = bench.attach_pins(program.base, program.before, program.trace)
    await bench.reset()
    await bench.open(program.base, program.base + program.before.size)
    started, cpu, cycles = time.perf_counter(), time.process_time(), memory.cycles
    await bench.run_program(program, most_cycles=2 * len(program.trace) + 100_000)
    seconds, cpu, cycles = time.perf_counter() - started, time.process_time() - cpu, memory.cycles - cycles
    if data.get("output"):
        figures = {"cycles": cycles, "seconds": seconds, "cpu_seconds": cpu}
        Path(data["output"]).write_text(json.dumps(figures), encoding="utf-8")
