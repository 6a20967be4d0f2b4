"""`loralith bench memory`: the board's memory controller on sequential and on a training step's traffic, of the chip's peak."""

import argparse
from typing import Any

HELP = "the board's memory controller, of SDR's peak"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="ecp5", help="preset or JSON file whose bursts are sent, with a bus of 8 bytes (default: ecp5)")
    parser.add_argument("--mhz", type=float, default=100, help="clock (default: 100)")
    parser.add_argument("--cas", type=int, choices=(2, 3), default=3, help="CAS latency (default: 3)")
    parser.add_argument("--beats", type=int, default=32768, help="beats of a sequential run (default: 32768)")
    parser.add_argument("--bursts", type=int, default=10000, help="bursts of the SD-1.5 layer's step at most (default: 10000)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The share of the peak of each traffic, and what each has to reach."""
    from loralith.board.memory_bench import memory_shares
    from loralith.spec.config import load_config

    return memory_shares(load_config(args.config), args.mhz, args.cas, args.beats, args.bursts)


def show(figures: dict[str, Any]) -> None:
    from loralith.board.memory_bench import LIMITS
    from loralith.cli import output

    rows = [
        [name, f"{figures[name]['of_peak']:.1%}", f"{limit:.0%}", *(figures[name][key] for key in ("read_beats", "write_beats", "cycles"))]
        for name, limit in LIMITS.items()
    ]
    title = f"memory at {figures['mhz']:g} MHz, CAS latency {figures['cas']}: peak {figures['peak_mb_s']:g} MB/s"
    output.table(title, ["traffic", "of the peak", "aimed at", "read beats", "write beats", "cycles"], rows)
