"""`loralith bench memory`: the board's memory controller on sequential and on a training step's traffic, of the chip's peak."""

import argparse
from typing import Any

HELP = "the board's memory controller, of SDR's peak"
LIMITS = {"sequential_read": 0.85, "sequential_write": 0.85, "step": 0.75, "step_sd15": 0.75}
"""Least shares of the peak that are aimed at."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="ecp5", help="preset or JSON file whose bursts are sent, with a bus of 8 bytes (default: ecp5)")
    parser.add_argument("--mhz", type=float, default=100, help="clock (default: 100)")
    parser.add_argument("--cas", type=int, choices=(2, 3), default=3, help="CAS latency (default: 3)")
    parser.add_argument("--beats", type=int, default=32768, help="beats of a sequential run (default: 32768)")
    parser.add_argument("--bursts", type=int, default=10000, help="bursts of the SD-1.5 layer's step at most (default: 10000)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The share of the peak of each traffic, and what each has to reach."""
    from loralith.board.sdram import build_bench, controller_verilog, run_bench
    from loralith.board.traffic import SMALL_MODEL, sequential, step_bursts
    from loralith.compiler.schedules.training_step import Linear
    from loralith.spec.config import ConfigError, load_config
    from loralith.spec.sdram import BEAT_BYTES

    config = load_config(args.config)
    if config.bus_bytes != BEAT_BYTES:
        raise ConfigError(f"the memory controller's bus has {BEAT_BYTES} bytes, not {config.bus_bytes}")
    if args.beats < 1 or args.bursts < 1:
        raise ConfigError(f"--beats and --bursts must be above 0, not {args.beats} and {args.bursts}")
    bench = build_bench(controller_verilog(args.mhz, args.cas))
    traffic = {
        "sequential_read": sequential(False, args.beats, config),
        "sequential_write": sequential(True, args.beats, config),
        "step": step_bursts(SMALL_MODEL, config),
        "step_sd15": step_bursts((Linear("attn 64x320", 64, 320, 320, 4),), config)[: args.bursts],
    }
    figures: dict[str, Any] = {"mhz": args.mhz, "cas": args.cas, "peak_mb_s": 2 * args.mhz}
    for name, bursts in traffic.items():
        outcome = run_bench(bench, bursts, args.mhz, outstanding=(config.outstanding_reads, config.outstanding_writes))
        figures[name] = {
            "of_peak": outcome.of_peak,
            "aimed_at": LIMITS[name],
            "bursts": len(bursts),
            "read_beats": outcome.read_beats,
            "write_beats": outcome.write_beats,
            "cycles": outcome.cycles,
            "activates": outcome.activated,
        }
    return figures


def show(figures: dict[str, Any]) -> None:
    from loralith.cli import output

    rows = [
        [name, f"{figures[name]['of_peak']:.1%}", f"{limit:.0%}", *(figures[name][key] for key in ("read_beats", "write_beats", "cycles"))]
        for name, limit in LIMITS.items()
    ]
    title = f"memory at {figures['mhz']:g} MHz, CAS latency {figures['cas']}: peak {figures['peak_mb_s']:g} MB/s"
    output.table(title, ["traffic", "of the peak", "aimed at", "read beats", "write beats", "cycles"], rows)
