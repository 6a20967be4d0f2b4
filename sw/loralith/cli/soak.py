"""`loralith soak`: random small products on the simulated hardware, every bit compared with numpy; with `--lists`, random command lists."""

import argparse
import secrets
import time
from dataclasses import asdict
from pathlib import Path

from loralith.cli import output, results, soak_lists

BATCH = 200


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("soak", help="run random products on the RTL and compare every bit with numpy")
    parser.add_argument("--products", type=int, default=20_000, metavar="N", help="how many (default: 20000)")
    parser.add_argument("--seed", type=int, help="of products and stalls; a random one, which is printed, by default")
    parser.add_argument("--config", default="tiny", help="preset or JSON file (default: tiny)")
    parser.add_argument(
        "--device", default="verilator", help="reference, direct, verilator, serial:<port> or pynq:<bitfile> (default: verilator)"
    )
    parser.add_argument("--stall", type=float, default=0.2, help="most probable stall per bus channel and cycle (default: 0.2)")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="write soak.json and soak.md there (with --lists, lists.json and lists.md)"
    )
    soak_lists.register(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Returns 1 when a product or a list came out wrong."""
    if args.lists or args.replay:
        return soak_lists.run(args)
    import numpy as np

    from loralith.device import open_device
    from loralith.device.reference import ReferenceDevice
    from loralith.device.soak import Soak

    if args.output:
        results.check(args.output / "soak", results.config_files(args))
    seed = secrets.randbits(32) if args.seed is None else args.seed
    rng = np.random.default_rng(seed)
    output.log(f"seed {seed}")
    started, cpu = time.monotonic(), time.process_time()
    mismatch = None
    with open_device(args.device, args.config) as device:
        soak = Soak(device, seed)
        while soak.done < args.products and mismatch is None:
            if args.device == "verilator":
                _stall(device, rng, args.stall)
            mismatch = soak.batch(min(BATCH, args.products - soak.done))
            if soak.lists % 10 == 0:
                output.log(f"{soak.done} products, {time.monotonic() - started:.0f} s")
        counters = device.counters()
    seconds, unit = time.monotonic() - started, device.cycle_unit or ReferenceDevice.cycle_unit  # a soak runs lists, on any device
    result = {
        "seed": seed,
        "config": args.config,
        "device": args.device,
        "products": soak.done,
        "lists": soak.lists,
        "mismatches": 0 if mismatch is None else 1,
        "first_mismatch": None if mismatch is None else asdict(mismatch),
        "cycles": counters.cycles,
        "cycle_unit": unit,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }
    if args.output:
        _record(args, result)
    if args.json:
        output.emit_json(result)
    elif mismatch is None:
        print(f"{soak.done} products in {soak.lists} lists, all exact (seed {seed}, {counters.cycles} {unit}, {seconds:.0f} s)")
    else:
        print(f"product {mismatch.product} of seed {seed} is wrong: {mismatch}")
    return 0 if mismatch is None else 1


def _record(args: argparse.Namespace, result: dict) -> None:
    command = f"loralith soak --products {args.products} --seed {result['seed']} --config {args.config} --device {args.device}"
    command += f" --stall {args.stall:g}"
    page = [
        f"{result['products']:,} random products of up to three tiles each way in {result['lists']:,} lists: folded, chained, added",
        "to the accumulate buffer, INT32 and INT8, with one scale and vectors of them, both roundings, stored straight and",
        "transposed. Latency and stalls of every bus channel are drawn anew for each list. Every result is compared with numpy.",
        "",
        "| figure | value |",
        "|---|---|",
        f"| configuration | {result['config']} |",
        f"| device | {result['device']} |",
        f"| seed | {result['seed']} |",
        f"| products | {result['products']:,} |",
        f"| wrong products | {result['mismatches']} |",
        f"| {'simulated cycles' if result['cycle_unit'] == 'cycles' else result['cycle_unit']} | {result['cycles']:,} |",
        f"| seconds | {result['seconds']:,} ({result['cpu_seconds']:,} of CPU time) |",
    ]
    if result["first_mismatch"]:
        page += ["", f"The first wrong one: {result['first_mismatch']}."]
    results.write(args.output / "soak", "Random products on the RTL", command, result, page, on_rtl=args.device == "verilator")


def _stall(device, rng, most: float) -> None:
    """Other stalls and latencies for the next list."""
    from loralith.device.native.library import CHANNELS
    from loralith.device.native.memory import MemoryTiming

    stall = {channel: float(rng.choice([0.0, rng.uniform(0, most)])) for channel in CHANNELS}
    latency = int(rng.choice([1, 10, 100]))
    device.configure(
        timing=MemoryTiming(latency, latency // 2, stall=stall, stall_length=int(rng.integers(1, 16)), seed=int(rng.integers(1 << 32)))
    )
