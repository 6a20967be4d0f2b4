"""Configurations that are small enough to build and to fill."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from loralith.spec.config import Config, ConfigError

__all__ = ["NARROW", "random_config", "random_vector_config"]

# More columns than rows, both of them few; BOTH is legal; bursts, queues and memories as small as they may be.
NARROW = Config(
    "narrow",
    2,
    8,
    8,
    8,
    1024,
    2048,
    1024,
    256,
    scale_bytes=64,
    stat_slots=8,
    queue_depth=2,
    outstanding_reads=3,
    outstanding_writes=2,
    max_burst=5,
)


def random_config(seed: int, most: int = 16) -> Config:
    """Of at most ``most`` rows and columns, unless the bus needs more of them."""
    rng = np.random.default_rng(seed)

    def power(low: int, high: int) -> int:
        return 1 << int(rng.integers(low.bit_length() - 1, high.bit_length()))

    while True:
        rows, cols = power(2, most), power(2, most)
        bus = int(rng.choice([8, 8, 16, 32, 64]))
        try:
            return Config(
                f"random{seed}",
                rows,
                cols,
                bus,
                power(1, min(cols, bus, 16)),
                bus * rows * power(4, 128),
                bus * cols * power(4, 128),
                bus * rows * power(4, 64),
                4 * rows * power(4, 256),
                4 * rows * power(4, 64),
                stat_slots=power(8, 64),
                queue_depth=int(rng.integers(2, 9)),
                outstanding_reads=int(rng.integers(1, 33)),
                outstanding_writes=int(rng.integers(1, 33)),
                max_burst=int(rng.choice([1, 2, 3, 16, 64, 256])),
            )
        except ConfigError:
            continue


def random_vector_config(seed: int, most: int = 16) -> Config:
    """The random configuration of a seed with a vector unit of any lanes and small scratchpads."""
    rng, config = np.random.default_rng((seed, 1)), random_config(seed, most)
    lanes, first, second = (1 << int(rng.integers(low, high + 1)) for low, high in ((1, config.rows.bit_length() - 1), (4, 8), (4, 8)))
    return replace(config, name=f"random-vector{seed}", vector_lanes=lanes, v0_words=first, v1_words=second)
