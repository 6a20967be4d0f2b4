"""Configurations that tests of single blocks share: bus words wider, narrower and as wide as the array's lanes."""

from loralith.spec.config import PRESETS, Config

__all__ = ["SHAPES", "SQUARE"]

SIZES = {"left_bytes": 16384, "right_bytes": 16384, "out_bytes": 8192, "acc_bytes": 1024, "scale_bytes": 512, "max_fold": 4}
SHAPES = [
    PRESETS["tiny"],
    Config("narrow", rows=2, cols=16, bus_bytes=8, **SIZES),
    Config("wide", rows=8, cols=4, bus_bytes=32, **SIZES),
    Config("tall", rows=32, cols=4, bus_bytes=8, **SIZES),
]
SQUARE = Config("square", rows=16, cols=16, bus_bytes=16, **SIZES)
