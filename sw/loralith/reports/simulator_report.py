"""How fast the simulations of the RTL are: one product natively and under cocotb, on the same Verilog and the same memory."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from loralith.compiler.schedules.matmul import compile_matmul, plan_matmul
from loralith.device.native.build import cache_folder, verilog
from loralith.device.native.recording import capture
from loralith.device.verilator import VerilatorDevice
from loralith.spec.config import Config
from loralith.toolchain import find_verilator
from loralith.verif.bench.program import Program

__all__ = ["TITLE", "page", "simulator_figures"]

TITLE = "How fast the simulations are"


def simulator_figures(config: Config, size: int, repeat: int, profiled: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Figures by name, of a product of two matrices [size, size]. Both simulations run the same list on the same memory; cocotb replays
    the native run's handshakes, and fails where a cycle or a byte differs.

    Rates are per second of the process's CPU time, which other work on the machine disturbs least; those named wall are by the clock. Of
    ``repeat`` native runs the median counts. ``profiled``: the native model is compiled by a profile of a short run.
    """
    from loralith.verif.bench import runner  # before anything is measured: here it is said where cocotb is missing

    rates, walls, busy, program = _native(config, size, repeat, profiled)
    native = statistics.median(rates)
    say(f"native: {native:,.0f} cycles per CPU second")
    slow = _under_cocotb(runner, config, program)
    cocotb = slow["cycles"] / slow["cpu_seconds"]
    return {
        "config": config.name,
        "native_build": "profiled" if profiled else "plain",
        "program": f"INT8 product, {size} x {size} x {size}",
        "cycles": program.counters["cycles"],
        "busy": round(busy, 4),
        "native_cycles_per_second": round(native),
        "cocotb_cycles_per_second": round(cocotb),
        "native_over_cocotb": round(native / cocotb, 1),
        "native_cycles_per_second_wall": round(statistics.median(walls)),
        "cocotb_cycles_per_second_wall": round(slow["cycles"] / slow["seconds"]),
        "native_macs_per_second": round(native * program.counters["macs"] / program.counters["cycles"]),
        "native_macs_per_second_busy": round(native * config.rows * config.cols),
        "native_macs_per_second_wall": round(statistics.median(walls) * program.counters["macs"] / program.counters["cycles"]),
    }


def _native(config: Config, size: int, repeat: int, profiled: bool) -> tuple[list[float], list[float], float, Program]:
    """Cycles per CPU second and per second of each run, the share of busy cycles, and a recorded run."""
    rng = np.random.default_rng(1)
    plan = plan_matmul(size, size, size, config)
    layouts = plan.layouts(config)
    rates, walls, busy = [], [], 0.0
    with VerilatorDevice(config, memory_bytes=1 << 24, profiled=profiled) as device:
        addresses = [device.alloc(layout.nbytes) for layout in layouts]
        for layout, address in zip(layouts[:2], addresses, strict=False):
            device.write(address, layout.pack(rng.integers(-128, 128, (layout.rows, layout.cols), dtype=np.int8)))
        commands = compile_matmul(plan, addresses[0], addresses[1], addresses[2], config)
        for _ in range(repeat):
            wall, cpu = time.perf_counter(), time.process_time()
            result = device.run(commands)
            rates.append(result.counters.cycles / (time.process_time() - cpu))
            walls.append(result.counters.cycles / (time.perf_counter() - wall))
            busy = result.counters.busy / result.counters.cycles
        return rates, walls, busy, Program(**vars(capture(device, commands)))


def _under_cocotb(runner: Any, config: Config, program: Program) -> dict[str, Any]:
    """Cycles and seconds of the program's replay; ``runner``: `loralith.verif.bench.runner`."""
    environment = os.environ.copy()
    os.environ.update(find_verilator().env)  # cocotb's runner looks nowhere else
    try:
        with tempfile.TemporaryDirectory() as folder:
            program.save(Path(folder) / "program.safetensors")
            data = {"program": Path(folder) / "program.safetensors", "output": Path(folder) / "figures.json"}
            model = runner.build(verilog(config), cache_folder().parent / "cocotb")
            runner.simulate(model, "loralith.verif.bench.replay", Path(folder), data=data)
            return json.loads((Path(folder) / "figures.json").read_text(encoding="utf-8"))
    finally:
        os.environ.clear()
        os.environ.update(environment)


def page(figures: dict[str, Any]) -> list[str]:
    """The figures as Markdown."""
    lines = ["Rates are per second of CPU time of one core; those named wall are by the clock. *Busy*: of cycles in which the array works;"]
    lines += ["all cycles are taken to last the same time.", "", "| figure | value |", "|---|---|"]
    return lines + [f"| {name} | {f'{value:,}' if isinstance(value, int) else value} |" for name, value in figures.items()]
