"""`loralith bench simulator`: simulated cycles per second, native and under cocotb, of one program on the same Verilog."""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from loralith.reports import result_files as results

HELP = "simulated cycles per second, native and under cocotb"
SUFFIXES = (".json", ".md")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="base", help="preset or JSON file (default: base)")
    parser.add_argument("--size", type=int, default=192, help="the program multiplies two matrices of this size (default: 192)")
    parser.add_argument("--repeat", type=int, default=10, help="native runs, of which the median counts (default: 10)")
    parser.add_argument("--profiled", action="store_true", help="compile the native model by a profile of a short run")
    parser.add_argument("--output", type=Path, metavar="STEM", help="write STEM.json and STEM.md too")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Figures by name. Both simulations run the same list on the same memory; cocotb replays the native run's handshakes, and fails
    where a cycle or a byte differs.

    Rates are per second of the process's CPU time, which other work on the machine disturbs least; those named wall are by the clock.
    """
    import statistics
    import time

    import numpy as np

    from loralith.cli import output
    from loralith.compiler.schedules.matmul import compile_matmul, plan_matmul
    from loralith.device.native.build import cache_folder, verilog
    from loralith.device.native.recording import capture
    from loralith.device.verilator import VerilatorDevice
    from loralith.spec.config import load_config
    from loralith.toolchain import find_verilator
    from loralith.verif.bench.program import Program
    from loralith.verif.bench.runner import build, simulate

    config, n = load_config(args.config), args.size
    rng = np.random.default_rng(1)
    plan = plan_matmul(n, n, n, config)
    layouts = plan.layouts(config)
    speeds: list[float] = []
    walls: list[float] = []
    busy = 0.0
    with VerilatorDevice(config, memory_bytes=1 << 24, profiled=args.profiled) as device:
        addresses = [device.alloc(layout.nbytes) for layout in layouts]
        for layout, address in zip(layouts[:2], addresses, strict=False):
            device.write(address, layout.pack(rng.integers(-128, 128, (layout.rows, layout.cols), dtype=np.int8)))
        commands = compile_matmul(plan, addresses[0], addresses[1], addresses[2], config)
        for _ in range(args.repeat):
            wall, cpu = time.perf_counter(), time.process_time()
            result = device.run(commands)
            speeds.append(result.counters.cycles / (time.process_time() - cpu))
            walls.append(result.counters.cycles / (time.perf_counter() - wall))
            busy = result.counters.busy / result.counters.cycles
        program = Program(**vars(capture(device, commands)))
    native = statistics.median(speeds)
    output.log(f"native: {native:,.0f} cycles per CPU second")
    environment, os.environ = os.environ.copy(), os.environ
    os.environ.update(find_verilator().env)  # cocotb's runner looks nowhere else
    try:
        with tempfile.TemporaryDirectory() as folder:
            program.save(Path(folder) / "program.safetensors")
            data = {"program": Path(folder) / "program.safetensors", "output": Path(folder) / "figures.json"}
            model = build(verilog(config), cache_folder().parent / "cocotb")
            simulate(model, "loralith.verif.bench.replay", Path(folder), data=data)
            slow = json.loads((Path(folder) / "figures.json").read_text(encoding="utf-8"))
    finally:
        os.environ.clear()
        os.environ.update(environment)
    cocotb = slow["cycles"] / slow["cpu_seconds"]
    figures = {
        "config": config.name,
        "native_build": "profiled" if args.profiled else "plain",
        "program": f"INT8 product, {n} x {n} x {n}",
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
    if args.output:
        command = f"loralith bench simulator --config {args.config} --size {n} --repeat {args.repeat}" + " --profiled" * args.profiled
        page = [
            "Rates are per second of CPU time of one core; those named wall are by the clock. *Busy*: of cycles in which the array works;"
        ]
        page += ["all cycles are taken to last the same time.", "", "| figure | value |", "|---|---|"]
        page += [f"| {name} | {f'{value:,}' if isinstance(value, int) else value} |" for name, value in figures.items()]
        results.write(args.output, "How fast the simulations are", command, figures, page)
    return figures
