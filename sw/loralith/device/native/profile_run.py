"""What a profiled build runs between its two compilations: one LoRA layer's step, which uses every unit of the machine.

`python -m loralith.device.native.profile_run LIBRARY CONFIG` runs it on a library, in a process of its own: the
profile is written at its end.
"""

import sys
from pathlib import Path

import numpy as np

from loralith.compiler.schedules.training_step import Linear, compile_step, place
from loralith.device.verilator import VerilatorDevice
from loralith.spec.config import load_config


def main(library: str, source: str) -> None:
    config = load_config(source)
    side = max(64, 4 * config.rows, 4 * config.cols)
    linear = Linear("exercise", side, side, side, 4)
    with VerilatorDevice(config, memory_bytes=1 << 26, library=Path(library)) as device:
        start = device.alloc(place(linear, 0, config)[1], 4096)
        tensors, end = place(linear, start, config)
        device.write(start, np.random.default_rng(0).integers(0, 256, end - start, dtype=np.uint8))
        device.write(tensors.zeros, bytes(64))
        device.run(compile_step([(linear, tensors)], config))


if __name__ == "__main__":
    main(*sys.argv[1:])
