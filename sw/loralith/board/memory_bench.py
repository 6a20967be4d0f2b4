"""The board's memory controller on sequential traffic and on that of training steps, as shares of the chip's peak."""

from __future__ import annotations

from typing import Any

from loralith.board.sdram import build_bench, controller_verilog, run_bench
from loralith.board.traffic import SMALL_MODEL, sequential, step_bursts
from loralith.compiler.schedules.training_step import Linear
from loralith.spec.config import Config, ConfigError
from loralith.spec.sdram import BEAT_BYTES

__all__ = ["LIMITS", "memory_shares"]

LIMITS = {"sequential_read": 0.85, "sequential_write": 0.85, "step": 0.75, "step_sd15": 0.75}
"""Least shares of the peak that are aimed at, by traffic."""


def memory_shares(config: Config, mhz: float, cas: int, beats: int, bursts: int) -> dict[str, Any]:
    """For each traffic of `LIMITS` its share of the peak, counts, and what it aims at.

    ``beats`` of a sequential run, at most ``bursts`` of a step of SD-1.5's layer; ``cas``: CAS latency. Raises ConfigError for a
    configuration whose bus is another than the controller's, and for numbers below 1.
    """
    if config.bus_bytes != BEAT_BYTES:
        raise ConfigError(f"the memory controller's bus has {BEAT_BYTES} bytes, not {config.bus_bytes}")
    if beats < 1 or bursts < 1:
        raise ConfigError(f"--beats and --bursts must be above 0, not {beats} and {bursts}")
    bench = build_bench(controller_verilog(mhz, cas))
    traffic = {
        "sequential_read": sequential(False, beats, config),
        "sequential_write": sequential(True, beats, config),
        "step": step_bursts(SMALL_MODEL, config),
        "step_sd15": step_bursts((Linear("attn 64x320", 64, 320, 320, 4),), config)[:bursts],
    }
    figures: dict[str, Any] = {"mhz": mhz, "cas": cas, "peak_mb_s": 2 * mhz}
    for name, sent in traffic.items():
        outcome = run_bench(bench, sent, mhz, outstanding=(config.outstanding_reads, config.outstanding_writes))
        figures[name] = {
            "of_peak": outcome.of_peak,
            "aimed_at": LIMITS[name],
            "bursts": len(sent),
            "read_beats": outcome.read_beats,
            "write_beats": outcome.write_beats,
            "cycles": outcome.cycles,
            "activates": outcome.activated,
        }
    return figures
