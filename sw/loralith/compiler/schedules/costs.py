"""Plain counts with which plans are ranked before the cycle model tries the best ones."""

from __future__ import annotations

from loralith.spec.config import Config

__all__ = ["BURST_WORDS", "COMPUTE_CYCLES", "LOAD_CYCLES", "READ_LATENCY", "load_cycles"]

LOAD_CYCLES, COMPUTE_CYCLES = 34, 28
"""Cycles that checking a command takes: shorter ones follow each other no faster."""
READ_LATENCY = 200
"""Cycles from a load's token to its first word, with other loads in between, that a schedule leaves room for."""
BURST_WORDS = 4
"""Words that the bus could move per burst, with as many bursts in flight as the read master keeps and answers after 100 cycles."""


def load_cycles(rows: int, row_bytes: int, config: Config) -> int:
    """Bus cycles of a load. A burst of few words costs as much as one of BURST_WORDS: only so many are in flight."""
    return max(rows * max(-(-row_bytes // config.bus_bytes), BURST_WORDS), LOAD_CYCLES)
